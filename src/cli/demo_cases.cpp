#include "demo_cases.h"

#include <utility>

#include "embedded.h"

namespace exactnorm::cli {
namespace {

std::vector<float> to_float(const std::vector<double>& values) {
  std::vector<float> result;
  result.reserve(values.size());
  for (const double value : values) result.push_back(static_cast<float>(value));
  return result;
}

// W (hidden, features) times the transpose of X (examples, features). The data makes every product and sum
// exact in float64.
std::vector<double> fully_connected(const std::vector<double>& w, const std::vector<double>& x, std::size_t features) {
  const std::size_t hidden = w.size() / features;
  const std::size_t examples = x.size() / features;
  std::vector<double> z(hidden * examples);
  for (std::size_t i = 0; i < hidden; ++i) {
    for (std::size_t j = 0; j < examples; ++j) {
      for (std::size_t k = 0; k < features; ++k) z[i * examples + j] += w[i * features + k] * x[j * features + k];
    }
  }
  return z;
}

// Filters (c, 3, 3) over images (m, 8, 8) without padding: z is (6, 6, c, m), of small integers.
std::vector<double> convolution(const std::vector<double>& filters, const std::vector<double>& images) {
  constexpr std::size_t side = 8;
  constexpr std::size_t filter_side = 3;
  constexpr std::size_t result_side = side - filter_side + 1;
  const std::size_t channels = filters.size() / (filter_side * filter_side);
  const std::size_t examples = images.size() / (side * side);
  std::vector<double> z(result_side * result_side * channels * examples);
  std::size_t at = 0;
  for (std::size_t h = 0; h < result_side; ++h) {
    for (std::size_t w = 0; w < result_side; ++w) {
      for (std::size_t c = 0; c < channels; ++c) {
        for (std::size_t m = 0; m < examples; ++m, ++at) {
          for (std::size_t tap = 0; tap < filter_side * filter_side; ++tap) {
            const std::size_t row = h + tap / filter_side;
            const std::size_t column = w + tap % filter_side;
            z[at] += filters[c * filter_side * filter_side + tap] * images[(m * side + row) * side + column];
          }
        }
      }
    }
  }
  return z;
}

// The notebook's own epsilon, which is not PyTorch's: with deviations in the tens it does not show.
Options notebook_options(Index channel_axis) {
  return {.channel_axes = {channel_axis}, .epsilon = 1e-8, .epsilon_placement = EpsilonPlacement::deviation};
}
constexpr const char* notebook_convention =
    "epsilon: ours 1e-8 added to the deviation, PyTorch's 1e-5 added to the variance";
Tolerance default_tolerance() { return {1e-8, 1e-5, "|a - b| <= 1e-8 + 1e-5 |b|, NumPy's default"}; }

// Where a deviation may be small or zero both sides need one epsilon, and 1e-8 is less than what PyTorch's
// float32 rounds off.
Options pytorch_options(Index channel_axis) { return {.channel_axes = {channel_axis}, .epsilon = pytorch_epsilon}; }
constexpr const char* pytorch_convention = "epsilon: 1e-5 added to the variance by both";
Tolerance digits_tolerance() { return {1e-6, 1e-5, "|a - b| <= 1e-6 + 1e-5 |b|"}; }

}  // namespace

std::vector<DemoCase> make_demo_cases() {
  const EmbeddedArray digits = read_embedded(Embedded::digits);
  std::vector<DemoCase> cases;
  const auto add = [&](DemoCase demo_case, const std::vector<double>& z, Embedded pytorch) {
    EmbeddedArray recorded = read_embedded(pytorch);
    demo_case.shape = recorded.shape;
    demo_case.z = to_float(z);
    demo_case.pytorch = to_float(recorded.values);
    cases.push_back(std::move(demo_case));
  };
  const auto random_weights = read_embedded(Embedded::fully_connected_random_weights);
  const auto random_input = read_embedded(Embedded::fully_connected_random_input);
  add({.name = "fully_connected_random",
       .title = "Fully connected layer, random integers",
       .formula = "Z = W X",
       .options = notebook_options(0),
       .convention = notebook_convention,
       .tolerance = default_tolerance(),
       .shows_rows = true},
      fully_connected(random_weights.values, random_input.values, 6), Embedded::fully_connected_random_pytorch);

  const auto digits_weights = read_embedded(Embedded::fully_connected_digits_weights);
  add({.name = "fully_connected_digits",
       .title = "Fully connected layer, 1797 handwritten digits",
       .formula = "Z = W X",
       .options = pytorch_options(0),
       .convention = pytorch_convention,
       .tolerance = digits_tolerance()},
      fully_connected(digits_weights.values, digits.values, 64), Embedded::fully_connected_digits_pytorch);

  add({.name = "convolution_random",
       .title = "Convolution, random integers",
       .formula = "Z",
       .channel_axis = 2,
       .options = notebook_options(2),
       .convention = notebook_convention,
       .tolerance = default_tolerance()},
      read_embedded(Embedded::convolution_random_input).values, Embedded::convolution_random_pytorch);

  const auto filters = read_embedded(Embedded::convolution_digits_filters);
  add({.name = "convolution_digits",
       .title = "Convolution, 1797 handwritten digits",
       .formula = "Z = filters * X",
       .channel_axis = 2,
       .options = pytorch_options(2),
       .convention = pytorch_convention,
       .tolerance = digits_tolerance()},
      convolution(filters.values, digits.values), Embedded::convolution_digits_pytorch);
  return cases;
}

}  // namespace exactnorm::cli

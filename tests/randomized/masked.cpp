#include "randomized/masked.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "exactnorm/batch_norm.h"
#include "exactnorm/info.h"
#include "support/compare.h"
#include "support/tensor.h"

namespace exactnorm::testing {

namespace {

constexpr double before = 7;

Tensor strided(Random& random, DType dtype, const IndexList& shape, const std::vector<double>& values) {
  Tensor tensor =
      Tensor::strided(dtype, shape, random.chance(0.3) ? contiguous_strides(shape) : random_strides(random, shape));
  tensor.fill(values);
  return tensor;
}

// An output that holds 7.
Tensor output(Random& random, DType dtype, const IndexList& shape) {
  return strided(random, dtype, shape, std::vector<double>(static_cast<std::size_t>(product(shape)), before));
}

bool same_statistics(const Statistics& a, const Statistics& b) {
  return a.count == b.count && same_numbers(a.mean, b.mean) && same_numbers(a.mean_residual, b.mean_residual) &&
         same_numbers(a.variance, b.variance) && same_numbers(a.inverse_deviation, b.inverse_deviation);
}

struct Data {
  const std::vector<double>& x;
  const std::vector<double>& dy;
  const std::vector<double>& residual;
  const IndexList& shape;
};

MaskedResults run_passes(const Case& test, const Data& data, const std::optional<Mask>& mask, const Options& options,
                         Environment environment, Random& random) {
  const Tensor x = strided(random, test.x_dtype, data.shape, data.x);
  const Tensor dy = strided(random, test.dy_dtype, data.shape, data.dy);
  const Tensor gamma(DType::float64, {test.channels()}, test.gamma);
  const Tensor beta(DType::float64, {test.channels()}, test.beta);
  Tensor y = output(random, test.out_dtype, data.shape);
  Tensor dx = output(random, test.out_dtype, data.shape);
  Tensor d_residual = output(random, test.dy_dtype, data.shape);
  Tensor dgamma(DType::float64, {test.channels()});
  Tensor dbeta(DType::float64, {test.channels()});
  Affine affine = {.gamma = gamma.view(), .beta = beta.view(), .mask = mask};
  Gradients gradients = {.dx = dx.view(), .dgamma = dgamma.view(), .dbeta = dbeta.view()};
  std::optional<Tensor> residual;
  if (!test.residual.empty()) {
    residual = strided(random, DType::float32, data.shape, data.residual);
    affine.residual = std::as_const(*residual).view();
    gradients.d_residual = d_residual.view();
  }
  MaskedResults results;
  {
    const ScopedEnvironment of_library(environment);
    results.statistics = training(x.view(), y.view(), affine, options);
    backward(dy.view(), x.view(), results.statistics, affine, gradients, options);
  }
  results.y = y.values();
  results.dx = dx.values();
  results.d_residual = d_residual.values();
  results.dgamma = dgamma.values();
  results.dbeta = dbeta.values();
  return results;
}

// Activations of what float32 holds refuse outputs of float64.
bool takes_output(const Case& test) {
  return test.masked_options.activation == Activation::none || test.out_dtype != DType::float64 ||
         test.x_dtype == DType::float64;
}

}  // namespace

std::optional<std::string> MaskedResults::difference(const MaskedResults& other) const {
  const std::pair<const char*, std::vector<double> MaskedResults::*> members[] = {
      {"masked y", &MaskedResults::y},
      {"masked dx", &MaskedResults::dx},
      {"masked d_residual", &MaskedResults::d_residual},
      {"masked dgamma", &MaskedResults::dgamma},
      {"masked dbeta", &MaskedResults::dbeta}};
  for (const auto& [name, member] : members) {
    if (!same_numbers(this->*member, other.*member)) return name;
  }
  if (!same_statistics(statistics, other.statistics)) return "statistics of a mask";
  return std::nullopt;
}

MaskedResults run_masked(const Case& test, const Setting& setting) {
  if (!takes_output(test)) return {};
  const TargetRestorer restorer;
  set_target(setting.target);
  Random random(setting.layout + 1);
  Options options = test.masked_options;
  options.threads = setting.threads;
  const Tensor selected = strided(random, DType::boolean, test.mask_shape, test.mask);
  const Mask mask(selected.view(), test.masked_output);
  return run_passes(test, {test.x, test.dy, test.residual, test.shape}, mask, options, setting.environment, random);
}

std::string check_masked(const Case& test, const MaskedResults& results) {
  if (!takes_output(test)) return "";
  // What the mask says of each element, and its channel; then the selected elements of each channel side by side.
  const std::vector<Index> channel_of = test.channel_of_elements();
  std::vector<std::vector<std::size_t>> selected(test.gamma.size());
  std::vector<bool> is_selected;
  for (std::size_t i = 0; i < channel_of.size(); ++i) {
    const IndexList at = unravel(static_cast<Index>(i), test.shape);
    Index position = 0;
    for (std::size_t axis = 0; axis < at.size(); ++axis) {
      position = position * test.mask_shape[axis] + (test.mask_shape[axis] == 1 ? 0 : at[axis]);
    }
    is_selected.push_back(test.mask[static_cast<std::size_t>(position)] != 0);
    if (is_selected.back()) selected[static_cast<std::size_t>(channel_of[i])].push_back(i);
  }
  const auto rows = static_cast<Index>(selected.front().size());
  std::vector<double> x;
  std::vector<double> dy;
  std::vector<double> residual;
  for (const std::vector<std::size_t>& of_channel : selected) {
    for (const std::size_t i : of_channel) {
      x.push_back(test.x[i]);
      dy.push_back(test.dy[i]);
      residual.push_back(test.residual.empty() ? 0 : test.residual[i]);
    }
  }
  const IndexList shape = {test.channels(), rows};
  Options options = test.masked_options;
  options.channel_axes = {0};
  options.threads = 1;
  Random random(test.seed);
  const MaskedResults alone =
      run_passes(test, {x, dy, residual, shape}, std::nullopt, options, Environment::standard, random);
  if (!same_statistics(results.statistics, alone.statistics))
    return "statistics are not those of the selected elements";
  const bool has_normalized = test.masked_output == MaskedOutput::normalized;
  // dy of elements that are normalized beside the others has its part in gradients.
  if (!has_normalized && !same_numbers(results.dgamma, alone.dgamma)) return "masked dgamma";
  if (!has_normalized && !same_numbers(results.dbeta, alone.dbeta)) return "masked dbeta";
  const auto same = [](double a, double b) { return (std::isnan(a) && std::isnan(b)) || same_numbers({a}, {b}); };
  std::size_t at = 0;
  for (const std::vector<std::size_t>& of_channel : selected) {
    for (const std::size_t i : of_channel) {
      if (!same(results.y[i], alone.y[at])) return "masked y of element " + std::to_string(i);
      if (!has_normalized && !same(results.dx[i], alone.dx[at])) return "masked dx of element " + std::to_string(i);
      if (!same(results.d_residual[i], alone.d_residual[at]))
        return "masked d_residual of element " + std::to_string(i);
      ++at;
    }
  }
  if (has_normalized) return "";
  const double left = test.masked_output == MaskedOutput::zero ? 0 : before;
  for (std::size_t i = 0; i < is_selected.size(); ++i) {
    if (is_selected[i]) continue;
    if (results.y[i] != left || results.dx[i] != left) return "what is left out, at element " + std::to_string(i);
    if (!test.residual.empty() && results.d_residual[i] != left) return "d_residual of what is left out";
  }
  return "";
}

}  // namespace exactnorm::testing

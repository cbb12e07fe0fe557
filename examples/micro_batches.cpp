// One batch in several pieces, as gradient accumulation has it: statistics of all pieces first, then each piece by
// itself. Prints whether the results are, bit for bit, those of the batch in one piece.

#include <exactnorm/exactnorm.h>

#include <cstdio>
#include <vector>

namespace {

constexpr exactnorm::Index samples = 12;
constexpr exactnorm::Index channels = 3;
constexpr exactnorm::Index pixels = 20;

std::vector<float> numbers(unsigned seed) {
  std::vector<float> values(samples * channels * pixels);
  for (float& value : values) {
    seed = seed * 1664525U + 1013904223U;
    value = static_cast<float>(seed >> 8U) * 0x1p-23F - 1.0F;
  }
  return values;
}

const exactnorm::IndexList shape = {samples, channels, pixels};

// Samples first to first + count - 1 of a batch.
template <typename View>
View piece(const View& batch, exactnorm::Index first, exactnorm::Index count) {
  return exactnorm::slice(batch, 0, first, count);
}

struct Results {
  std::vector<float> y = std::vector<float>(samples * channels * pixels);
  std::vector<float> dx = y;
  std::vector<float> d_shortcut = y;
  std::vector<double> dgamma = std::vector<double>(channels);
};

}  // namespace

int main() {
  const std::vector<float> x = numbers(1);
  const std::vector<float> dy = numbers(2);
  const std::vector<float> shortcut = numbers(3);
  const std::vector<float> gamma = {1.5F, -0.5F, 1.0F};
  const std::vector<float> beta = {0.25F, 0.0F, -0.5F};
  const exactnorm::Options options = {.activation = exactnorm::Activation::relu};
  exactnorm::Affine affine = {exactnorm::view(gamma, {channels}), exactnorm::view(beta, {channels}),
                              exactnorm::view(shortcut, shape)};

  Results whole;
  const exactnorm::Statistics of_whole =
      exactnorm::training(exactnorm::view(x, shape), exactnorm::mutable_view(whole.y, shape), affine, options);
  exactnorm::backward(exactnorm::view(dy, shape), exactnorm::view(x, shape), of_whole, affine,
                      {.dx = exactnorm::mutable_view(whole.dx, shape),
                       .dgamma = exactnorm::mutable_view(whole.dgamma, {channels}),
                       .d_residual = exactnorm::mutable_view(whole.d_shortcut, shape)},
                      options);

  // The pieces, of unequal sizes.
  const std::vector<exactnorm::Index> firsts = {0, 5, 6};
  const std::vector<exactnorm::Index> counts = {5, 1, 6};
  Results parts;
  const auto affine_of = [&](std::size_t i) {
    exactnorm::Affine of_piece = affine;
    of_piece.residual = piece(*affine.residual, firsts[i], counts[i]);
    return of_piece;
  };
  const auto of = [&](std::size_t i, const auto& batch) { return piece(batch, firsts[i], counts[i]); };

  exactnorm::PartialSums sums(channels);
  for (std::size_t i = 0; i < firsts.size(); ++i)
    exactnorm::accumulate(sums, of(i, exactnorm::view(x, shape)), options);
  const exactnorm::Statistics statistics = exactnorm::normalizing_statistics(sums, options);
  for (std::size_t i = 0; i < firsts.size(); ++i) {
    exactnorm::inference(of(i, exactnorm::view(x, shape)), statistics, of(i, exactnorm::mutable_view(parts.y, shape)),
                         affine_of(i), options);
  }

  exactnorm::PartialSums gradients(channels, exactnorm::PartialSums::Kind::gradients);
  for (std::size_t i = 0; i < firsts.size(); ++i) {
    exactnorm::accumulate_gradients(gradients, of(i, exactnorm::view(dy, shape)), of(i, exactnorm::view(x, shape)),
                                    statistics, affine_of(i), options);
  }
  for (std::size_t i = 0; i < firsts.size(); ++i) {
    exactnorm::backward_from_sums(of(i, exactnorm::view(dy, shape)), of(i, exactnorm::view(x, shape)), statistics,
                                  gradients, affine_of(i),
                                  {.dx = of(i, exactnorm::mutable_view(parts.dx, shape)),
                                   .dgamma = exactnorm::mutable_view(parts.dgamma, {channels}),
                                   .d_residual = of(i, exactnorm::mutable_view(parts.d_shortcut, shape))},
                                  options);
  }

  const bool same = parts.y == whole.y && parts.dx == whole.dx && parts.d_shortcut == whole.d_shortcut &&
                    parts.dgamma == whole.dgamma;
  std::printf("dgamma %.6f %.6f %.6f: %s\n", parts.dgamma[0], parts.dgamma[1], parts.dgamma[2],
              same ? "the same bits as in one piece" : "differs from one piece");
  return same ? 0 : 1;
}

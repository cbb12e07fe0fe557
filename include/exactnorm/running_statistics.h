#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "exactnorm/export.h"
#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// Which variance of a batch is remembered.
enum class VarianceKind : std::uint8_t {
  unbiased,  ///< divided by count - 1: PyTorch, cuDNN
  biased     ///< divided by count: Keras, Flax
};

/// Means and variances remembered over training batches, for inference. A plain value: those that were kept elsewhere
/// are assigned to `mean`, `variance` and, if momentum has no value, `batches_tracked`.
struct EXACTNORM_EXPORT RunningStatistics {
  /// Starts at mean 0 and variance 1, as every framework does. Throws Error when `channels` is negative.
  explicit RunningStatistics(Index channels = 0);

  std::vector<double> mean;
  std::vector<double> variance;
  /// Updates so far.
  Index batches_tracked = 0;
  /// How many of them each channel refused.
  std::vector<Index> batches_refused;

  /// The weight of the *new* value: running = (1 - momentum) * running + momentum * new. This is the
  /// convention of PyTorch and cuDNN; Keras, Flax and ONNX call the other weight, 1 - momentum, momentum.
  /// Without a value, the average of all batches that the channel took in.
  std::optional<double> momentum = 0.1;

  VarianceKind variance_kind = VarianceKind::unbiased;

  [[nodiscard]] Index channels() const noexcept { return static_cast<Index>(mean.size()); }

  /// Takes in the statistics of one batch, with the variance of `variance_kind`.
  ///
  /// A channel whose batch statistics are not finite keeps what it had, so that one bad batch cannot
  /// poison it for good; the numbers of such channels are returned (empty when all is well). An empty
  /// batch changes nothing.
  /// Throws Error, and changes nothing, when the number of channels differs, when count is 1 (the unbiased variance of
  /// one value does not exist; the biased one is 0, and taken in), when momentum is not from 0 to 1, or when
  /// batches_tracked or batches_refused are impossible numbers.
  std::vector<Index> update(const Statistics& batch);

  /// The statistics to give to `inference`. Throws Error as `given_statistics` does.
  [[nodiscard]] Statistics statistics(const Options& options = {}) const;
};

}  // namespace exactnorm

#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "exactnorm/export.h"
#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/sums.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// Exact sums of weighted elements per channel: of w, of w * x and of w * x * x, all as PartialSums are.
///
///   mean = sum(w * x) / sum(w)          variance = sum(w * (x - mean)^2) / sum(w)
///
/// A weight of 3 is the element three times: the same mean and variance, to the bit. Weights need not be whole
/// numbers. A value: copy, compare, serialize and merge it freely. One object may not be changed by two threads at
/// once.
class EXACTNORM_EXPORT WeightedMoments {
 public:
  /// Of nothing. Throws Error when `channels` is negative.
  explicit WeightedMoments(Index channels);

  [[nodiscard]] Index channels() const noexcept { return products_.channels(); }
  /// Elements per channel so far: of weights of an integer dtype, or bool, their sum; of other weights, how many of
  /// them are not 0. Running statistics make a variance unbiased by it.
  [[nodiscard]] Index count() const noexcept { return count_; }

  /// Adds the sums of another part. Throws Error, and changes nothing, when the numbers of channels differ, or when
  /// counts add up to more than 2^62.
  void merge(const WeightedMoments& other);

  /// A self-describing byte string, the same on every machine.
  [[nodiscard]] std::vector<std::byte> serialize() const;
  /// Throws Error when `bytes` is not what `serialize` writes.
  [[nodiscard]] static WeightedMoments deserialize(std::span<const std::byte> bytes);

  friend EXACTNORM_EXPORT bool operator==(const WeightedMoments& a, const WeightedMoments& b);

 private:
  friend struct WeightedMomentsAccess;

  PartialSums products_;  // of w * x, and of w * x * x
  PartialSums weights_;   // of w, in one channel for all
  Index count_ = 0;
  bool fits_float32_ = true;  // all x so far
};

/// Adds the elements of x. `weights` have x's shape with 1 on the channel axes, or the shape of the reduced axes alone;
/// a size of 1 on any axis stands for all of it. They have any dtype and strides, and are finite, 0 or more; elements
/// of weight 0 have no part, whatever they hold. Memory for the weights and for 65,536 elements is taken meanwhile.
/// Throws Error, and changes nothing, where a weight is impossible or a product w * x that is not 0 lies beyond 2^-968
/// to 2^1023, which weights and x that float32 holds never do.
EXACTNORM_EXPORT void accumulate(WeightedMoments& moments, const TensorView& x, const TensorView& weights,
                                 const Options& options = {});

/// Mean, variance and 1 / deviation, each the exact value rounded once, for `inference` and
/// `RunningStatistics::update`; backward passes refuse them. NaN where all weights are 0, or an element of a weight
/// that is not is NaN or infinite.
[[nodiscard]] EXACTNORM_EXPORT Statistics statistics_of(const WeightedMoments& moments, const Options& options = {});

/// The same, rounded as `training` rounds those that it normalizes with (batch_norm.h).
[[nodiscard]] EXACTNORM_EXPORT Statistics normalizing_statistics(const WeightedMoments& moments,
                                                                 const Options& options = {});

}  // namespace exactnorm

#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/channels.h"
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

/// Adds the elements of x, a block of a larger tensor, to `moments`, which have the channels of the whole tensor;
/// `weights` are of the block. Blocks may cut through the channels, come in any order, and be spread over several
/// `moments` that are merged: what they say of all channels, the weights' sum and the count, comes with the blocks that
/// hold channel 0. Throws Error that names `place` when x does not fit there or the whole tensor has another number of
/// channels, and as above.
EXACTNORM_EXPORT void accumulate(WeightedMoments& moments, const TensorView& x, const Place& place,
                                 const TensorView& weights, const Options& options = {});

/// Mean, variance and 1 / deviation, each the exact value rounded once, for `inference` and
/// `RunningStatistics::update`; backward passes refuse them. NaN where all weights are 0, or an element of a weight
/// that is not is NaN or infinite.
[[nodiscard]] EXACTNORM_EXPORT Statistics statistics_of(const WeightedMoments& moments, const Options& options = {});

/// The same, rounded as `training` rounds those that it normalizes with (batch_norm.h).
[[nodiscard]] EXACTNORM_EXPORT Statistics normalizing_statistics(const WeightedMoments& moments,
                                                                 const Options& options = {});

/// The standard deviations, each the exact value rounded once. The unbiased ones divide by sum(w) - 1, so that a weight
/// says how often an element is there; they are NaN where sum(w) is 1 or less.
[[nodiscard]] EXACTNORM_EXPORT Deviations deviations_of(const WeightedMoments& moments);

/// `training` with the mean and variance of weighted elements: `inference` by `normalizing_statistics`, which are
/// returned. All elements of y are written, those of weight 0, too. `affine` has no mask. Throws Error, with nothing
/// written, as `training` and `accumulate` do.
EXACTNORM_EXPORT Statistics weighted_training(const TensorView& x, const TensorView& weights,
                                              const MutableTensorView& y, const Affine& affine = {},
                                              const Options& options = {});

/// The backward pass through `weighted_training`, of whose call x, weights, statistics, affine and activation are:
///
///   dbeta = sum dy,   dgamma = r * sum dy * (x - mean)                r = inverse_deviation, W = sum w
///   dx    = gamma * r * (dy - w * dbeta / W - w * k * (x - mean) * sum(dy * (x - mean)) / W)
///
/// with k and the place of activations as in `backward`. The sums are over all elements and know no weights: a loss
/// that has them gives dy with them. dgamma and dbeta are rounded as those of `backward`; dx is computed in float64 and
/// rounded once: to within half a unit of its dtype, and 2^-48 times the magnitudes of its three terms. Memory for the
/// weights and for 65,536 elements, or one of each channel, is taken meanwhile. Outputs may be where those of
/// `backward` may be.
EXACTNORM_EXPORT void weighted_backward(const TensorView& dy, const TensorView& x, const TensorView& weights,
                                        const Statistics& statistics, const Affine& affine, const Gradients& gradients,
                                        const Options& options = {});

}  // namespace exactnorm

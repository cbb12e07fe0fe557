#pragma once

#include <limits>
#include <optional>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/export.h"
#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

// Batch renormalization (Ioffe, Batch Renormalization: Towards Reducing Minibatch Dependence in Batch-Normalized
// Models, 2017): training by the batch's statistics, moved towards those of inference.
//
//   y = activation(gamma * (normalized * r + d) + beta + residual)
//   r = deviation of the batch / deviation of the reference,     from r_min to r_max
//   d = (mean of the batch - mean of the reference) / deviation of the reference,     from -d_max to d_max
//
// where the deviations have their epsilon in them, and the reference is the running statistics before this batch. r and
// d are constants to the backward pass. Where no limit is met, y is that of inference by the reference.

/// How far r and d go. By default r is 1 and d is 0: batch normalization, to the bit.
struct EXACTNORM_EXPORT RenormalizationLimits {
  /// 1 or more; infinity for no limit. Keras calls it rmax.
  double r_max = 1;
  /// 0 or more; infinity for no limit. Keras calls it dmax.
  double d_max = 0;
  /// From 0 to 1; without a value 1 / r_max, as in the paper. Keras calls it rmin, and takes 0 for no limit.
  std::optional<double> r_min = std::nullopt;
};

/// Limits that grow while a network is trained, each along a straight line. The defaults are the paper's.
struct EXACTNORM_EXPORT RenormalizationSchedule {
  /// Until this step, r is 1 and d is 0.
  Index begin = 5000;
  /// From these steps on, the limits are the largest ones; not before `begin`, from which on they are that where these
  /// are the same.
  Index r_end = 40000;
  Index d_end = 25000;
  double r_max = 3;
  double d_max = 5;

  /// Those of a step, counted from 0. Throws Error where a member is impossible.
  [[nodiscard]] RenormalizationLimits at(Index step) const;
};

/// r and d of each channel.
struct EXACTNORM_EXPORT Renormalization {
  std::vector<double> r;
  std::vector<double> d;
};

/// Those of a batch. The epsilons in both statistics are the same. A channel whose batch has no finite statistics gets
/// NaN. Throws Error where statistics or limits are impossible.
[[nodiscard]] EXACTNORM_EXPORT Renormalization renormalization_of(const Statistics& batch, const Statistics& reference,
                                                                  const RenormalizationLimits& limits);

/// What `renormalizing_training` returns.
struct EXACTNORM_EXPORT Renormalized {
  Statistics statistics;  // those of x, as `training` returns them
  Renormalization renormalization;
};

/// `training` with r and d. Throws Error as `training` and `renormalization_of` do, before anything is written.
EXACTNORM_EXPORT Renormalized renormalizing_training(const TensorView& x, const Statistics& reference,
                                                     const RenormalizationLimits& limits, const MutableTensorView& y,
                                                     const Affine& affine = {}, const Options& options = {});

/// The backward pass through `renormalizing_training`: `backward` with gamma * r for gamma, and
///
///   dgamma = r * sum dy * normalized + d * sum dy
EXACTNORM_EXPORT void renormalizing_backward(const TensorView& dy, const TensorView& x, const Renormalized& forward,
                                             const Affine& affine, const Gradients& gradients,
                                             const Options& options = {});

}  // namespace exactnorm

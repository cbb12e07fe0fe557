#pragma once

#include <optional>

#include "exactnorm/channels.h"
#include "exactnorm/export.h"
#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/sums.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

// Thread safety: every function of this library may be called from several threads at once, with two exceptions:
// `set_target` (info.h), and a Communicator, which is for one thread at a time. Calls at the same time may share
// inputs, but not outputs, sums, ranges or layers: an object that one thread changes is not used by another meanwhile.
// `Options::threads` are the threads within a call.
//
// Batch normalization (Ioffe and Szegedy, 2015):
//
//   y = activation(gamma * (x - mean) / sqrt(variance + epsilon) + beta + residual)
//
// where the activation, of `options`, and the residual are optional. y is, bit for bit, that of the separate
// operations: the normalized value rounded to the type of the arithmetic, the residual added, the activation. That type
// is float32 where it holds the dtypes of x and y, which the residual has to fit then, else float64; y of 16 bits is
// rounded once, at the end.
//
// Shapes: x, y, dy, dx and residuals have one shape of 0 to 8 dimensions and any strides; `options.channel_axes`
// names the axes that keep their own statistics. x has any dtype; dy and outputs are float32, float64, bfloat16 or
// float16. With 16-bit elements the results are those of the same numbers as float32, y and dx rounded once more.
//
// A mask (Affine::mask) leaves elements out: statistics, counts, sums and gradients are those of the others, to the
// bit.
//
// Aliasing: a result may be the very memory of x, dy, the residual or `output` (same address, strides and dtype). Any
// other overlap of an output with an input or with another output is refused.
//
// All arguments are checked before anything is written. `docs/semantics.md` lists every edge case.

/// Training: normalizes x by its own mean and biased variance, and returns them.
///
/// A channel that holds one value everywhere becomes exactly beta. A channel with NaN or infinity
/// becomes NaN throughout, others are not touched. An empty batch writes nothing and returns NaN.
/// int64 input beyond 2^53 is rounded to float64 first. x may have one value per channel: y is beta.
///
/// Accuracy: mean and variance are the exact ones, rounded once to float64. Where float32 holds x's dtype, they are
/// then rounded to a grid, the mean to a multiple of 2^-34 to 2^-33 deviations, the variance to 30 bits after the
/// first. With such statistics a float32 y of an x that float32 holds is within 4 * 2^-24 * max(|y|, |beta|, |y -
/// beta|) + 2^-43 * |gamma| of the exact result, one of a float64 x within 1.001 * 2^-24 times that maximum, and a
/// float64 y within 8 * 2^-53 times it, as long as y is not subnormal, |gamma| * inverse_deviation is an ordinary
/// float64 (2^-1022 to 2^1023) and no x - mean exceeds float64: always so for float32 input and ordinary gamma. The
/// grid adds 2^-31 times the maximum and 2^-34 * |gamma|.
EXACTNORM_EXPORT Statistics training(const TensorView& x, const MutableTensorView& y, const Affine& affine = {},
                                     const Options& options = {});

/// Normalizes x by given statistics: those of `given_statistics`, `statistics_of` or an earlier call.
/// Uses mean, mean_residual and inverse_deviation, so epsilon is already in `statistics`.
/// NaN and infinity in x reach their own elements of y only.
EXACTNORM_EXPORT void inference(const TensorView& x, const Statistics& statistics, const MutableTensorView& y,
                                const Affine& affine = {}, const Options& options = {});

/// The same for `x`, a block of a larger tensor whose statistics, gamma and beta these are. y has the shape of x, and
/// becomes what the whole tensor's y has there, bit for bit. The block may cut through the channels; only entries of
/// its channels are read. Throws Error that names `place` when x does not fit there.
EXACTNORM_EXPORT void inference(const TensorView& x, const Place& place, const Statistics& statistics,
                                const MutableTensorView& y, const Affine& affine = {}, const Options& options = {});

/// Statistics from somebody's running mean and variance: one element per channel each, in row-major order of
/// any shape, any dtype. A variance below zero, as published networks have some, is taken as it is where variance +
/// epsilon is more than zero.
/// Throws Error when a mean or a variance is not finite, when variance + epsilon is not more than zero, or, with
/// epsilon beside the deviation, when a variance is negative or both are zero.
[[nodiscard]] EXACTNORM_EXPORT Statistics given_statistics(const TensorView& mean, const TensorView& variance,
                                                           const Options& options = {});

/// Where `backward` writes. Each is optional; those absent are not computed. dgamma and dbeta have one
/// element per channel, in the shapes that Affine allows. All are overwritten, not added to. d_residual has the dtype
/// of dy; it is refused without a residual and without `Affine::output`.
struct EXACTNORM_EXPORT Gradients {
  std::optional<MutableTensorView> dx = std::nullopt;
  std::optional<MutableTensorView> dgamma = std::nullopt;
  std::optional<MutableTensorView> dbeta = std::nullopt;
  std::optional<MutableTensorView> d_residual = std::nullopt;
};

/// The backward pass through `training`: mean and variance are functions of x.
///
///   dbeta  = sum dy
///   dgamma = r * sum dy * (x - mean)                                  r = inverse_deviation
///   dx     = gamma * r * (dy - dbeta / count - k * (x - mean) * sum(dy * (x - mean)) / count)
///   k      = r^2 (epsilon beside the variance), or r / sqrt(variance) (epsilon beside the deviation)
///
/// With an activation dy is first multiplied by the activation's derivative, and rounded to dy's dtype: that is
/// d_residual, and what dy stands for in all that is said here. The derivative is taken where the forward pass took the
/// activation, at gamma * normalized + beta + residual, which is computed again from x: no mask is kept. Or where the
/// forward pass's y is, if that is given (Affine::output): in y of 16 bits a value between 0 and the smallest number,
/// or next to 6, has become one with another derivative. beta is not looked at without an activation, nor a residual
/// without one.
///
/// `statistics` is what `training` returned for this x. Epsilon and its placement are those in `statistics`; those of
/// `options` are checked, and have no part in the result, as in `inference`. With an epsilon added to the deviation, a
/// constant channel has no derivative there and k is taken as 0. The sums are exact, and rounded once; where x and dy
/// are of dtypes that float32 holds, dbeta is then rounded by at most 2^-35 * sqrt(count * sum dy^2), and dgamma by at
/// most that times r * sqrt(variance). A float32 dx of float32 dy and x is within 2^-24 * (|dx| + 5 * rest) of what
/// these make of dx, where rest is the sum of the magnitudes of the last two terms. Every other dx is computed in
/// float64: within 2^-24 * |dx| (float32) or 2^-51 * |dx| (float64), and 2^-49 times the magnitudes of all three terms,
/// which may cancel.
EXACTNORM_EXPORT void backward(const TensorView& dy, const TensorView& x, const Statistics& statistics,
                               const Affine& affine, const Gradients& gradients, const Options& options = {});

/// The backward pass through `inference`: mean and variance are constants.
///
///   dbeta = sum dy,   dgamma = r * sum dy * (x - mean),   dx = gamma * r * dy
///
/// Epsilon is in `statistics`, as in `backward`; so is what an activation does.
EXACTNORM_EXPORT void backward_frozen(const TensorView& dy, const TensorView& x, const Statistics& statistics,
                                      const Affine& affine, const Gradients& gradients, const Options& options = {});

/// `backward` in two steps, for those who merge sums of several parts of one batch (ranks, or pieces
/// that do not fit in memory): `sums` are the merged ones of `accumulate_gradients` over all parts, `statistics` those
/// of the whole batch, dy, x and the residual this part. dgamma and dbeta are those of the whole batch.
EXACTNORM_EXPORT void backward_from_sums(const TensorView& dy, const TensorView& x, const Statistics& statistics,
                                         const PartialSums& sums, const Affine& affine, const Gradients& gradients,
                                         const Options& options = {});

/// Adds to `sums` (kind gradients) what `backward_from_sums` needs of this part: the sums of `accumulate(sums, dy, x)`,
/// with dy taken through the activation of `options`. Throws Error as that function and `backward` do.
EXACTNORM_EXPORT void accumulate_gradients(PartialSums& sums, const TensorView& dy, const TensorView& x,
                                           const Statistics& statistics, const Affine& affine = {},
                                           const Options& options = {});

}  // namespace exactnorm

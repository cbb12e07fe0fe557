#pragma once

#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/tensor.h"

// Coefficients of apply, many channels at a time. Arrays are of consecutive channels; nothing beside them is read or
// written.

namespace exactnorm {

/// Coefficients of y = (x - mean) * scale + shift.
struct ForwardColumns {
  double* mean = nullptr;
  double* scale = nullptr;
  double* shift = nullptr;
  double* variance = nullptr;  // of x, or 0: how many digits of the mean matter is measured by it
};
/// From statistics, gamma and beta.
void set_forward_columns(const StatisticsView& statistics, const double* gamma, const double* beta, Index channels,
                         const ForwardColumns& to);

/// Coefficients of dx = (dy + (((x - mean) * x_scale) * normalized_scale + shift)) * dy_scale, where the inner product
/// is the normalized x: of ordinary size, whatever that of x is.
struct BackwardColumns {
  double* mean = nullptr;
  double* x_scale = nullptr;
  double* shift = nullptr;
  double* normalized_scale = nullptr;
  double* dy_scale = nullptr;
};
/// What these are made of.
struct BackwardInputs {
  StatisticsView statistics;
  const double* gamma = nullptr;
  const double* dgamma = nullptr;
  const double* dbeta = nullptr;
  Index count = 0;  // elements per channel, more than 0
};
/// Of a backward pass through statistics of x itself, with the epsilon and the placement of `options`.
void set_backward_columns(const BackwardInputs& from, Index channels, const Options& options,
                          const BackwardColumns& to);

/// Coefficients of float32 arithmetic.
/// Forward: y = d * scale + (d * scale_rest + shift), d = x - mean.
/// Backward: dx = dy * scale + (dy * scale_rest + (d * x_scale + shift)).
/// Each product is added to what follows without a rounding of its own. `mean` is NaN where a channel's coefficients
/// are beyond what float32 serves: float64 arithmetic has to do then.
struct SingleTargets {
  float* mean = nullptr;
  float* scale = nullptr;
  float* scale_rest = nullptr;
  float* shift = nullptr;
  float* x_scale = nullptr;  // 0 for forward
};
/// From those of float64 arithmetic.
void set_single(const ForwardColumns& from, Index channels, const SingleTargets& to);
void set_single(const BackwardColumns& from, Index channels, const SingleTargets& to);

}  // namespace exactnorm

#pragma once

#include "exactnorm/tensor.h"

// Coefficients of apply in float32 arithmetic, from those in float64.

namespace exactnorm {

/// Float64 coefficients of consecutive channels: those of forward_coefficients or gradients_of, side by side.
struct ForwardColumns {
  const double* mean = nullptr;
  const double* scale = nullptr;
  const double* shift = nullptr;
  const double* variance = nullptr;  // of x, or 0: how many digits of the mean matter is measured by it
};
struct BackwardColumns {
  const double* mean = nullptr;
  const double* x_scale = nullptr;
  const double* shift = nullptr;
  const double* normalized_scale = nullptr;
  const double* dy_scale = nullptr;
};

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

/// Sets `channels` entries of each. Nothing beside them is read or written.
void set_single(const ForwardColumns& from, Index channels, const SingleTargets& to);
void set_single(const BackwardColumns& from, Index channels, const SingleTargets& to);

}  // namespace exactnorm

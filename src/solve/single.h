#pragma once

#include "solve/solve.h"

// Coefficients of a map in float32 arithmetic.

namespace exactnorm {

/// Forward: y = d * scale + (d * scale_rest + shift), d = x - mean.
/// Backward: dx = dy * scale + (dy * scale_rest + (d * x_scale + shift)).
/// Each product is added to what follows without a rounding of its own. `mean` is NaN where a channel's coefficients
/// are beyond what float32 serves: float64 arithmetic has to do then.
struct SingleCoefficients {
  float mean = 0;
  float scale = 0;
  float scale_rest = 0;
  float shift = 0;
  float x_scale = 0;
};

[[nodiscard]] SingleCoefficients single(const ForwardCoefficients& coefficients) noexcept;
[[nodiscard]] SingleCoefficients single(const BackwardCoefficients& coefficients) noexcept;

}  // namespace exactnorm

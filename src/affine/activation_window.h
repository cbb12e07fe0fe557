#pragma once

#include "affine/apply_kernels.h"
#include "exactnorm/options.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// Where a window goes.
struct WindowTargets {
  float* lower = nullptr;
  float* upper = nullptr;
};

/// Whether the derivative of an activation is 1 between two values, and 0 elsewhere.
[[nodiscard]] bool has_window(Activation activation) noexcept;

/// For such an activation of y = bn(x) in float32 arithmetic: the x between which the derivative is 1. bn rounds, but
/// it is monotonic all the same, so that these are two numbers for each channel. They are found by bisection, with the
/// very arithmetic of the forward pass. False, and nothing is of use, where a channel's coefficients are not finite.
/// `forward` are the coefficients of `channels` channels.
[[nodiscard]] bool set_windows(Activation activation, const Coefficients& forward, Index channels,
                               const WindowTargets& to);

}  // namespace exactnorm

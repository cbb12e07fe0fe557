#pragma once

#include "exactnorm/tensor.h"

// The vector code of the map room. For each element, in float64, each operation rounded by itself (a
// fused multiply-add would give other bits on processors that have it), then rounded to the output:
//
//     out = (x - mean) * x_scale + shift                                            forward
//     out = (dy + (((x - mean) * x_scale) * normalized_scale + shift)) * dy_scale   backward, where dy is given

namespace exactnorm {

/// Coefficients of consecutive channels.
struct MapCoefficients {
  const double* mean = nullptr;
  const double* x_scale = nullptr;
  const double* shift = nullptr;
  // Looked at only where dy is given:
  const double* normalized_scale = nullptr;
  const double* dy_scale = nullptr;

  /// The same from channel `channel` on.
  [[nodiscard]] MapCoefficients from(Index channel) const {
    return {mean + channel, x_scale + channel, shift + channel, normalized_scale + channel, dy_scale + channel};
  }
};

/// `count` neighbouring elements of one channel. `dy` may be null. `out` may be x or dy.
template <typename T>
void map_channel(const T* x, const T* dy, T* out, Index count, const MapCoefficients& coefficients);

/// `count` neighbouring elements that belong to channels 0, 1, ... period - 1, 0, 1, ... in turn. The
/// coefficients are repeated over `period` entries, a multiple of `map_period`, or of `count` if less.
template <typename T>
void map_periodic(const T* x, const T* dy, T* out, Index count, const MapCoefficients& coefficients, Index period);

/// Every target's vectors hold a divisor of this many float64 lanes.
inline constexpr Index map_period = 32;

}  // namespace exactnorm

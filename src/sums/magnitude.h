#pragma once

#include <algorithm>
#include <bit>
#include <limits>

#include "sums/exact_kernels.h"

// Floating-point numbers by their magnitudes, as exact_kernels.h orders them.

namespace exactnorm {

template <typename T>
struct Format;
template <>
struct Format<float> {
  static constexpr int mantissa_bits = 23;
  static constexpr int bias = 127;
};
template <>
struct Format<double> {
  static constexpr int mantissa_bits = 52;
  static constexpr int bias = 1023;
};

template <typename T>
inline constexpr Magnitude<T> infinity = std::bit_cast<Magnitude<T>>(std::numeric_limits<T>::infinity());

/// The e with |value| < 2^(e+1); that of the smallest normal number for all subnormal ones.
template <typename T>
[[nodiscard]] int exponent_of(Magnitude<T> magnitude) {
  return std::max(static_cast<int>(magnitude >> Format<T>::mantissa_bits), 1) - Format<T>::bias;
}

/// The magnitude 2^exponent, or zero below the normal numbers, where all share one unit anyway.
template <typename T>
[[nodiscard]] Magnitude<T> magnitude_of_power(int exponent) {
  const int biased = exponent + Format<T>::bias;
  return biased <= 0 ? 0 : static_cast<Magnitude<T>>(biased) << Format<T>::mantissa_bits;
}

}  // namespace exactnorm

#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

// The grid of rounded statistics. What normalizes float32 data is exact to the last bit of float64 and then rounded to
// fewer bits, so that sums in float64 with a proven error bound determine it nearly always (Ziv, "Fast evaluation of
// elementary mathematical functions with correctly rounded last bit", ACM TOMS 17(3), 1991).
//
// All functions here are monotone. So, where the two ends of an interval have one image, it is the image of every
// number between them, that of the exact value included.
//
// A number is rounded up from a fraction of 0.618... of a unit on, not of a half: sums of few float32 numbers have few
// bits, so that halves are frequent among them, and means are ratios of small integers. No number is as hard to
// approximate by ratios as the golden ratio's fraction is (Hurwitz, 1891).

namespace exactnorm {

/// Significant bits of a variance on the grid, the first one not counted.
inline constexpr int variance_grid_bits = 30;
/// A mean is a multiple of a power of two from 2^-34 to 2^-33 deviations.
inline constexpr int mean_grid_bits = 34;
/// The gradient of beta is a multiple of a power of two of about 2^-34 * sqrt(n * sum dy^2), the gradient of gamma one
/// of that times deviation * inverse_deviation. Relative to themselves, sums that nearly cancel would rarely be
/// decided: gradients below a normalization do.
inline constexpr int gradient_grid_bits = 34;

/// From this fraction of a unit on a number is rounded up: 1 / golden ratio.
inline constexpr double grid_fraction = 0.6180339887498949;

/// Bits of a float64 that a variance on the grid does not have, and what has to be added to them to be rounded up from
/// grid_fraction on.
inline constexpr int variance_dropped_bits = 52 - variance_grid_bits;
inline constexpr std::uint64_t variance_round_up =
    (std::uint64_t{1} << variance_dropped_bits) -
    (static_cast<std::uint64_t>(grid_fraction * (std::uint64_t{1} << variance_dropped_bits)) + 1);

/// `variance`, positive and normal, rounded to variance_grid_bits.
[[nodiscard]] inline double variance_on_grid(double variance) noexcept {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(variance) + variance_round_up;
  return std::bit_cast<double>(bits >> variance_dropped_bits << variance_dropped_bits);
}

/// The multiple of `unit`, a power of two, that stands for `value`; value itself from 2^52 units on. Zero is positive.
[[nodiscard]] inline double on_grid(double value, double unit) noexcept {
  const double units = std::abs(value) / unit;
  if (!(units < 0x1p52)) return value;
  const double below = std::floor(units);
  const double rounded = units - below >= grid_fraction ? below + 1 : below;
  return std::copysign(rounded * unit, value) + 0.0;
}

/// The unit of a mean, from the variance on its grid, positive and normal.
[[nodiscard]] inline double mean_unit(double variance) noexcept {
  const std::uint64_t exponent = ((std::bit_cast<std::uint64_t>(variance) >> 52) + 1023) / 2;  // of the deviation
  return std::bit_cast<double>((exponent - mean_grid_bits) << 52);
}

/// The unit of a gradient of beta over n elements, whose squares add up to `squares`.
[[nodiscard]] inline double gradient_unit(double n, double squares) noexcept {
  // A power of two is as frequent among sums of few bits as halves are.
  const double below = n * squares * grid_fraction;
  const std::uint64_t exponent = ((std::bit_cast<std::uint64_t>(below) >> 52) + 1023) / 2;
  return std::bit_cast<double>((exponent - gradient_grid_bits) << 52);
}

/// How much smaller the unit of the gradient of gamma is: a power of two, or 0 where that gradient is not rounded.
[[nodiscard]] inline double gamma_unit_factor(double variance, double inverse_deviation) noexcept {
  const double share = std::sqrt(variance) * inverse_deviation;  // at most 1, and NaN below zero
  return share <= 2 ? std::bit_cast<double>(std::bit_cast<std::uint64_t>(share) >> 52 << 52) : 0.0;
}

}  // namespace exactnorm

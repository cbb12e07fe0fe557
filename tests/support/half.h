#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "exactnorm/tensor.h"

// The floating types of 16 bits by their definition, in float64 arithmetic: an oracle for the library's conversions.

namespace exactnorm::testing {

/// A format of a sign, some bits of exponent and some of significand.
struct HalfFormat {
  int significand_bits;  // stored ones
  int least_exponent;    // of normal numbers
  int greatest_exponent;
};
inline constexpr HalfFormat bfloat16_format = {7, -126, 127};
inline constexpr HalfFormat float16_format = {10, -14, 15};

[[nodiscard]] inline HalfFormat format_of(DType dtype) {
  return dtype == DType::bfloat16 ? bfloat16_format : float16_format;
}
[[nodiscard]] inline double largest_of(const HalfFormat& format) {
  return std::ldexp(2 - std::ldexp(1.0, -format.significand_bits), format.greatest_exponent);
}
[[nodiscard]] inline double smallest_of(const HalfFormat& format) {
  return std::ldexp(1.0, format.least_exponent - format.significand_bits);
}

/// The nearest number of the format, with ties to even; infinity beyond the largest.
[[nodiscard]] inline double rounded(const HalfFormat& format, double value) {
  if (value == 0 || !std::isfinite(value)) return value;
  const int exponent = std::max(std::ilogb(value), format.least_exponent);
  const int step = exponent - format.significand_bits;
  const double result = std::ldexp(std::nearbyint(std::ldexp(value, -step)), step);
  return std::fabs(result) <= largest_of(format) ? result : std::copysign(HUGE_VAL, value);
}

/// The bits of a number of the format; any NaN has those of the quiet one.
[[nodiscard]] inline std::uint16_t bits_of(const HalfFormat& format, double value) {
  const auto infinite = (std::uint32_t{1} << (15 - format.significand_bits)) - 1;
  const std::uint32_t sign = std::signbit(value) ? 0x8000U : 0U;
  std::uint32_t bits = 0;
  if (std::isnan(value)) {
    bits = (infinite << format.significand_bits) | (1U << (format.significand_bits - 1));
  } else if (std::isinf(value)) {
    bits = infinite << format.significand_bits;
  } else {
    // Neighbours follow each other as integers.
    const double magnitude = std::fabs(value);
    const int exponent =
        magnitude == 0 ? format.least_exponent : std::max(std::ilogb(magnitude), format.least_exponent);
    const auto significand = static_cast<std::uint32_t>(std::ldexp(magnitude, format.significand_bits - exponent));
    bits = (static_cast<std::uint32_t>(exponent - format.least_exponent) << format.significand_bits) + significand;
  }
  return static_cast<std::uint16_t>(sign | bits);
}

[[nodiscard]] inline double value_of(const HalfFormat& format, std::uint16_t bits) {
  const int stored = bits >> format.significand_bits & ((1 << (15 - format.significand_bits)) - 1);
  const int significand = bits & ((1 << format.significand_bits) - 1);
  double value = 0;
  if (stored == (1 << (15 - format.significand_bits)) - 1) {
    value = significand == 0 ? HUGE_VAL : std::numeric_limits<double>::quiet_NaN();
  } else if (stored == 0) {
    value = std::ldexp(significand, format.least_exponent - format.significand_bits);
  } else {
    value = std::ldexp((1 << format.significand_bits) + significand,
                       format.least_exponent + stored - 1 - format.significand_bits);
  }
  return (bits & 0x8000) != 0 ? -value : value;
}

/// An element of such a type, which converts as the types of the language do.
template <DType kType>
class HalfElement {
 public:
  HalfElement() = default;
  explicit HalfElement(double value) : bits_(bits_of(format_of(kType), rounded(format_of(kType), value))) {}
  explicit operator double() const { return value_of(format_of(kType), bits_); }

 private:
  std::uint16_t bits_ = 0;
};

}  // namespace exactnorm::testing

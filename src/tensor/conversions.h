#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "exactnorm/tensor.h"
#include "tensor/element_type.h"

// Conversions of single elements. Each rounds once, to nearest, ties to even; NaN stays NaN and becomes quiet. The
// vector code is in tensor/half_kernels.h.

namespace exactnorm {

[[nodiscard]] inline float to_float32(bfloat16 value) noexcept {
  return std::bit_cast<float>(std::uint32_t{value.bits} << 16U);
}

[[nodiscard]] inline float to_float32(float16 value) noexcept {
  const std::uint32_t sign = (value.bits & 0x8000U) << 16U;
  const std::uint32_t magnitude = (value.bits & 0x7fffU) << 13U;
  // As float32, these bits have an exponent that is 112 too small, subnormal numbers included.
  std::uint32_t bits = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
  if (magnitude >= 0x7c00U << 13U) bits = 0x7f800000U | magnitude;
  if (magnitude > 0x7c00U << 13U) bits |= 0x00400000U;
  return std::bit_cast<float>(sign | bits);
}

[[nodiscard]] inline bfloat16 to_bfloat16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (value != value) return {static_cast<std::uint16_t>(bits >> 16U | 0x40U)};
  return {static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16U & 1U)) >> 16U)};
}

[[nodiscard]] inline float16 to_float16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16U & 0x8000U;
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U | (magnitude >> 13U & 0x3ffU);
  } else if (magnitude >= 0x47800000U) {  // 2^16
    half = 0x7c00U;
  } else if (magnitude >= 0x38800000U) {  // 2^-14, the smallest normal number
    half = (magnitude - (112U << 23U) + 0xfffU + (magnitude >> 13U & 1U)) >> 13U;
  } else {
    // Neighbours of 1/2 are 2^-24 apart, as subnormal numbers are.
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000U;
  }
  return {static_cast<std::uint16_t>(sign | half)};
}

/// A float32 number that rounds on to narrower types as `value` does: towards zero, with the last bit set where that is
/// not exact (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding to
/// odd", IEEE Transactions on Computers 57(4), 2008).
[[nodiscard]] inline float rounded_to_odd(double value) noexcept {
  const auto nearest = static_cast<float>(value);
  if (double{nearest} == value || value != value) return nearest;
  auto bits = std::bit_cast<std::uint32_t>(nearest);
  if (std::abs(double{nearest}) > std::abs(value)) --bits;  // the next one towards zero
  return std::bit_cast<float>(bits | 1U);
}

/// The value of an element in another type, rounded once where it has to be.
template <typename To, typename From>
[[nodiscard]] To convert(From value) noexcept {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (is_half<From>) {
    return convert<To>(to_float32(value));
  } else if constexpr (std::is_same_v<From, BooleanByte>) {
    return value.byte == 0 ? To{0} : To{1};
  } else if constexpr (is_half<To>) {
    float single = 0;
    if constexpr (std::is_same_v<From, double>) {
      single = rounded_to_odd(value);
    } else {
      single = value;
    }
    if constexpr (std::is_same_v<To, bfloat16>) {
      return to_bfloat16(single);
    } else {
      return to_float16(single);
    }
  } else {
    return static_cast<To>(value);
  }
}

}  // namespace exactnorm

#pragma once

#include <cstdint>
#include <type_traits>

#include "exactnorm/tensor.h"

namespace exactnorm {

/// An element of DType::boolean. C++'s own bool must not hold other bytes than 0 and 1, which other languages write.
struct BooleanByte {
  std::uint8_t byte = 0;
};

/// Calls visit(T{}) with the C++ type of a dtype, and returns what it returns.
template <typename Visit>
decltype(auto) visit_dtype(DType dtype, const Visit& visit) {
  switch (dtype) {
    case DType::float64:
      return visit(double{});
    case DType::bfloat16:
      return visit(bfloat16{});
    case DType::float16:
      return visit(float16{});
    case DType::uint8:
      return visit(std::uint8_t{});
    case DType::int8:
      return visit(std::int8_t{});
    case DType::uint16:
      return visit(std::uint16_t{});
    case DType::int16:
      return visit(std::int16_t{});
    case DType::uint32:
      return visit(std::uint32_t{});
    case DType::int32:
      return visit(std::int32_t{});
    case DType::int64:
      return visit(std::int64_t{});
    case DType::boolean:
      return visit(BooleanByte{});
    case DType::float32:
      break;
  }
  return visit(float{});
}

/// The same for the dtypes of outputs.
template <typename Visit>
decltype(auto) visit_floating(DType dtype, const Visit& visit) {
  switch (dtype) {
    case DType::float64:
      return visit(double{});
    case DType::bfloat16:
      return visit(bfloat16{});
    case DType::float16:
      return visit(float16{});
    default:
      return visit(float{});
  }
}

template <typename T>
inline constexpr bool is_half = std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>;

/// Whether float32 holds every value of the type.
template <typename T>
inline constexpr bool fits_float32 = std::is_same_v<T, float> || sizeof(T) <= 2;

[[nodiscard]] inline bool is_half_type(DType dtype) noexcept {
  return dtype == DType::bfloat16 || dtype == DType::float16;
}

[[nodiscard]] inline bool dtype_fits_float32(DType dtype) noexcept {
  return dtype == DType::float32 || size_of(dtype) <= 2;
}

}  // namespace exactnorm

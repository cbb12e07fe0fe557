#pragma once

#include <cstdint>
#include <type_traits>

#include "exactnorm/tensor.h"

namespace exactnorm {

/// Calls visit(T{}) with the C++ type of a dtype, and returns what it returns.
template <typename Visit>
decltype(auto) visit_dtype(DType dtype, const Visit& visit) {
  switch (dtype) {
    case DType::float64:
      return visit(double{});
    case DType::uint8:
      return visit(std::uint8_t{});
    case DType::int8:
      return visit(std::int8_t{});
    case DType::int16:
      return visit(std::int16_t{});
    case DType::int32:
      return visit(std::int32_t{});
    case DType::int64:
      return visit(std::int64_t{});
    case DType::float32:
      break;
  }
  return visit(float{});
}

/// Whether float32 holds every value of the type.
template <typename T>
inline constexpr bool fits_float32 = std::is_same_v<T, float> || (std::is_integral_v<T> && sizeof(T) <= 2);

[[nodiscard]] inline bool dtype_fits_float32(DType dtype) noexcept {
  return dtype == DType::float32 || size_of(dtype) <= 2;
}

}  // namespace exactnorm

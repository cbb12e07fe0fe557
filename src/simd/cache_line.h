#pragma once

#include <cstdint>

#include "exactnorm/tensor.h"

namespace exactnorm {

inline constexpr Index line_bytes = 64;
/// Elements of T in a cache line.
template <typename T>
inline constexpr Index line_size = line_bytes / static_cast<Index>(sizeof(T));

/// Elements of T from `address` to the next start of a cache line.
template <typename T>
[[nodiscard]] Index elements_to_line(const T* address) noexcept {
  const auto beyond = static_cast<Index>(reinterpret_cast<std::uintptr_t>(address) % line_bytes);
  return (line_bytes - beyond) % line_bytes / static_cast<Index>(sizeof(T));
}

}  // namespace exactnorm

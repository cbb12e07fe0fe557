#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// Integers in byte strings, least significant byte first on every machine.

namespace exactnorm {

inline void append(std::vector<std::byte>& bytes, std::uint64_t value) {
  for (int shift = 0; shift < 64; shift += 8) bytes.push_back(static_cast<std::byte>(value >> shift));
}

/// The eight bytes from `at` on, which are there.
[[nodiscard]] inline std::uint64_t read_integer(std::span<const std::byte> bytes, std::size_t at) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < 8; ++i) value |= static_cast<std::uint64_t>(bytes[at + i]) << (8 * i);
  return value;
}

}  // namespace exactnorm

#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

namespace exactnorm {

/// 122 bits that tell sequences of numbers apart, the same on every machine: the values, modulo the prime 2^61 - 1, of
/// the polynomial whose coefficients the numbers are, at two points.
///
/// Two sequences that differ, of at most n numbers each, are two polynomials that agree at no more than n points. So
/// their digests are equal with a probability of at most (n / (2^61 - 1))^2, the points being drawn at random. They
/// were, once and for all.
class Digest {
 public:
  static constexpr std::uint64_t prime = (std::uint64_t{1} << 61) - 1;
  static constexpr std::array<std::uint64_t, 2> points = {0x1b10427dcdae6a1a, 0x1edfe344e7476834};

  void add(std::uint32_t number) noexcept {
    for (std::size_t i = 0; i < points.size(); ++i) {
      // Modulo the prime, 2^61 is 1.
      const Word128 sum = Word128{values_[i]} * points[i] + number;
      const std::uint64_t folded = static_cast<std::uint64_t>(sum & prime) + static_cast<std::uint64_t>(sum >> 61);
      values_[i] = folded < prime ? folded : folded - prime;
    }
  }
  /// Two numbers, the high half and the low half.
  void add(std::uint64_t number) noexcept {
    add(static_cast<std::uint32_t>(number >> 32));
    add(static_cast<std::uint32_t>(number));
  }
  /// Its bits. All NaN are one: their sign and payload are the processor's.
  void add(double number) noexcept {
    add(std::bit_cast<std::uint64_t>(std::isnan(number) ? std::numeric_limits<double>::quiet_NaN() : number));
  }
  void add(std::string_view text) noexcept {
    for (const char letter : text) add(std::uint32_t{static_cast<unsigned char>(letter)});
  }

  /// Below 2^61 each.
  [[nodiscard]] const std::array<std::uint64_t, 2>& values() const noexcept { return values_; }

  /// In 32 hexadecimal digits.
  [[nodiscard]] std::string text() const {
    std::string digits;
    for (const std::uint64_t value : values_) {
      for (int shift = 60; shift >= 0; shift -= 4) digits += "0123456789abcdef"[value >> shift & 15];
    }
    return digits;
  }

 private:
  __extension__ using Word128 = unsigned __int128;

  // The leading coefficient, which tells sequences of different lengths apart.
  std::array<std::uint64_t, 2> values_ = {1, 1};
};

}  // namespace exactnorm

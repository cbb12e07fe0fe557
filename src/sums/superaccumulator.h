#pragma once

#include <cstddef>
#include <cstdint>

#include "exactnorm/sums.h"

// The long integers behind PartialSums: two's complement, least significant word first.

namespace exactnorm {

/// How wide the sums of a channel are, and the power of two that their lowest bit stands for. A sum that a kind or a
/// range does not have is of no words.
struct SumFormat {
  static constexpr int sums = 3;
  int words[sums];
  int unit_exponents[sums];

  [[nodiscard]] constexpr int words_per_channel() const noexcept { return words[0] + words[1] + words[2]; }
  [[nodiscard]] constexpr int first_word(int which) const noexcept {
    return (which > 0 ? words[0] : 0) + (which > 1 ? words[1] : 0);
  }
};

/// The lowest bit is that of the smallest subnormal (first sum) and of its square (the others); the highest leaves 62
/// bits above the largest value (or its square) for the number of summands, and a sign.
[[nodiscard]] constexpr SumFormat format_of(PartialSums::Kind kind, PartialSums::Range range) noexcept {
  if (range == PartialSums::Range::extended) return {{34, 67, 0}, {-1074, -2148, -2148}};
  return {{6, 10, kind == PartialSums::Kind::gradients ? 10 : 0}, {-149, -298, -298}};
}

/// words += value * 2^shift. `shift` may be negative when value is a multiple of 2^-shift.
inline void add_scaled(std::uint64_t* words, int size, std::int64_t value, int shift) noexcept {
  if (shift < 0) {
    value = shift > -64 ? value >> -shift : 0;
    shift = 0;
  }
  const int word = shift / 64;
  const int bit = shift % 64;
  const auto low = static_cast<std::uint64_t>(value) << bit;
  const auto high = static_cast<std::uint64_t>(bit == 0 ? value >> 63 : value >> (64 - bit));
  const auto sign = static_cast<std::uint64_t>(value >> 63);

  words[word] += low;
  std::uint64_t carry = words[word] < low ? 1 : 0;
  std::uint64_t addend = high;
  for (int i = word + 1; i < size; ++i) {
    // Above the value's own words the addend is all zeros or all ones: nothing changes once the carry agrees.
    if (i > word + 1 && carry == (sign & 1)) break;
    const std::uint64_t sum = words[i] + addend;
    const std::uint64_t total = sum + carry;
    carry = static_cast<std::uint64_t>(sum < addend) | static_cast<std::uint64_t>(total < sum);
    words[i] = total;
    addend = sign;
  }
}

/// words += other, both of `size` words.
inline void add_words(std::uint64_t* words, const std::uint64_t* other, int size) noexcept {
  std::uint64_t carry = 0;
  for (int i = 0; i < size; ++i) {
    const std::uint64_t sum = words[i] + other[i];
    const std::uint64_t total = sum + carry;
    carry = static_cast<std::uint64_t>(sum < other[i]) | static_cast<std::uint64_t>(total < sum);
    words[i] = total;
  }
}

/// Refuses an argument `sums` of the other kind.
void check_kind(const PartialSums& sums, PartialSums::Kind expected);

/// What the library may do with PartialSums and users may not.
struct PartialSumsAccess {
  /// The words of one of the sums of a channel.
  static std::uint64_t* words(PartialSums& sums, Index channel, int which) noexcept {
    const SumFormat format = format_of(sums.kind_, sums.range_);
    return sums.words_.data() + channel * format.words_per_channel() + format.first_word(which);
  }
  static const std::uint64_t* words(const PartialSums& sums, Index channel, int which) noexcept {
    return words(const_cast<PartialSums&>(sums), channel, which);
  }
  static Index& nonfinite(PartialSums& sums, Index channel, int operand) noexcept {
    return sums.nonfinite_[static_cast<std::size_t>(2 * channel + operand)];
  }
  static Index nonfinite(const PartialSums& sums, Index channel, int operand) noexcept {
    return sums.nonfinite_[static_cast<std::size_t>(2 * channel + operand)];
  }
  static void set_count(PartialSums& sums, Index count) noexcept { sums.count_ = count; }

  /// Sums of nothing, with the memory kept: what was as large before is not allocated again.
  static void clear(PartialSums& sums, Index channels, PartialSums::Range range);
  /// Makes the range extended if it is not.
  static void widen(PartialSums& sums);
  /// Adds the sums and non-finite counts of one channel of `source` (of the same or a smaller range).
  static void add_channel(PartialSums& sums, Index channel, const PartialSums& source, Index source_channel);
};

}  // namespace exactnorm

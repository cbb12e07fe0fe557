#include "combine/short_sums.h"

#include <algorithm>
#include <bit>
#include <cstddef>

#include "combine/accumulator.h"

namespace exactnorm {

namespace {

// a * 2^a_shift + b * 2^b_shift, shifts not negative; false where that is no 64-bit integer.
bool add_shifted(std::int64_t a, int a_shift, std::int64_t b, int b_shift, std::int64_t& sum) noexcept {
  const auto shift_left = [](std::int64_t& value, int shift) {
    if (value == 0) return true;
    if (shift > 62) return false;
    const auto shifted = static_cast<std::int64_t>(static_cast<std::uint64_t>(value) << shift);
    if (shifted >> shift != value) return false;
    value = shifted;
    return true;
  };
  return shift_left(a, a_shift) && shift_left(b, b_shift) && !__builtin_add_overflow(a, b, &sum);
}

bool is_nothing(const ShortSums& sums, std::size_t at) noexcept {
  return sums.linear[at] == 0 && sums.upper[at] == 0 && sums.lower[at] == 0;
}

// A long integer in two's complement, and the power of two that its lowest bit stands for.
struct LongInteger {
  const std::uint64_t* words;
  int size;
  int unit_exponent;

  [[nodiscard]] std::uint64_t sign() const noexcept { return words[size - 1] >> 63 != 0 ? ~std::uint64_t{0} : 0; }

  // The exponents of the lowest bit that is set, and of the bit above the highest that is no sign: the integer is a
  // multiple of 2^low and of a magnitude of at most 2^high. False for 0.
  [[nodiscard]] bool find_range(int& low, int& high) const noexcept {
    int first = 0;
    while (first < size && words[first] == 0) ++first;
    if (first == size) return false;
    low = unit_exponent + 64 * first + std::countr_zero(words[first]);
    int last = size - 1;
    while (last > 0 && words[last] == sign()) --last;
    high = unit_exponent + 64 * last + 64 - std::countl_zero(words[last] ^ sign());
    return true;
  }

  // Bits from 2^exponent on, as many as 64, with signs above the highest and zeros below the lowest.
  [[nodiscard]] std::int64_t bits_from(int exponent) const noexcept {
    const int bit = exponent - unit_exponent;
    const int word = bit >= 0 ? bit / 64 : -((63 - bit) / 64);
    const int shift = bit - 64 * word;
    const auto at = [&](int i) { return i < 0 ? 0 : (i < size ? words[i] : sign()); };
    const std::uint64_t value = shift == 0 ? at(word) : at(word) >> shift | at(word + 1) << (64 - shift);
    return static_cast<std::int64_t>(value);
  }
};

LongInteger integer_of(const PartialSums& sums, Index channel, int which) noexcept {
  const SumFormat format = format_of(sums.kind(), sums.range());
  return {PartialSumsAccess::words(sums, channel, which), format.words[which], format.unit_exponents[which]};
}

}  // namespace

void ShortSums::resize(Index channels) {
  const auto count = static_cast<std::size_t>(channels);
  for (std::vector<std::int64_t>* values : {&linear, &upper, &lower}) values->assign(count, 0);
  for (std::vector<int>* exponents : {&first_exponents, &second_exponents}) exponents->assign(count, 0);
}

ShortView ShortSums::view(Index first, Index count) const noexcept {
  return {linear.data() + first,
          upper.data() + first,
          lower.data() + first,
          first_exponents.data() + first,
          second_exponents.data() + first,
          count};
}

bool merge_channel(ShortSums& to, Index channel, const ShortSums& from, Index from_channel) noexcept {
  const auto a = static_cast<std::size_t>(channel);
  const auto b = static_cast<std::size_t>(from_channel);
  if (is_nothing(from, b)) return true;
  if (is_nothing(to, a)) {
    to.first_exponents[a] = from.first_exponents[b];
    to.second_exponents[a] = from.second_exponents[b];
  }
  const int first = std::min(to.first_exponents[a], from.first_exponents[b]);
  const int second = std::min(to.second_exponents[a], from.second_exponents[b]);
  const int first_shift_a = to.first_exponents[a] - first;
  const int first_shift_b = from.first_exponents[b] - first;
  const int second_shift_a = first_shift_a + to.second_exponents[a] - second;
  const int second_shift_b = first_shift_b + from.second_exponents[b] - second;
  std::int64_t linear = 0;
  std::int64_t upper = 0;
  std::int64_t lower = 0;
  if (!add_shifted(to.linear[a], first_shift_a, from.linear[b], first_shift_b, linear) ||
      !add_shifted(to.upper[a], second_shift_a, from.upper[b], second_shift_b, upper) ||
      !add_shifted(to.lower[a], second_shift_a, from.lower[b], second_shift_b, lower)) {
    return false;
  }
  to.linear[a] = linear;
  to.upper[a] = upper;
  to.lower[a] = lower;
  to.first_exponents[a] = first;
  to.second_exponents[a] = second;
  return true;
}

bool to_short(const PartialSums& sums, Index channel, ShortSums& to, Index to_channel) noexcept {
  constexpr int integer_bits = 63;
  const LongInteger first_sum = integer_of(sums, channel, 0);
  const LongInteger second_sum = integer_of(sums, channel, 1);
  int first_low = 0;
  int first_high = 0;
  int second_low = 0;
  int second_high = 0;
  const bool has_first = first_sum.find_range(first_low, first_high);
  const bool has_second = second_sum.find_range(second_low, second_high);
  // The largest exponents of which both sums are multiples, so that as much as can be is below the integers' ends.
  int first = first_low - short_linear_unit;
  int both = second_low - short_lower_unit;
  if (sums.kind() == PartialSums::Kind::moments) {
    // One exponent, whose double the second sum counts in.
    const int half = both >= 0 ? both / 2 : -((1 - both) / 2);
    first = !has_second ? first : (!has_first ? half : std::min(first, half));
    both = 2 * first;
  }
  if (has_first && first_high > first + short_linear_unit + integer_bits) return false;
  if (has_second && second_high > both + short_upper_unit + integer_bits) return false;

  const auto at = static_cast<std::size_t>(to_channel);
  constexpr std::int64_t lower_mask = (std::int64_t{1} << (short_upper_unit - short_lower_unit)) - 1;
  to.linear[at] = has_first ? first_sum.bits_from(first + short_linear_unit) : 0;
  to.upper[at] = has_second ? second_sum.bits_from(both + short_upper_unit) : 0;
  to.lower[at] = has_second ? second_sum.bits_from(both + short_lower_unit) & lower_mask : 0;
  to.first_exponents[at] = has_first || has_second ? first : 0;
  to.second_exponents[at] = has_first || has_second ? both - first : 0;
  return true;
}

void add_to_long(const ShortSums& from, Index channel, PartialSums& sums, Index to_channel) noexcept {
  const auto at = static_cast<std::size_t>(channel);
  const SumFormat format = format_of(sums.kind(), sums.range());
  const int first = from.first_exponents[at];
  const int both = first + from.second_exponents[at];
  const auto add = [&](int which, std::int64_t value, int exponent) {
    if (value == 0) return;
    add_scaled(PartialSumsAccess::words(sums, to_channel, which), format.words[which], value,
               exponent - format.unit_exponents[which]);
  };
  add(0, from.linear[at], first + short_linear_unit);
  add(1, from.upper[at], both + short_upper_unit);
  add(1, from.lower[at], both + short_lower_unit);
}

}  // namespace exactnorm

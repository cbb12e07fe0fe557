#include "combine/short_sums.h"

#include <algorithm>

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

void add_to_long(const ShortSums& from, Index channel, PartialSums& sums, Index to_channel) noexcept {
  const auto at = static_cast<std::size_t>(channel);
  const SumFormat format = format_of(sums.range());
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

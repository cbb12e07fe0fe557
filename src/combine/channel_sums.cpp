#include "combine/channel_sums.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "combine/accumulator.h"

namespace exactnorm {

namespace {

// The invariant of the short integers: after n elements, `linear` and `upper` are at most n * most_per_element in
// magnitude, and after m elements since the last carry, `lower` is at most m * most_lower_per_element. Elements within
// the exponents keep it, since each adds less than 2^44 units to each integer; add() checks it, since its values come
// from any elements. Room is counted before its elements come: what add() fills of it, quick sums of the same elements
// may exceed once, by 2^15 elements' worth. The limits of n and m keep all three below 2^63 even so.
constexpr Index most_elements = Index{1} << 18;
constexpr Index elements_per_carry = Index{1} << 15;
constexpr int carry_bits = short_upper_unit - short_lower_unit;
constexpr std::int64_t most_lower_per_element = std::int64_t{1} << 47;
constexpr std::int64_t most_per_element = (std::int64_t{1} << 44) + (most_lower_per_element >> carry_bits);

// Adds a value of at most 62 bits to `sum` where the result keeps within the bound; if not, returns false and changes
// nothing.
bool add_within(std::int64_t& sum, std::int64_t value, std::int64_t bound) noexcept {
  std::int64_t total = 0;
  if (__builtin_add_overflow(sum, value, &total) || total > bound || total < -bound) return false;
  sum = total;
  return true;
}

// value * 2^shift, or false where that is not an integer of at most 62 bits.
bool shifted(std::int64_t value, int shift, std::int64_t& result) noexcept {
  if (value == 0) {
    result = 0;
    return true;
  }
  if (shift < 0) {
    if (-shift > std::countr_zero(static_cast<std::uint64_t>(value))) return false;
    result = value >> -shift;
    return true;
  }
  const auto magnitude = static_cast<std::uint64_t>(value < 0 ? -value : value);
  if (static_cast<int>(std::bit_width(magnitude)) + shift > 62) return false;
  result = static_cast<std::int64_t>(static_cast<std::uint64_t>(value) << shift);
  return true;
}

}  // namespace

void ChannelSums::reset(Index channels, PartialSums::Kind kind, PartialSums::Range range) {
  kind_ = kind;
  range_ = range;
  if (long_sums_.channels() != 0 || long_sums_.kind() != kind || long_sums_.range() != range) {
    long_sums_ = PartialSums(0, kind, range);
  }
  since_carry_ = 0;
  since_long_ = 0;
  short_sums_.resize(channels);
  has_guess_.assign(static_cast<std::size_t>(channels), 0);
  is_long_.assign(static_cast<std::size_t>(channels), 0);
}

PartialSums& ChannelSums::long_sums() {
  if (long_sums_.channels() != channels()) long_sums_ = PartialSums(channels(), kind_, range_);
  return long_sums_;
}

void ChannelSums::move_to_long(Index channel) {
  const auto at = static_cast<std::size_t>(channel);
  add_to_long(short_sums_, channel, long_sums(), channel);
  short_sums_.linear[at] = 0;
  short_sums_.upper[at] = 0;
  short_sums_.lower[at] = 0;
  is_long_[at] = 1;
}

bool ChannelSums::has_guesses(Index first_channel, Index count) const noexcept {
  const auto first = has_guess_.begin() + first_channel;
  return std::find(first, first + count, 0) == first + count;
}

void ChannelSums::raise_guess(Index channel, int first_exponent, int second_exponent) {
  const auto at = static_cast<std::size_t>(channel);
  int& first = short_sums_.first_exponents[at];
  int& second = short_sums_.second_exponents[at];
  if (has_guess_[at] == 0) {
    first = first_exponent;
    second = second_exponent;
    has_guess_[at] = 1;
  } else if (first_exponent > first || second_exponent > second) {
    if (short_sums_.linear[at] != 0 || short_sums_.upper[at] != 0 || short_sums_.lower[at] != 0) move_to_long(channel);
    first = std::max(first, first_exponent);
    second = std::max(second, second_exponent);
  }
}

void ChannelSums::make_room(Index count) {
  since_long_ += count;
  since_carry_ += count;
  if (since_long_ > most_elements) {
    for (Index channel = 0; channel < channels(); ++channel) move_to_long(channel);
    since_long_ = count;
    since_carry_ = count;
  } else if (since_carry_ > elements_per_carry) {
    for (std::size_t at = 0; at < short_sums_.lower.size(); ++at) {
      const std::int64_t carry = short_sums_.lower[at] >> carry_bits;
      short_sums_.upper[at] += carry;
      short_sums_.lower[at] -= static_cast<std::int64_t>(static_cast<std::uint64_t>(carry) << carry_bits);
    }
    since_carry_ = count;
  }
}

bool ChannelSums::add_short(Index channel, int which, std::int64_t value, int unit) noexcept {
  const auto at = static_cast<std::size_t>(channel);
  if (has_guess_[at] == 0) return false;
  const int first = short_sums_.first_exponents[at];
  const int both = first + short_sums_.second_exponents[at];
  const std::int64_t bound = since_long_ * most_per_element;
  std::int64_t& upper = short_sums_.upper[at];
  std::int64_t& lower = short_sums_.lower[at];
  std::int64_t integer = 0;
  if (which == 0) {
    return shifted(value, unit - (first + short_linear_unit), integer) &&
           add_within(short_sums_.linear[at], integer, bound);
  }
  if (shifted(value, unit - (both + short_upper_unit), integer)) return add_within(upper, integer, bound);
  if (!shifted(value, unit - (both + short_lower_unit), integer)) return false;
  const std::int64_t carry = integer >> carry_bits;
  const std::int64_t rest = integer - static_cast<std::int64_t>(static_cast<std::uint64_t>(carry) << carry_bits);
  if (!add_within(upper, carry, bound)) return false;
  if (add_within(lower, rest, since_carry_ * most_lower_per_element)) return true;
  upper -= carry;
  return false;
}

void ChannelSums::add(Index channel, int which, std::int64_t value, int unit) {
  if (add_short(channel, which, value, unit)) return;
  const SumFormat format = format_of(kind_, range_);
  add_scaled(PartialSumsAccess::words(long_sums(), channel, which), format.words[which], value,
             unit - format.unit_exponents[which]);
  is_long_[static_cast<std::size_t>(channel)] = 1;
}

void ChannelSums::count_nonfinite(Index channel, int operand) {
  ++PartialSumsAccess::nonfinite(long_sums(), channel, operand);
  is_long_[static_cast<std::size_t>(channel)] = 1;
}

void ChannelSums::merge(const ChannelSums& other, Index parts) {
  for (Index part = 0; part < other.channels(); ++part) {
    const Index channel = part / parts;
    const auto at = static_cast<std::size_t>(channel);
    if (!merge_channel(short_sums_, channel, other.short_sums_, part)) {
      add_to_long(other.short_sums_, part, long_sums(), channel);
      is_long_[at] = 1;
    }
    if (!other.is_short(part)) {
      PartialSumsAccess::add_channel(long_sums(), channel, other.long_sums_, part);
      is_long_[at] = 1;
    }
  }
}

const PartialSums& ChannelSums::long_sums_of(Index channel) {
  move_to_long(channel);
  return long_sums_;
}

void ChannelSums::add_to(PartialSums& sums, Index to_channel, Index channel) const {
  add_to_long(short_sums_, channel, sums, to_channel);
  if (!is_short(channel)) PartialSumsAccess::add_channel(sums, to_channel, long_sums_, channel);
}

}  // namespace exactnorm

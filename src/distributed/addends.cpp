#include "exactnorm/addends.h"

#include <cstddef>
#include <string>

#include "combine/accumulator.h"

namespace exactnorm {

namespace {

constexpr std::uint64_t piece_mask = 0xffffffff;
constexpr int operands = 2;

std::size_t addends_per_channel(PartialSums::Range range) {
  return static_cast<std::size_t>(2 * (operands + format_of(range).words_per_channel()));
}

void append(std::vector<std::int64_t>& addends, std::uint64_t word) {
  addends.push_back(static_cast<std::int64_t>(word & piece_mask));
  addends.push_back(static_cast<std::int64_t>(word >> 32));
}

// Reads totals in the order in which append() wrote the parts.
class Reader {
 public:
  explicit Reader(std::span<const std::int64_t> totals) : totals_(totals) {}

  /// The next number, modulo 2^64, with what is carried over to the one after it.
  std::uint64_t next(std::uint64_t& carry) {
    const std::uint64_t low = next_total() + carry;
    const std::uint64_t high = next_total() + (low >> 32);
    carry = high >> 32;
    return (low & piece_mask) | high << 32;
  }

  Index next_count() {
    std::uint64_t carry = 0;
    const std::uint64_t count = next(carry);
    if (carry != 0 || count > std::uint64_t{1} << 62) throw Error("totals", "are of more than 2^62 elements");
    return static_cast<Index>(count);
  }

 private:
  std::uint64_t next_total() {
    const std::int64_t total = totals_[at_++];
    if (total < 0) {
      throw Error("totals", "has " + std::to_string(total) + " at " + std::to_string(at_ - 1) +
                                "; expected 0 or more, the sum of what at most 2^31 - 1 calls of to_addends gave");
    }
    return static_cast<std::uint64_t>(total);
  }

  std::span<const std::int64_t> totals_;
  std::size_t at_ = 0;
};

}  // namespace

std::vector<std::int64_t> to_addends(const PartialSums& sums, PartialSums::Range range) {
  if (sums.range() == PartialSums::Range::extended && range == PartialSums::Range::single) {
    throw Error("range", "is single; expected extended, as the sums are");
  }
  if (sums.range() != range) {
    PartialSums wide = sums;
    PartialSumsAccess::widen(wide);
    return to_addends(wide, range);
  }
  std::vector<std::int64_t> addends;
  addends.reserve(2 + addends_per_channel(range) * static_cast<std::size_t>(sums.channels()));
  append(addends, static_cast<std::uint64_t>(sums.count()));
  for (Index channel = 0; channel < sums.channels(); ++channel) {
    for (int operand = 0; operand < operands; ++operand) {
      append(addends, static_cast<std::uint64_t>(PartialSumsAccess::nonfinite(sums, channel, operand)));
    }
    for (int which = 0; which < 2; ++which) {
      const std::uint64_t* words = PartialSumsAccess::words(sums, channel, which);
      for (int i = 0; i < format_of(range).words[which]; ++i) append(addends, words[i]);
    }
  }
  return addends;
}

PartialSums from_addends(std::span<const std::int64_t> totals, Index channels, PartialSums::Kind kind,
                         PartialSums::Range range) {
  PartialSums sums(channels, kind, range);
  const std::size_t expected = 2 + addends_per_channel(range) * static_cast<std::size_t>(channels);
  if (totals.size() != expected) {
    throw Error("totals", "has " + std::to_string(totals.size()) + " elements; expected " + std::to_string(expected) +
                              " for " + std::to_string(channels) + " channels");
  }
  Reader reader(totals);
  PartialSumsAccess::set_count(sums, reader.next_count());
  for (Index channel = 0; channel < channels; ++channel) {
    for (int operand = 0; operand < operands; ++operand) {
      PartialSumsAccess::nonfinite(sums, channel, operand) = reader.next_count();
    }
    for (int which = 0; which < 2; ++which) {
      std::uint64_t* words = PartialSumsAccess::words(sums, channel, which);
      // Two's complement: what is carried out of the last word is the parts' signs.
      std::uint64_t carry = 0;
      for (int i = 0; i < format_of(range).words[which]; ++i) words[i] = reader.next(carry);
    }
  }
  return sums;
}

}  // namespace exactnorm

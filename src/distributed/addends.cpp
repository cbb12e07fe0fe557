#include <algorithm>
#include <cstddef>
#include <string>

#include "exactnorm/sums.h"
#include "sums/superaccumulator.h"

namespace exactnorm {

namespace {

// Bits of a number that one addend carries: what 2^16 parts add up to is below 2^63.
constexpr int piece_bits = 47;
constexpr std::uint64_t piece_mask = (std::uint64_t{1} << piece_bits) - 1;
constexpr int operands = 2;

constexpr int pieces_of(int words) { return (64 * words + piece_bits - 1) / piece_bits; }

std::size_t addends_per_channel(PartialSums::Kind kind, PartialSums::Range range) {
  int pieces = operands * pieces_of(1);
  for (const int words : format_of(kind, range).words) pieces += pieces_of(words);
  return static_cast<std::size_t>(pieces);
}

// Appends the pieces of a number of `size` words, least significant first.
void append(std::vector<std::int64_t>& addends, const std::uint64_t* words, int size) {
  for (int bit = 0; bit < 64 * size; bit += piece_bits) {
    const int word = bit / 64;
    const int shift = bit % 64;
    std::uint64_t piece = words[word] >> shift;
    if (shift > 64 - piece_bits && word + 1 < size) piece |= words[word + 1] << (64 - shift);
    addends.push_back(static_cast<std::int64_t>(piece & piece_mask));
  }
}

// Reads totals in the order in which append() wrote the parts.
class Reader {
 public:
  explicit Reader(std::span<const std::int64_t> totals) : totals_(totals) {}

  /// The next number, modulo 2^(64 * size), two's complement; returns what does not fit.
  std::uint64_t next(std::uint64_t* words, int size) {
    std::fill_n(words, size, std::uint64_t{0});
    std::uint64_t carry = 0;
    for (int bit = 0; bit < 64 * size; bit += piece_bits) {
      const std::uint64_t total = next_total() + carry;
      const std::uint64_t piece = total & piece_mask;
      carry = total >> piece_bits;
      const int word = bit / 64;
      const int shift = bit % 64;
      words[word] |= piece << shift;
      if (shift <= 64 - piece_bits) continue;
      const std::uint64_t upper = piece >> (64 - shift);
      if (word + 1 < size) {
        words[word + 1] |= upper;
      } else {
        carry = carry << (piece_bits - (64 - shift)) | upper;
      }
    }
    return carry;
  }

  Index next_count() {
    std::uint64_t count = 0;
    if (next(&count, 1) != 0 || count > std::uint64_t{1} << 62) throw Error("totals", "are of more than 2^62 elements");
    return static_cast<Index>(count);
  }

 private:
  std::uint64_t next_total() {
    const std::int64_t total = totals_[at_++];
    if (total < 0) {
      throw Error("totals", "has " + std::to_string(total) + " at " + std::to_string(at_ - 1) +
                                "; expected 0 or more, the sum of what at most 65,536 calls of to_addends gave");
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
  addends.reserve(pieces_of(1) + addends_per_channel(sums.kind(), range) * static_cast<std::size_t>(sums.channels()));
  const auto append_count = [&](Index count) {
    const auto word = static_cast<std::uint64_t>(count);
    append(addends, &word, 1);
  };
  append_count(sums.count());
  for (Index channel = 0; channel < sums.channels(); ++channel) {
    for (int operand = 0; operand < operands; ++operand) {
      append_count(PartialSumsAccess::nonfinite(sums, channel, operand));
    }
    for (int which = 0; which < SumFormat::sums; ++which) {
      append(addends, PartialSumsAccess::words(sums, channel, which), format_of(sums.kind(), range).words[which]);
    }
  }
  return addends;
}

PartialSums from_addends(std::span<const std::int64_t> totals, Index channels, PartialSums::Kind kind,
                         PartialSums::Range range) {
  PartialSums sums(channels, kind, range);
  const std::size_t expected = pieces_of(1) + addends_per_channel(kind, range) * static_cast<std::size_t>(channels);
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
    for (int which = 0; which < SumFormat::sums; ++which) {
      // What does not fit are the parts' signs.
      (void)reader.next(PartialSumsAccess::words(sums, channel, which), format_of(kind, range).words[which]);
    }
  }
  return sums;
}

}  // namespace exactnorm

// Sums that grow, in short integers and in long ones, against integers.
#include "combine/channel_sums.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "combine/accumulator.h"
#include "support/integer.h"
#include "support/random.h"
#include "support/short_sums.h"

namespace exactnorm::testing {
namespace {

using Kind = PartialSums::Kind;
using Range = PartialSums::Range;

constexpr Index most_at_once = Index{1} << 15;

Integer sum_of(const PartialSums& sums, Index channel, int which) {
  const std::uint64_t* words = PartialSumsAccess::words(sums, channel, which);
  return number({words, words + format_of(sums.kind(), sums.range()).words[which]});
}

// The units of the long integers: the lowest bit of the smallest number, and of its square.
int lowest_unit(Range range, int which) { return (range == Range::single ? -149 : -1074) * (which + 1); }

/// What some channels should hold, in the units of the extended range.
struct Expected {
  std::vector<Integer> sums[2];
  std::vector<Index> nonfinite[2];

  explicit Expected(Index channels) {
    for (auto& column : sums) column.resize(static_cast<std::size_t>(channels));
    for (auto& column : nonfinite) column.resize(static_cast<std::size_t>(channels));
  }
  void add(Index channel, int which, const Integer& value, int unit) {
    sums[which][static_cast<std::size_t>(channel)] +=
        value << static_cast<unsigned>(unit - lowest_unit(Range::extended, which));
  }
  void merge(const Expected& other) {
    for (std::size_t which = 0; which < 2; ++which) {
      for (std::size_t i = 0; i < sums[which].size(); ++i) {
        sums[which][i] += other.sums[which][i];
        nonfinite[which][i] += other.nonfinite[which][i];
      }
    }
  }
};

void expect_channel(const PartialSums& found, Index at, const Expected& expected, Index channel) {
  for (const int which : {0, 1}) {
    const int shift = lowest_unit(found.range(), which) - lowest_unit(Range::extended, which);
    EXPECT_EQ(Integer(sum_of(found, at, which) << static_cast<unsigned>(shift)),
              expected.sums[which][static_cast<std::size_t>(channel)])
        << "sum " << which << " of channel " << channel;
    EXPECT_EQ(PartialSumsAccess::nonfinite(found, at, which),
              expected.nonfinite[which][static_cast<std::size_t>(channel)]);
  }
}

/// Through add_to, in both ranges where they may be, beside what is there; then as long integers.
void expect_sums(ChannelSums& sums, const Expected& expected, Range range) {
  const Index channels = sums.channels();
  for (const Range to_range : {range, Range::extended}) {
    PartialSums to(channels + 1, sums.kind(), to_range);
    Expected twice = expected;
    twice.merge(expected);
    for (Index channel = 0; channel < channels; ++channel) {
      sums.add_to(to, channel + 1, channel);
      expect_channel(to, channel + 1, expected, channel);
      sums.add_to(to, channel + 1, channel);
      expect_channel(to, channel + 1, twice, channel);
    }
    EXPECT_EQ(sum_of(to, 0, 0), 0);
    EXPECT_EQ(sum_of(to, 0, 1), 0);
  }
  for (Index channel = 0; channel < channels; ++channel) {
    expect_channel(sums.long_sums_of(channel), channel, expected, channel);
    // Nothing is left to be counted twice.
    PartialSums to(1, sums.kind(), range);
    sums.add_to(to, 0, channel);
    expect_channel(to, 0, expected, channel);
  }
}

/// Sums of `rows` numbers below 2^(e+1) and their products with others below 2^(f+1), as the reduce room adds them:
/// in several parts, each an integer of at most 53 bits times a power of two.
class Source {
 public:
  Source(Random& random, Range range) : random_(&random), range_(range) {
    // Near the ends of the range, or in its midst; extended sums hold float32 numbers, too.
    const int lowest = range == Range::single || random.chance(0.5) ? -126 : -1022;
    for (int& exponent : exponents_) exponent = static_cast<int>(random.between(lowest, -lowest - 20));
  }
  void raise(ChannelSums& sums, Index channel) {
    if (random_->chance(0.1)) exponents_[random_->between(0, 1)] += static_cast<int>(random_->between(-3, 3));
    sums.raise_guess(channel, exponents_[0], exponents_[1]);
  }
  void add(ChannelSums& sums, Expected& expected, Index channel, Index rows) {
    add_part(sums, expected, channel, 0, rows, exponents_[0] + 1, 43);
    // The products' upper and lower parts, which may be of numbers far smaller than the guess.
    const int both = exponents_[0] + exponents_[1] + 2;
    add_part(sums, expected, channel, 1, rows, both, 44);
    add_part(sums, expected, channel, 1, rows, both - 42, static_cast<int>(random_->between(0, 44)));
    if (random_->chance(0.1)) add_part(sums, expected, channel, 1, rows, both - 150, 44);
  }

 private:
  // A number below rows * 2^limit, of `bits` bits beside those of rows.
  void add_part(ChannelSums& sums, Expected& expected, Index channel, int which, Index rows, int limit, int bits) {
    const int unit = std::max(limit - bits, lowest_unit(range_, which));
    if (unit >= limit) return;
    const Index largest_value = rows * (Index{1} << (limit - unit)) - 1;
    const Index value = random_->chance(0.3) ? (random_->chance(0.5) ? largest_value : -largest_value)
                                             : random_->between(-largest_value, largest_value);
    sums.add(channel, which, value, unit);
    expected.add(channel, which, value, unit);
  }

  Random* random_;
  Range range_;
  int exponents_[2] = {};
};

void fill(Random& random, ChannelSums& sums, Expected& expected, Range range, bool with_guesses) {
  std::vector<Source> sources(static_cast<std::size_t>(sums.channels()), Source(random, range));
  const Index passes = random.between(0, 40);
  const bool many = random.chance(0.3);
  for (Index pass = 0; pass < passes; ++pass) {
    const Index rows = many ? most_at_once : random.between(1, 512);
    sums.make_room(rows);
    for (Index channel = 0; channel < sums.channels(); ++channel) {
      Source& source = sources[static_cast<std::size_t>(channel)];
      if (random.chance(0.1)) source = Source(random, range);
      // Numbers keep within the guess, where there is one.
      if (with_guesses) source.raise(sums, channel);
      source.add(sums, expected, channel, std::min<Index>(rows, 512));
      if (random.chance(0.02)) {
        const int operand = static_cast<int>(random.between(0, 1));
        sums.count_nonfinite(channel, operand);
        ++expected.nonfinite[operand][static_cast<std::size_t>(channel)];
      }
    }
  }
}

TEST(ChannelSums, AddAndMergeAsIntegersDo) {
  Random random(501);
  ChannelSums kept(3, Kind::moments, Range::single);
  for (int i = 0; i < 300 && !HasFailure(); ++i) {
    const Range range = random.chance(0.5) ? Range::single : Range::extended;
    const Kind kind = random.chance(0.5) ? Kind::moments : Kind::gradients;
    const Index channels = random.between(1, 5);
    // What was there before is gone.
    kept.reset(channels, kind, range);
    ASSERT_EQ(kept.channels(), channels);
    ASSERT_EQ(kept.kind(), kind);
    Expected expected(channels);
    fill(random, kept, expected, range, random.chance(0.8));
    std::vector<ChannelSums> parts;
    std::vector<std::size_t> order;
    for (Index part = random.between(0, 3); part > 0; --part) {
      Expected more(channels);
      order.push_back(parts.size());
      fill(random, parts.emplace_back(channels, kind, range), more, range, random.chance(0.8));
      expected.merge(more);
    }
    random.shuffle(order);
    for (const std::size_t part : order) kept.merge(parts[part]);
    expect_sums(kept, expected, range);
  }
}

TEST(ChannelSums, AreNothingAfterReset) {
  Random random(502);
  ChannelSums sums(4, Kind::moments, Range::single);
  for (int i = 0; i < 20; ++i) {
    Expected unused(4);
    fill(random, sums, unused, Range::single, true);
    sums.count_nonfinite(2, 1);
    sums.reset(4, Kind::moments, Range::single);
    for (Index channel = 0; channel < 4; ++channel) {
      EXPECT_TRUE(sums.is_short(channel));
      EXPECT_FALSE(sums.has_guesses(channel, 1));
    }
    expect_sums(sums, Expected(4), Range::single);
    sums.reset(4, Kind::moments, Range::single);
  }
}

TEST(ChannelSums, KnowWhichGuessesTheyHave) {
  ChannelSums sums(6, Kind::gradients, Range::single);
  for (const Index channel : {1, 2, 3}) sums.raise_guess(channel, 4, -5);
  EXPECT_TRUE(sums.has_guesses(1, 3));
  EXPECT_TRUE(sums.has_guesses(2, 1));
  EXPECT_FALSE(sums.has_guesses(0, 2));
  EXPECT_FALSE(sums.has_guesses(3, 2));
  sums.raise_guess(2, 3, -4);
  sums.raise_guess(3, 3, -6);
  const ShortSums& shorts = sums.short_sums();
  EXPECT_EQ(shorts.first_exponents[2], 4);
  EXPECT_EQ(shorts.second_exponents[2], -4);
  EXPECT_EQ(shorts.first_exponents[3], 4);
  EXPECT_EQ(shorts.second_exponents[3], -5);
}

// Values that are far larger than the elements which room was made for: of numbers that have outgrown their guess.
TEST(ChannelSums, TakeValuesOfAnySizeUnderAGuess) {
  Random random(503);
  ChannelSums sums(1, Kind::gradients, Range::single);
  for (int round = 0; round < 40 && !HasFailure(); ++round) {
    sums.reset(1, Kind::gradients, Range::single);
    sums.raise_guess(0, 3, -4);
    Expected expected(1);
    const int bits = static_cast<int>(random.between(40, 62));
    const bool one_sign = random.chance(0.7);
    for (int pass = 0; pass < 50; ++pass) {
      sums.make_room(random.between(1, 512));
      for (const auto& [which, unit] : {std::pair{0, 3 - 43}, {1, -1 - 42}, {1, -1 - 87}}) {
        const std::int64_t value = random.between(std::int64_t{1} << (bits - 1), (std::int64_t{1} << bits) - 1);
        const std::int64_t signed_value = one_sign || random.chance(0.5) ? value : -value;
        sums.add(0, which, signed_value, unit);
        expected.add(0, which, signed_value, unit);
      }
    }
    expect_sums(sums, expected, Range::single);
  }
}

// As much as may come: each element at its largest in the first sum and the upper part of the second, and three
// numbers that fill the lower part. Without carries, or without the long integers, 64 bits would not do.
TEST(ChannelSums, HoldTheMostThatMayCome) {
  ChannelSums sums(1, Kind::moments, Range::single);
  for (const std::int64_t sign : {1, -1}) {
    constexpr int exponent = 5;
    constexpr int rounds = 20;  // more than 2^18 elements, twice
    sums.reset(1, Kind::moments, Range::single);
    sums.raise_guess(0, exponent, exponent);
    Expected expected(1);
    const std::int64_t most = sign * ((std::int64_t{1} << 44) - 1);
    // Odd, so that it cannot be taken for a multiple of the upper unit.
    const std::int64_t lower = sign > 0 ? (std::int64_t{1} << 45) - 1 : 1 - (std::int64_t{1} << 45);
    for (int round = 0; round < rounds; ++round) {
      sums.make_room(most_at_once);
      EXPECT_EQ(sums.is_short(0), round < 8);
      for (Index i = 0; i < most_at_once; ++i) {
        sums.add(0, 0, most, exponent - 43);
        sums.add(0, 1, most, 2 * exponent - 42);
        // As a pass under the guess adds them.
        if (i % 2 == 0) sums.short_sums().lower[0] += lower;
        for (int number = i % 2 == 0 ? 1 : 0; number < 3; ++number) sums.add(0, 1, lower, 2 * exponent - 87);
      }
      expected.add(0, 0, Integer(most) * most_at_once, exponent - 43);
      expected.add(0, 1, Integer(most) * most_at_once, 2 * exponent - 42);
      expected.add(0, 1, Integer(lower) * 3 * most_at_once, 2 * exponent - 87);
    }
    expect_sums(sums, expected, Range::single);
  }
}

}  // namespace
}  // namespace exactnorm::testing

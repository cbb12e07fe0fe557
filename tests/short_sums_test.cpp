// Short sums are added as integers of any size are.
#include "support/short_sums.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

#include "combine/accumulator.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

Channel random_channel(Random& random, int exponents) {
  const auto any = [&] { return static_cast<std::int64_t>(random.bits()) >> random.between(0, 63); };
  Channel channel = {any(), any(), any(), static_cast<int>(random.between(-exponents, exponents)),
                     static_cast<int>(random.between(-exponents, exponents))};
  if (random.chance(0.1)) channel.linear = 0;
  if (random.chance(0.1)) channel.upper = random.chance(0.5) ? largest : 0;
  if (random.chance(0.1)) channel.lower = random.chance(0.5) ? smallest : 0;
  if (random.chance(0.05)) channel = {0, 0, 0, 1000, -1000};
  return channel;
}

TEST(ShortSums, MergeAsIntegersDo) {
  Random random(909);
  int merged = 0;
  int refused = 0;
  for (int i = 0; i < 20000 && !HasFailure(); ++i) {
    ShortSums to;
    ShortSums from;
    to.resize(1);
    from.resize(2);
    const Channel a = random_channel(random, 10);
    const Channel b = random_channel(random, i % 5 == 0 ? 120 : 10);
    append(to, a);
    append(from, b);
    const bool nothing =
        (a.linear == 0 && a.upper == 0 && a.lower == 0) || (b.linear == 0 && b.upper == 0 && b.lower == 0);
    // The three integers in units of the smaller exponents.
    const int first = std::min(a.first, b.first);
    const int both = first + std::min(a.second, b.second);
    const auto total = [&](std::int64_t x, int x_exponent, std::int64_t y, int y_exponent, int exponent) {
      return Integer((Integer(x) << static_cast<unsigned>(x_exponent - exponent)) +
                     (Integer(y) << static_cast<unsigned>(y_exponent - exponent)));
    };
    const auto aligned = [&](std::int64_t x, int x_exponent, int exponent) {
      const Integer value = Integer(x) << static_cast<unsigned>(x_exponent - exponent);
      return value >= smallest && value <= largest;
    };
    bool fits = true;
    if (!nothing) {
      const int a_both = a.first + a.second;
      const int b_both = b.first + b.second;
      for (const Integer& sum :
           {total(a.linear, a.first, b.linear, b.first, first), total(a.upper, a_both, b.upper, b_both, both),
            total(a.lower, a_both, b.lower, b_both, both)}) {
        fits = fits && sum >= smallest && sum <= largest;
      }
      fits = fits && aligned(a.linear, a.first, first) && aligned(b.linear, b.first, first) &&
             aligned(a.upper, a_both, both) && aligned(b.upper, b_both, both) && aligned(a.lower, a_both, both) &&
             aligned(b.lower, b_both, both);
    }
    ASSERT_EQ(merge_channel(to, 1, from, 2), fits);
    const Channel result = channel_of(to, 1);
    if (fits) {
      ++merged;
      EXPECT_EQ(first_sum(result), first_sum(a) + first_sum(b));
      EXPECT_EQ(second_sum(result), second_sum(a) + second_sum(b));
    } else {
      ++refused;
      EXPECT_EQ(first_sum(result), first_sum(a));
      EXPECT_EQ(second_sum(result), second_sum(a));
      EXPECT_EQ(result.first, a.first);
      EXPECT_EQ(result.second, a.second);
    }
    EXPECT_EQ(to.linear[0], 0);
  }
  EXPECT_GE(merged, 2000);
  EXPECT_GE(refused, 2000);
}

TEST(ShortSums, AreAddedToLongSums) {
  Random random(910);
  for (int i = 0; i < 5000 && !HasFailure(); ++i) {
    const bool single = random.chance(0.5);
    ShortSums sums;
    sums.resize(3);
    Channel channel = random_channel(random, single ? 127 : 1000);
    if (channel.linear == 0 && channel.upper == 0 && channel.lower == 0) channel.first = channel.second = 0;
    // Multiples of the long sums' units, as sums of float32 or float64 are.
    const int units[2] = {single ? -149 : -1074, single ? -298 : -2148};
    const auto multiple = [](std::int64_t& value, int missing) {
      if (missing > 0)
        value = missing > 62 ? 0 : static_cast<std::int64_t>(static_cast<std::uint64_t>(value) << missing);
    };
    const int both = channel.first + channel.second;
    multiple(channel.linear, units[0] - (channel.first - 43));
    multiple(channel.upper, units[1] - (both - 42));
    multiple(channel.lower, units[1] - (both - 87));
    append(sums, channel);
    PartialSums to(2, PartialSums::Kind::moments, single ? PartialSums::Range::single : PartialSums::Range::extended);
    add_to_long(sums, 3, to, 1);
    add_to_long(sums, 3, to, 1);
    add_to_long(sums, 0, to, 1);
    const SumFormat format = format_of(to.kind(), to.range());
    const Rational expected[2] = {first_sum(channel) * 2, second_sum(channel) * 2};
    for (int which = 0; which < 2; ++which) {
      const std::uint64_t* words = PartialSumsAccess::words(to, 1, which);
      EXPECT_EQ(times_power(number({words, words + format.words[which]}), format.unit_exponents[which]),
                expected[which]);
    }
    EXPECT_EQ(number({PartialSumsAccess::words(to, 0, 0), PartialSumsAccess::words(to, 1, 0)}), 0);
  }
}

TEST(ShortSums, AreEmptiedByResize) {
  ShortSums sums;
  append(sums, {1, 2, 3, 4, 5});
  sums.resize(2);
  EXPECT_EQ(sums.size(), 2);
  for (std::size_t i = 0; i < 2; ++i) {
    const Channel channel = channel_of(sums, i);
    EXPECT_EQ(channel.linear, 0);
    EXPECT_EQ(channel.upper, 0);
    EXPECT_EQ(channel.lower, 0);
  }
  EXPECT_EQ(sums.view(1, 1).linear, sums.linear.data() + 1);
  EXPECT_EQ(sums.view(1, 1).size, 1);
}

// Long sums of any bits: what is made short stands for the same numbers, and what would fit is made short.
TEST(ShortSums, OfLongSumsAreTheSameNumbers) {
  Random random(910);
  int shortened = 0;
  for (int i = 0; i < 20000 && !HasFailure(); ++i) {
    const auto kind = random.chance(0.5) ? PartialSums::Kind::moments : PartialSums::Kind::gradients;
    const auto range = random.chance(0.5) ? PartialSums::Range::single : PartialSums::Range::extended;
    ShortSums from;
    Channel channel = random_channel(random, 30);
    if (kind == PartialSums::Kind::moments) channel.second = channel.first;
    append(from, channel);
    PartialSums sums(1, kind, range);
    add_to_long(from, 0, sums, 0);
    const bool is_beyond = random.chance(0.3);
    if (is_beyond) {  // one more bit, anywhere
      const int which = random.chance(0.5) ? 0 : 1;
      const auto word = random.between(0, format_of(PartialSums::Kind::moments, range).words[which] - 1);
      PartialSumsAccess::words(sums, 0, which)[word] ^= std::uint64_t{1} << random.between(0, 63);
    }
    ShortSums to;
    append(to, {5, 6, 7, 8, 9});
    if (to_short(sums, 0, to, 0)) {
      ++shortened;
      PartialSums back(1, kind, range);
      add_to_long(to, 0, back, 0);
      EXPECT_EQ(back, sums);
    } else {
      EXPECT_EQ(to.upper[0], 6);
      // The lower integer of the channels above may reach beyond the upper one's lowest bits.
      EXPECT_TRUE(is_beyond || channel.upper > largest / 2 || channel.upper < smallest / 2 ||
                  kind == PartialSums::Kind::moments);
    }
  }
  EXPECT_GT(shortened, 10000);
}

TEST(ShortSums, HoldTheSumsOfOrdinaryData) {
  Random random(911);
  Tensor x(DType::float32, {3000, 8});
  Tensor dy(DType::float32, {3000, 8});
  for (Index i = 0; i < x.count(); ++i) {
    x.set(i, 100 * random.normal() + (i % 8 == 7 ? 0 : 1000));
    dy.set(i, 0.01 * random.normal());
  }
  PartialSums moments(8);
  PartialSums gradients(8, PartialSums::Kind::gradients);
  accumulate(moments, x.view());
  accumulate(gradients, dy.view(), x.view());
  ShortSums to;
  to.resize(8);
  for (Index channel = 0; channel < 8; ++channel) {
    EXPECT_TRUE(to_short(moments, channel, to, channel));
    EXPECT_TRUE(to_short(gradients, channel, to, channel));
  }
}

}  // namespace
}  // namespace exactnorm::testing

// Statistics from short sums, against exact rationals and the solutions of long sums.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "solve/solve_short.h"
#include "support/oracle.h"
#include "support/short_sums.h"

namespace exactnorm::testing {
namespace {

struct Problem {
  ShortSums sums;
  Index count = 1;
};

constexpr std::size_t guards = 3;
constexpr double guard = 123.25;

// Solves on every target; checks all that is solved, and that no target writes beyond the end. Returns how many
// channels all targets solved.
Index check_statistics(const Problem& problem, const Options& options = {}) {
  const auto size = static_cast<std::size_t>(problem.sums.size());
  const PartialSums exact_sums = long_sums(problem.sums, PartialSums::Kind::moments);
  std::vector<bool> solved_by_all(size, true);
  std::vector<bool> compared(size);
  on_every_target([&] {
    std::vector<double> values[4];
    for (std::vector<double>& value : values) value.assign(size + guards, guard);
    std::vector<std::uint8_t> solved(size + guards, 77);
    const Index number =
        solve_short_statistics(problem.sums.view(), problem.count, options,
                               {values[0].data(), values[1].data(), values[2].data(), values[3].data(), solved.data()});
    Index sum = 0;
    for (std::size_t i = 0; i < size && !::testing::Test::HasFailure(); ++i) {
      ASSERT_LE(solved[i], 1);
      sum += solved[i];
      if (solved[i] == 0) {
        solved_by_all[i] = false;
        continue;
      }
      SCOPED_TRACE(::testing::Message() << "channel " << i << " of " << problem.count << ": " << problem.sums.linear[i]
                                        << " " << problem.sums.upper[i] << " " << problem.sums.lower[i] << " "
                                        << problem.sums.first_exponents[i]);
      const ChannelStatistics exact = solve_statistics(exact_sums, static_cast<Index>(i), problem.count, options);
      EXPECT_TRUE(same(values[0][i], exact.mean)) << values[0][i] << " " << exact.mean;
      EXPECT_TRUE(same(values[1][i], exact.mean_residual)) << values[1][i] << " " << exact.mean_residual;
      EXPECT_TRUE(same(values[2][i], exact.variance)) << values[2][i] << " " << exact.variance;
      EXPECT_TRUE(same(values[3][i], exact.inverse_deviation)) << values[3][i] << " " << exact.inverse_deviation;
      if (compared[i]) continue;  // by another target
      compared[i] = true;
      const Channel channel = channel_of(problem.sums, i);
      const Rational mean = first_sum(channel) / problem.count;
      EXPECT_EQ(values[0][i], correctly_rounded(mean));
      EXPECT_EQ(values[1][i], correctly_rounded(Rational(mean - rational(values[0][i]))));
      EXPECT_EQ(values[2][i], correctly_rounded(Rational(second_sum(channel) / problem.count - mean * mean)));
    }
    EXPECT_EQ(number, sum);
    for (std::size_t i = size; i < size + guards; ++i) {
      EXPECT_EQ(solved[i], 77);
      for (const std::vector<double>& value : values) EXPECT_EQ(value[i], guard);
    }
  });
  return std::count(solved_by_all.begin(), solved_by_all.end(), true);
}

TEST(ShortStatistics, OfOrdinaryChannels) {
  Random random(901);
  Index channels = 0;
  Index solved = 0;
  for (const Index count : {7, 33, 100, 1000}) {
    for (const double ratio : {0.0, 0.3, 10.0, 1e3, 1e5, 1e7}) {
      Problem problem;
      problem.count = count;
      for (int i = 0; i < 37; ++i) {
        Elements elements(random);
        for (Index j = 0; j < count; ++j) elements.add(element(random, random.chance(0.5) ? ratio : -ratio, 43));
        Elements one_sign(random);
        for (Index j = 0; j < count; ++j)
          one_sign.add(element(random, ratio, static_cast<int>(random.between(30, 43))));
        const auto exponent = static_cast<int>(random.between(-140, 127));
        Channel channel;
        ASSERT_TRUE((i % 2 == 0 ? elements : one_sign).channel(exponent, exponent, channel));
        append(problem.sums, channel);
      }
      Options options;
      options.epsilon = random.chance(0.5) ? 1e-5 : 0;
      options.epsilon_placement = random.chance(0.5) ? EpsilonPlacement::variance : EpsilonPlacement::deviation;
      channels += problem.sums.size();
      solved += check_statistics(problem, options);
      if (HasFailure()) return;
    }
  }
  EXPECT_GE(static_cast<double>(solved), 0.999 * static_cast<double>(channels)) << solved << " of " << channels;
}

// Sums of any size over any count: many are not sums of anything, but rounding can tell.
TEST(ShortStatistics, OfAnySums) {
  Random random(902);
  Index solved = 0;
  for (int i = 0; i < 400 && !HasFailure(); ++i) {
    Problem problem;
    problem.count = std::array{Index{1},
                               Index{2},
                               Index{3},
                               random.between(1, 100),
                               random.between(1, 1000000000),
                               Index{1} << random.between(0, 29),
                               Index{1000000000},
                               (Index{1} << 30) - 1}[static_cast<std::size_t>(random.between(0, 7))];
    for (Index size = random.between(0, 20); size > 0; --size) {
      const auto any = [&] { return static_cast<std::int64_t>(random.bits()) >> random.between(0, 63); };
      Channel channel = {any(), any(), any(), 0, 0};
      if (random.chance(0.1)) channel.linear = random.chance(0.5) ? largest : smallest;
      if (random.chance(0.1)) channel.upper = random.chance(0.5) ? largest : smallest;
      if (random.chance(0.1)) channel.lower = random.chance(0.5) ? largest : smallest;
      if (random.chance(0.1)) channel.lower = 0;
      if (random.chance(0.5)) channel.upper = std::abs(std::max(channel.upper, -largest));
      channel.first = channel.second = static_cast<int>(random.between(-400, 400));
      if (random.chance(0.05)) ++channel.second;
      append(problem.sums, channel);
    }
    Options options;
    options.epsilon = random.chance(0.5) ? 1e-5 : 0;
    solved += check_statistics(problem, options);
  }
  EXPECT_GE(solved, 500);
}

TEST(ShortStatistics, OfConstantChannels) {
  Random random(903);
  for (const Index count : {Index{1}, Index{3}, Index{64}, Index{12544}, Index{1} << 20}) {
    Problem problem;
    problem.count = count;
    for (int i = 0; i < 21; ++i) {
      const int bits = static_cast<int>(random.between(0, count > 60000 ? 42 : 44));
      const Integer value = static_cast<std::int64_t>(random.bits() >> 1) >> (63 - bits);
      const Integer signed_value = i % 2 == 0 ? value : Integer(-value);
      const Integer sum = 2 * count * value * value;
      const auto exponent = static_cast<int>(random.between(-140, 127));
      append(problem.sums, {static_cast<std::int64_t>(signed_value * count), static_cast<std::int64_t>(sum >> 45U),
                            static_cast<std::int64_t>(sum & ((Integer(1) << 45U) - 1)), exponent, exponent});
    }
    append(problem.sums, {});
    EXPECT_EQ(check_statistics(problem), problem.sums.size());
    Options without_epsilon;
    without_epsilon.epsilon = 0;
    EXPECT_EQ(check_statistics(problem, without_epsilon), problem.sums.size());
  }
}

// Means halfway between two float64 numbers, and as near to that as sums can be.
TEST(ShortStatistics, OfTiesOfMeans) {
  Random random(904);
  Index ties = 0;
  Index solved = 0;
  // Odd parts that float64's own inverses are and are not good enough for.
  for (const Index odd_part : {1, 3, 5, 49, 103, 107, 161, 187, 197, 255}) {
    for (int round = 0; round < 40 && !HasFailure(); ++round) {
      Problem problem;
      const auto power = random.between(12, 20);
      problem.count = odd_part << power;
      for (int i = 0; i < 9; ++i) {
        // A mean of 54 bits, the lowest of them set.
        const std::int64_t odd = (std::int64_t{1} << 53) + random.between(0, (std::int64_t{1} << 52) - 1) * 2 + 1;
        const Integer linear = odd * odd_part + (random.chance(0.3) ? random.between(-1, 1) : 0);
        const Integer second = 2 * linear * linear / problem.count + random.between(1, std::int64_t{1} << 50);
        const Integer upper = second >> 45U;
        const auto sum = static_cast<std::int64_t>(linear);
        append(problem.sums, {random.chance(0.5) ? sum : -sum, static_cast<std::int64_t>(upper),
                              static_cast<std::int64_t>(second - (upper << 45U)), 3, 3});
      }
      ties += problem.sums.size();
      solved += check_statistics(problem);
    }
  }
  EXPECT_GE(static_cast<double>(solved), 0.999 * static_cast<double>(ties)) << ties;
}

// The same for variances, whose ties are refused unless the count is a power of two.
TEST(ShortStatistics, OfTiesOfVariances) {
  Random random(911);
  Index of_power = 0;
  Index solved_of_power = 0;
  Index solved = 0;
  for (const Index count : {1, 2, 3, 4, 5, 7, 8, 48, 49, 1023, 1024, 98, 65536, 1 << 20, 1000000}) {
    const bool power_of_two = (count & (count - 1)) == 0;
    for (int round = 0; round < 40 && !HasFailure(); ++round) {
      Problem problem;
      problem.count = count;
      for (int i = 0; i < 9; ++i) {
        const std::int64_t linear = random.between(-1000000, 1000000) * count;
        // v halves of a unit: n * Q - 2 * L^2 = n^2 * v, so that Q = n * v + 2 * L^2 / n.
        Integer v = Integer(static_cast<std::int64_t>(random.bits() >> 11)) * 2 + (Integer(1) << 53U) + 1;
        if (random.chance(0.2)) v = (Integer(1) << 54U) - 1;
        // Up to the largest sums, of which twice 53 bits hold too little to see that they are next to a tie.
        const auto most = 54 - static_cast<Index>(std::bit_width(static_cast<std::uint64_t>(count - 1)));
        v <<= static_cast<unsigned>(random.chance(0.3) ? most : random.between(0, most));
        Integer second = v * count + 2 * Integer(linear) * linear / count;
        if (random.chance(0.3)) second += random.between(-1, 1);
        const Integer upper = second >> 45U;
        append(problem.sums,
               {linear, static_cast<std::int64_t>(upper), static_cast<std::int64_t>(second - (upper << 45U)), 3, 3});
      }
      const Index number = check_statistics(problem);
      (power_of_two ? solved_of_power : solved) += number;
      if (power_of_two) of_power += problem.sums.size();
    }
  }
  EXPECT_GE(static_cast<double>(solved_of_power), 0.85 * static_cast<double>(of_power)) << of_power;
  EXPECT_GE(solved, 200);
}

TEST(ShortStatistics, RefusesWhatItCannotProve) {
  Problem problem;
  append(problem.sums, {1, 1, 1, 0, 0});
  EXPECT_EQ(check_statistics(problem), 1);
  for (const Index count : {Index{0}, Index{-5}, Index{1} << 30, Index{1} << 53, std::numeric_limits<Index>::max()}) {
    problem.count = count;
    std::uint8_t solved = 7;
    double values[4];
    EXPECT_EQ(
        solve_short_statistics(problem.sums.view(), count, {}, {values, values + 1, values + 2, values + 3, &solved}),
        0);
    EXPECT_EQ(solved, 0);
  }
  problem = {};
  append(problem.sums, {1, 1, 0, 371, 371});
  append(problem.sums, {1, 1, 0, -371, -371});
  append(problem.sums, {1, 1, 0, 5, 6});
  append(problem.sums, {5, -1, 0, 0, 0});    // squares whose sum is negative
  append(problem.sums, {1000, 0, 1, 0, 0});  // no variance can be
  EXPECT_EQ(check_statistics(problem), 0);
}

}  // namespace
}  // namespace exactnorm::testing

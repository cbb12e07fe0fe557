// Sums of gradients from short sums, against exact rationals and the solutions of long sums.
#include <gtest/gtest.h>

#include <algorithm>
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
  std::vector<double> mean;
  std::vector<double> mean_residual;
};

constexpr std::size_t guards = 3;
constexpr double guard = 123.25;

Index check_gradients(const Problem& problem) {
  const auto size = static_cast<std::size_t>(problem.sums.size());
  const PartialSums exact_sums = long_sums(problem.sums, PartialSums::Kind::gradients);
  std::vector<bool> solved_by_all(size, true);
  std::vector<bool> compared(size);
  on_every_target([&] {
    std::vector<double> sum_dy(size + guards, guard);
    std::vector<double> centred(size + guards, guard);
    std::vector<std::uint8_t> solved(size + guards, 77);
    const Index number = solve_short_gradients(problem.sums.view(), problem.mean.data(), problem.mean_residual.data(),
                                               {sum_dy.data(), centred.data(), solved.data()});
    Index sum = 0;
    for (std::size_t i = 0; i < size && !::testing::Test::HasFailure(); ++i) {
      ASSERT_LE(solved[i], 1);
      sum += solved[i];
      if (solved[i] == 0) {
        solved_by_all[i] = false;
        continue;
      }
      const Channel channel = channel_of(problem.sums, i);
      SCOPED_TRACE(::testing::Message() << std::hexfloat << "channel " << i << ": " << channel.linear << " "
                                        << channel.upper << " " << channel.lower << " " << channel.first << " "
                                        << channel.second << " " << problem.mean[i] << " " << problem.mean_residual[i]);
      const GradientSums exact =
          gradient_sums(exact_sums, static_cast<Index>(i), {problem.mean[i], problem.mean_residual[i], 0, 0});
      const GradientSums found = gradient_sums(sum_dy[i], centred[i]);
      EXPECT_TRUE(same(found.sum_dy, exact.sum_dy)) << found.sum_dy << " " << exact.sum_dy;
      EXPECT_TRUE(same(found.centred, exact.centred)) << found.centred << " " << exact.centred;
      EXPECT_EQ(found.exponent, exact.exponent);
      if (compared[i]) continue;
      compared[i] = true;
      EXPECT_EQ(sum_dy[i], correctly_rounded(first_sum(channel)));
      const Rational mean = rational(problem.mean[i]) + rational(problem.mean_residual[i]);
      EXPECT_EQ(centred[i], correctly_rounded(Rational(second_sum(channel) - mean * first_sum(channel))));
    }
    EXPECT_EQ(number, sum);
    for (std::size_t i = size; i < size + guards; ++i) {
      EXPECT_EQ(solved[i], 77);
      EXPECT_EQ(sum_dy[i], guard);
      EXPECT_EQ(centred[i], guard);
    }
  });
  return std::count(solved_by_all.begin(), solved_by_all.end(), true);
}

TEST(ShortGradients, OfOrdinaryChannels) {
  Random random(905);
  Index channels = 0;
  Index solved = 0;
  for (const Index count : {7, 100, 1000}) {
    for (const double ratio : {0.0, 0.3, 10.0, 1e3, 1e5, 1e7}) {
      for (const double dy_ratio : {0.0, 3.0}) {
        Problem problem;
        for (int i = 0; i < 23; ++i) {
          const auto e = static_cast<int>(random.between(-140, 127));
          const auto f = static_cast<int>(random.between(-140, 127));
          Elements elements(random);
          Integer sum_x = 0;
          for (Index j = 0; j < count; ++j) {
            const std::int64_t x = element(random, i % 2 == 0 ? ratio : -ratio, 43);
            sum_x += x;
            elements.add(element(random, dy_ratio, 43), x);
          }
          Channel channel;
          ASSERT_TRUE(elements.channel(e, f, channel));
          append(problem.sums, channel);
          const Rational mean = times_power(sum_x, f - 43) / count;
          problem.mean.push_back(correctly_rounded(mean));
          problem.mean_residual.push_back(correctly_rounded(Rational(mean - rational(problem.mean.back()))));
        }
        channels += problem.sums.size();
        solved += check_gradients(problem);
        if (HasFailure()) return;
      }
    }
  }
  EXPECT_GE(static_cast<double>(solved), 0.999 * static_cast<double>(channels)) << solved << " of " << channels;
}

TEST(ShortGradients, OfAnySumsAndMeans) {
  Random random(906);
  Index solved = 0;
  for (int i = 0; i < 500 && !HasFailure(); ++i) {
    Problem problem;
    for (Index size = random.between(0, 20); size > 0; --size) {
      const auto any = [&] { return static_cast<std::int64_t>(random.bits()) >> random.between(0, 63); };
      Channel channel = {any(), any(), any(), static_cast<int>(random.between(-375, 375)),
                         static_cast<int>(random.between(-375, 375))};
      if (random.chance(0.1)) channel.linear = random.chance(0.5) ? largest : smallest;
      if (random.chance(0.1)) channel.upper = random.chance(0.5) ? largest : smallest;
      if (random.chance(0.1)) channel.lower = random.chance(0.5) ? largest : smallest;
      double mean = std::ldexp(random.of_exponent(-100, 60), channel.second - 43);
      double residual = mean * 0x1p-54 * random.uniform(-1, 1);
      if (random.chance(0.1)) mean = random.of_exponent(-1070, 1020);
      if (random.chance(0.1)) residual = random.of_exponent(-1070, 1020);
      if (random.chance(0.1)) residual = 0;
      if (random.chance(0.1)) mean = std::ldexp(static_cast<double>(random.between(-9, 9)), channel.second);
      if (random.chance(0.02)) mean = std::numeric_limits<double>::infinity();
      if (random.chance(0.02)) residual = std::numeric_limits<double>::quiet_NaN();
      append(problem.sums, channel);
      problem.mean.push_back(mean);
      problem.mean_residual.push_back(residual);
    }
    solved += check_gradients(problem);
  }
  EXPECT_GE(solved, 2000);
}

// Sums of dy * (x - mean) that are zero, halfway between two numbers, or next to that.
TEST(ShortGradients, OfZerosAndTies) {
  Random random(907);
  Index zeros = 0;
  Index zeros_solved = 0;
  Index ties = 0;
  Index ties_solved = 0;
  for (int round = 0; round < 300 && !HasFailure(); ++round) {
    Problem zero;
    Problem tie;
    for (int i = 0; i < 5; ++i) {
      const auto e = static_cast<int>(random.between(-140, 127));
      const auto f = static_cast<int>(random.between(-140, 127));
      const std::int64_t linear = random.between(-1000000, 1000000);
      const std::int64_t mean = i == 0 ? 0 : random.between(-1000000, 1000000);
      // In halves of a unit of both sums.
      const auto with = [&](Problem& problem, const Integer& centred) {
        const Integer second = 2 * Integer(linear) * mean + centred;
        const Integer upper = second >> 45U;
        append(problem.sums,
               {linear, static_cast<std::int64_t>(upper), static_cast<std::int64_t>(second - (upper << 45U)), e, f});
        problem.mean.push_back(std::ldexp(static_cast<double>(mean), f - 43));
        problem.mean_residual.push_back(0);
      };
      with(zero, 0);
      Integer odd = Integer(static_cast<std::int64_t>(random.bits() >> 11)) * 2 + 1;
      odd |= Integer(1) << 53U;
      odd <<= static_cast<unsigned>(random.between(0, 30));
      with(tie, (random.chance(0.5) ? Integer(-odd) : odd) + random.between(-1, 1));
    }
    append(zero.sums, {0, 0, 0, 17, -33});
    zero.mean.push_back(-0.1);
    zero.mean_residual.push_back(0x1p-60);
    zeros += zero.sums.size();
    zeros_solved += check_gradients(zero);
    ties += tie.sums.size();
    ties_solved += check_gradients(tie);
  }
  EXPECT_EQ(zeros_solved, zeros);
  EXPECT_GE(ties_solved, ties / 3) << ties;
}

// What is left of the operations behind the sums is the same code.
TEST(ShortGradients, GiveTheGradientsOfLongSums) {
  Random random(908);
  int solved_channels = 0;
  for (int i = 0; i < 2000 && !HasFailure(); ++i) {
    ShortSums sums;
    append(sums, {static_cast<std::int64_t>(random.bits()), static_cast<std::int64_t>(random.bits()), 5,
                  static_cast<int>(random.between(-300, 300)), static_cast<int>(random.between(-300, 300))});
    const ChannelStatistics statistics = {0, 0, random.of_exponent(-20, 20),
                                          std::fabs(random.of_exponent(-1030, 1022))};
    double sum_dy = 0;
    double centred = 0;
    std::uint8_t solved = 0;
    solve_short_gradients(sums.view(), &statistics.mean, &statistics.mean_residual, {&sum_dy, &centred, &solved});
    if (solved == 0) continue;  // next to a tie
    ++solved_channels;
    const ChannelGradients found = gradients_of(gradient_sums(sum_dy, centred), statistics);
    const GradientSums exact_sums = gradient_sums(long_sums(sums, PartialSums::Kind::gradients), 0, statistics);
    const ChannelGradients exact = gradients_of(exact_sums, statistics);
    EXPECT_TRUE(same(found.dgamma, exact.dgamma));
    EXPECT_TRUE(same(found.dbeta, exact.dbeta));
  }
  EXPECT_GE(solved_channels, 1900);
}

}  // namespace
}  // namespace exactnorm::testing

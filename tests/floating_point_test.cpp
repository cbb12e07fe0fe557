// The caller's floating-point environment changes no result, and is left as it was.
#include "traverse/floating_point.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <limits>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/distributed.h"
#include "exactnorm/layer.h"
#include "support/compare.h"
#include "support/environment.h"
#include "support/oracle.h"
#include "support/random.h"
#include "traverse/parallel.h"

namespace exactnorm::testing {
namespace {

// The bits of 1 / 3 in the environment of the calling thread, and of a quotient that only exists as a subnormal number.
// Bits, as DAZ makes subnormal numbers equal to zero.
struct Quotients {
  std::uint64_t third;
  std::uint64_t subnormal;

  friend bool operator==(const Quotients& a, const Quotients& b) = default;
};
Quotients divide_here() {
  volatile double one = 1;
  volatile double three = 3;
  volatile double smallest = std::numeric_limits<double>::min();
  return {std::bit_cast<std::uint64_t>(one / three), std::bit_cast<std::uint64_t>(smallest / three)};
}

TEST(FloatingPoint, IsTheDefaultWithinAndTheCallersAfterwards) {
  const Quotients standard = divide_here();
  EXPECT_NE(standard.subnormal, 0U);
  for (const Environment environment : environments) {
    const ScopedEnvironment scoped(environment);
    const Quotients before = divide_here();
    EXPECT_EQ(before == standard, environment == Environment::standard || environment == Environment::toward_zero)
        << name_of(environment);
    {
      const DefaultFloatingPoint within;
      EXPECT_TRUE(divide_here() == standard) << name_of(environment);
    }
    EXPECT_TRUE(divide_here() == before) << name_of(environment);
  }
}

TEST(FloatingPoint, IsTheDefaultOnEveryThread) {
  const Quotients standard = divide_here();
  for (const Environment environment : environments) {
    const ScopedEnvironment scoped(environment);
    std::vector<Quotients> found(64);
    parallel_for(64, 4, Order::forwards,
                 [&](Index task, int) { found[static_cast<std::size_t>(task)] = divide_here(); });
    for (const Quotients& quotients : found) EXPECT_TRUE(quotients == standard) << name_of(environment);
  }
}

struct Results {
  std::vector<float> y, dx;
  std::vector<double> dgamma, dbeta;
  Statistics statistics, running, of_parts;
  std::vector<float> synchronized_y, synchronized_dx, shares;
};

Results run(const std::vector<float>& x, const std::vector<float>& dy, int threads) {
  const auto count = static_cast<Index>(x.size()) / 2;
  const IndexList shape = {1, 2, count};
  const Options options = {.epsilon = 0, .threads = threads};
  Results results;
  results.y.resize(x.size());
  results.dx.resize(x.size());
  results.dgamma.resize(2);
  results.dbeta.resize(2);
  results.statistics = training(view(x, shape), mutable_view(results.y, shape), {}, options);
  backward(view(dy, shape), view(x, shape), results.statistics, {},
           {mutable_view(results.dx, shape), mutable_view(results.dgamma, {2}), mutable_view(results.dbeta, {2})},
           options);
  PartialSums sums(2);
  accumulate(sums, view(x, shape), options);
  results.of_parts = statistics_of(sums, options);
  RunningStatistics running(2);
  running.update(results.statistics);
  results.running = running.statistics(options);

  SumExchange exchange(single_process(), 2);
  results.synchronized_y.resize(x.size());
  results.synchronized_dx.resize(x.size());
  results.shares.resize(4);
  const Statistics statistics =
      synchronized_training(exchange, view(x, shape), mutable_view(results.synchronized_y, shape), {}, options);
  synchronized_backward(exchange, view(dy, shape), view(x, shape), statistics, {},
                        {.dx = mutable_view(results.synchronized_dx, shape),
                         .dgamma_share = mutable_view(results.shares.data(), {2}),
                         .dbeta_share = mutable_view(results.shares.data() + 2, {2})},
                        options);
  return results;
}

// float32 subnormals, which FTZ or DAZ make zero; numbers whose sums and quotients round.
TEST(FloatingPoint, OfTheCallerChangesNoResult) {
  Random random(901);
  for (const double scale : {1e-40, 1.0}) {
    std::vector<float> x;
    std::vector<float> dy;
    for (int i = 0; i < 90'002; ++i) {
      x.push_back(static_cast<float>(scale * (random.normal() + 2)));
      dy.push_back(static_cast<float>(scale * random.normal()));
    }
    const Results standard = run(x, dy, 1);
    Rational sum;
    for (std::size_t i = 0; i < x.size() / 2; ++i) sum += rational(double{x[i]});
    EXPECT_EQ(standard.of_parts.mean[0], correctly_rounded(Rational(sum / static_cast<std::int64_t>(x.size() / 2))));
    for (const Environment environment : environments) {
      for (const int threads : {1, 2, 5}) {
        SCOPED_TRACE(::testing::Message() << name_of(environment) << ", " << threads << " threads, scale " << scale);
        const Results found = [&] {
          const ScopedEnvironment scoped(environment);
          return run(x, dy, threads);
        }();
        EXPECT_TRUE(same_bits(found.statistics, standard.statistics));
        EXPECT_TRUE(same_bits(found.of_parts, standard.of_parts));
        EXPECT_TRUE(same_bits(found.running, standard.running));
        EXPECT_EQ(found.y, standard.y);
        EXPECT_EQ(found.dx, standard.dx);
        EXPECT_TRUE(same_bits(found.dgamma, standard.dgamma));
        EXPECT_TRUE(same_bits(found.dbeta, standard.dbeta));
        EXPECT_EQ(found.synchronized_y, standard.y);
        EXPECT_EQ(found.synchronized_dx, standard.dx);
        EXPECT_EQ(found.shares, standard.shares);
      }
    }
  }
}

}  // namespace
}  // namespace exactnorm::testing

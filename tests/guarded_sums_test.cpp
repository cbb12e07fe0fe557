// The sums of one pass under a guess, against integers.
#include "reduce/guarded_sums.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <vector>

#include "support/integer.h"
#include "support/random.h"
#include "support/short_sums.h"

namespace exactnorm::testing {
namespace {

// The bounds are written here once more, by themselves: a number under the guess e is zero or from 2^(e - 20), or
// 2^(e - 43) for a far reach, to below 2^(e + 1), where subnormal numbers have the unit of the smallest normal ones.
constexpr Reach reaches[] = {Reach::near, Reach::far};
int allowed_bits(Reach reach) { return reach == Reach::near ? 20 : 43; }
constexpr int lowest_normal = -126;
constexpr int highest = 127;

float bits_of(std::uint32_t bits) { return std::bit_cast<float>(bits); }
float power(int exponent) { return std::ldexp(1.0F, exponent); }
bool allows_subnormals(int exponent, Reach reach) { return exponent - allowed_bits(reach) < lowest_normal; }
float largest_of(int exponent) { return std::nextafter(power(exponent + 1), 0.0F); }
float smallest_of(int exponent, Reach reach) {
  return allows_subnormals(exponent, reach) ? std::numeric_limits<float>::denorm_min()
                                            : power(exponent - allowed_bits(reach));
}

float random_value(Random& random, int exponent, Reach reach) {
  if (random.chance(0.05)) return random.chance(0.5) ? 0.0F : -0.0F;
  const int low = allows_subnormals(exponent, reach) ? -149 : exponent - allowed_bits(reach);
  const auto mantissa = static_cast<float>((1 << 23) + random.between(0, (1 << 23) - 1));
  const float magnitude = std::ldexp(mantissa, static_cast<int>(random.between(low, exponent)) - 23);
  return random.chance(0.5) ? magnitude : -magnitude;
}

// What no guess of this exponent lets pass.
std::vector<float> refused_values(int exponent, Reach reach) {
  std::vector<float> values;
  for (const std::uint32_t bits : {0x7f800000U, 0xff800000U, 0x7fffffffU, 0xffffffffU, 0x7fc00000U, 0xffc00000U}) {
    values.push_back(bits_of(bits));
  }
  if (exponent < highest) {
    values.insert(values.end(), {power(exponent + 1), -power(exponent + 1), std::numeric_limits<float>::max()});
  }
  if (!allows_subnormals(exponent, reach)) {
    const float below = std::nextafter(smallest_of(exponent, reach), 0.0F);
    values.insert(values.end(), {below, -below, std::numeric_limits<float>::denorm_min()});
  }
  return values;
}

// In units of 2^(e-88) and, for products, 2^(e+f-132).
struct Exact {
  Integer linear = 0;
  Integer products = 0;
  void add(float a, int a_exponent, float b, int b_exponent, Index times = 1) {
    linear += in_units(static_cast<double>(a), a_exponent - 88) * times;
    products +=
        in_units(static_cast<double>(a), a_exponent - 66) * in_units(static_cast<double>(b), b_exponent - 66) * times;
  }
};
Integer linear_of(const RunSums& sums) { return (Integer(sums.linear) << 45U) + sums.linear_rest; }
Integer products_of(const RunSums& sums) {
  return (Integer(sums.upper) << 90U) + (Integer(sums.lower) << 45U) + sums.lowest;
}

// Sums are added to what is there.
constexpr RunSums before = {12345, -678, 91011, 1213, -1415};

void expect_exact(const RunSums& sums, const Exact& exact) {
  EXPECT_EQ(linear_of(sums) - linear_of(before), exact.linear);
  EXPECT_EQ(products_of(sums) - products_of(before), exact.products);
}
void expect_untouched(const RunSums& sums) {
  EXPECT_TRUE(sums.linear == before.linear && sums.upper == before.upper && sums.lower == before.lower &&
              sums.linear_rest == before.linear_rest && sums.lowest == before.lowest);
}

class SumRuns : public ::testing::TestWithParam<Reach> {};
class SumLanes : public ::testing::TestWithParam<Reach> {};
constexpr auto name_of_reach = [](const auto& info) { return info.param == Reach::near ? "Near" : "Far"; };
INSTANTIATE_TEST_SUITE_P(Reaches, SumRuns, ::testing::ValuesIn(reaches), name_of_reach);
INSTANTIATE_TEST_SUITE_P(Reaches, SumLanes, ::testing::ValuesIn(reaches), name_of_reach);

TEST_P(SumRuns, IsExact) {
  const Reach reach = GetParam();
  Random random(301);
  for (int i = 0; i < 300 && !HasFailure(); ++i) {
    const bool gradients = random.chance(0.5);
    const bool long_runs = i % 20 == 0;
    const Index count = long_runs ? (i % 40 == 0 ? 4096 : 10000) : random.between(1, 200);
    const Index runs = long_runs ? random.between(1, 4) : random.between(1, 40);
    const Index ahead = random.between(0, 1) * far_enough + random.between(0, 40);
    int exponents[2];
    Runs operands[2];
    std::vector<float> values[2];
    for (std::size_t j = 0; j < 2; ++j) {
      exponents[j] = static_cast<int>(random.chance(0.2) ? random.between(lowest_normal, -100)
                                                         : random.between(lowest_normal, highest));
      const Index stride = runs == 1 && random.chance(0.5) ? 0 : count + random.between(0, 1) * random.between(0, 50);
      // What lies between the runs would be refused.
      values[j].assign(static_cast<std::size_t>((runs - 1) * stride + count), bits_of(0x7fc00000));
      for (Index run = 0; run < runs; ++run) {
        std::generate_n(values[j].begin() + run * stride, count,
                        [&] { return random_value(random, exponents[j], reach); });
      }
      operands[j] = {values[j].data(), stride};
    }
    const std::size_t second = gradients ? 1 : 0;
    Exact exact;
    for (Index run = 0; run < runs; ++run) {
      for (Index k = 0; k < count; ++k) {
        exact.add(operands[0].data[run * operands[0].stride + k], exponents[0],
                  operands[second].data[run * operands[second].stride + k], exponents[second]);
      }
    }
    on_every_target([&] {
      RunSums sums = before;
      ASSERT_TRUE(gradients
                      ? sum_runs(operands[0], operands[1], runs, count, ahead, exponents[0], exponents[1], reach, sums)
                      : sum_runs(operands[0], runs, count, ahead, exponents[0], reach, sums));
      expect_exact(sums, exact);
    });
  }
}

// The sums that come nearest to the limits of the accumulators: one number all over, for more rows than fit.
TEST_P(SumRuns, IsExactAtItsLimits) {
  const Reach reach = GetParam();
  Random random(302);
  constexpr Index count = 32 * guarded_rows + 61;
  constexpr Index runs = 2;
  std::vector<float> x(count * runs);
  std::vector<float> dy(count * runs);
  for (int exponent = lowest_normal; exponent <= highest && !HasFailure(); ++exponent) {
    const int dy_exponent = static_cast<int>(random.between(lowest_normal, highest));
    const float smallest_number = smallest_of(exponent, reach);
    for (const float number : {largest_of(exponent), -largest_of(exponent), smallest_number, -smallest_number,
                               std::nextafter(smallest_number, INFINITY), random_value(random, exponent, reach)}) {
      const float dy_number =
          std::array{largest_of(dy_exponent), -largest_of(dy_exponent), smallest_of(dy_exponent, reach),
                     random_value(random, dy_exponent, reach)}[static_cast<std::size_t>(random.between(0, 3))];
      std::fill(x.begin(), x.end(), number);
      std::fill(dy.begin(), dy.end(), dy_number);
      Exact moments;
      Exact gradients;
      moments.add(number, exponent, number, exponent, count * runs);
      gradients.add(dy_number, dy_exponent, number, exponent, count * runs);
      on_every_target([&] {
        RunSums sums = before;
        EXPECT_TRUE(sum_runs({x.data(), count}, runs, count, 0, exponent, reach, sums)) << exponent << " " << number;
        expect_exact(sums, moments);
        sums = before;
        EXPECT_TRUE(
            sum_runs({dy.data(), count}, {x.data(), count}, runs, count, 0, dy_exponent, exponent, reach, sums));
        expect_exact(sums, gradients);
      });
    }
  }
}

TEST_P(SumRuns, RefusesAWrongGuess) {
  const Reach reach = GetParam();
  Random random(303);
  constexpr Index runs = 3;
  for (const int exponent : {lowest_normal, -107, -106, -84, -83, 0, 126, highest}) {
    for (const Index count : {1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 23, 31, 32, 33, 47, 48, 49, 63, 77}) {
      std::vector<float> x(static_cast<std::size_t>(runs * count));
      std::generate(x.begin(), x.end(), [&] { return random_value(random, exponent, reach); });
      const std::vector<float> dy = x;
      on_every_target([&] {
        RunSums sums;
        ASSERT_TRUE(sum_runs({x.data(), count}, runs, count, 0, exponent, reach, sums));
        sums = before;
        for (Index i = 0; i < count; ++i) {
          for (const float wrong : refused_values(exponent, reach)) {
            float& element = x[static_cast<std::size_t>(i + count * random.between(0, runs - 1))];
            const float right = element;
            element = wrong;
            const Runs good = {dy.data(), count};
            const Runs bad = {x.data(), count};
            EXPECT_FALSE(sum_runs(bad, runs, count, 0, exponent, reach, sums))
                << wrong << " at " << i << " of " << count;
            EXPECT_FALSE(sum_runs(bad, good, runs, count, 0, exponent, exponent, reach, sums)) << wrong << " at " << i;
            EXPECT_FALSE(sum_runs(good, bad, runs, count, 0, exponent, exponent, reach, sums)) << wrong << " at " << i;
            element = right;
          }
        }
        expect_untouched(sums);
      });
    }
  }
}

// A page between two that may not be read.
class FencedPage {
 public:
  FencedPage() : page_(static_cast<std::size_t>(sysconf(_SC_PAGESIZE))) {
    memory_ = mmap(nullptr, 3 * page_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory_ == MAP_FAILED || mprotect(begin(), page_, PROT_READ | PROT_WRITE) != 0) std::abort();
  }
  FencedPage(const FencedPage&) = delete;
  FencedPage& operator=(const FencedPage&) = delete;
  ~FencedPage() { (void)munmap(memory_, 3 * page_); }

  [[nodiscard]] float* begin() const { return static_cast<float*>(memory_) + page_ / sizeof(float); }
  [[nodiscard]] float* end() const { return begin() + page_ / sizeof(float); }

 private:
  std::size_t page_;
  void* memory_ = nullptr;
};

TEST_P(SumRuns, ReadsNothingElse) {
  const Reach reach = GetParam();
  Random random(304);
  const FencedPage page;
  for (Index count = 1; count <= 70; ++count) {
    for (float* const x : {page.begin(), page.end() - count}) {
      std::generate_n(x, count, [&] { return random_value(random, 3, reach); });
      Exact exact;
      for (Index i = 0; i < count; ++i) exact.add(x[i], 3, x[i], 3);
      on_every_target([&] {
        RunSums sums = before;
        EXPECT_TRUE(sum_runs({x, 0}, 1, count, far_enough, 3, reach, sums));
        expect_exact(sums, exact);
        sums = before;
        EXPECT_TRUE(sum_runs({x, 0}, {x, 0}, 1, count, far_enough, 3, 3, reach, sums));
        expect_exact(sums, exact);
      });
    }
  }
}

// 32 lanes with guesses of their own.
struct LaneTest {
  std::vector<float> values[2];
  int exponents[2][tile_lanes] = {};
  Tile<float> tiles[2];
  std::int64_t sums[5][tile_lanes] = {};
  void shape(std::size_t operand, Index rows, Index stride) {
    values[operand].assign(static_cast<std::size_t>((rows - 1) * stride + tile_lanes), bits_of(0x7fc00000));
    tiles[operand] = {values[operand].data(), rows, stride, values[operand].data()};
  }
  float& at(std::size_t operand, Index row, std::size_t lane) {
    return values[operand][static_cast<std::size_t>(row * tiles[operand].stride) + lane];
  }
  bool sum(bool gradients, Reach reach) {
    for (std::size_t lane = 0; lane < tile_lanes; ++lane) {
      sums[0][lane] = before.linear;
      sums[1][lane] = before.upper;
      sums[2][lane] = before.lower;
      sums[3][lane] = before.linear_rest;
      sums[4][lane] = before.lowest;
    }
    const LaneSums lanes = {exponents[0], exponents[gradients ? 1 : 0], sums[0], sums[1], sums[2], sums[3], sums[4]};
    return gradients ? sum_lanes(tiles[0], tiles[1], reach, lanes) : sum_lanes(tiles[0], reach, lanes);
  }
  [[nodiscard]] RunSums of(std::size_t lane) const {
    return {sums[0][lane], sums[1][lane], sums[2][lane], sums[3][lane], sums[4][lane]};
  }
};

// Numbers of all kinds, or one number per lane all over, at the limits.
TEST_P(SumLanes, IsExactAndRefusesWrongGuesses) {
  const Reach reach = GetParam();
  Random random(305);
  for (int i = 0; i < 160 && !HasFailure(); ++i) {
    const Index rows = std::array{1, 2, 127, 128}[static_cast<std::size_t>(i % 4)];
    const bool gradients = i % 3 == 0;
    const bool at_limits = i % 8 >= 4;
    LaneTest test;
    for (const std::size_t j : {0U, 1U}) {
      test.shape(j, rows, tile_lanes + random.between(0, 2) * random.between(0, 40));
      for (std::size_t lane = 0; lane < tile_lanes; ++lane) {
        const int exponent = static_cast<int>(random.between(lowest_normal, random.chance(0.3) ? -100 : highest));
        test.exponents[j][lane] = exponent;
        const float limit = random.chance(0.7) ? largest_of(exponent) : smallest_of(exponent, reach);
        const float number = random.chance(0.5) ? limit : -limit;
        for (Index row = 0; row < rows; ++row) {
          test.at(j, row, lane) = at_limits ? number : random_value(random, exponent, reach);
        }
      }
    }
    const std::size_t second = gradients ? 1 : 0;
    std::array<Exact, tile_lanes> exact;
    for (std::size_t lane = 0; lane < tile_lanes; ++lane) {
      for (Index row = 0; row < rows; ++row) {
        exact[lane].add(test.at(0, row, lane), test.exponents[0][lane], test.at(second, row, lane),
                        test.exponents[second][lane]);
      }
    }
    on_every_target([&] {
      ASSERT_TRUE(test.sum(gradients, reach));
      for (std::size_t lane = 0; lane < tile_lanes; ++lane) expect_exact(test.of(lane), exact[lane]);
      for (std::size_t wrong_lane = 0; wrong_lane < tile_lanes; ++wrong_lane) {
        const std::size_t operand = gradients && random.chance(0.5) ? 1 : 0;
        for (const float wrong : refused_values(test.exponents[operand][wrong_lane], reach)) {
          float& element = test.at(operand, random.chance(0.5) ? rows - 1 : random.between(0, rows - 1), wrong_lane);
          const float right = element;
          element = wrong;
          EXPECT_FALSE(test.sum(gradients, reach)) << wrong << " in lane " << wrong_lane;
          element = right;
          for (std::size_t lane = 0; lane < tile_lanes; ++lane) expect_untouched(test.of(lane));
        }
      }
    });
  }
}

}  // namespace
}  // namespace exactnorm::testing

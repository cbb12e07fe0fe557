// Float32 coefficients: what they keep of those in float64, and when they give up; and one rounding for a product and a
// sum on every target, of which the error bounds are made.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "affine/apply.h"
#include "support/compare.h"
#include "support/random.h"

namespace exactnorm::testing {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

/// Coefficients of one channel.
struct Forward {
  double mean = 0;
  double scale = 0;
  double shift = 0;
  double variance = 0;
};
struct Backward {
  double mean = 0;
  double x_scale = 0;
  double normalized_scale = 0;
  double shift = 0;
  double dy_scale = 0;
};

void set(CoefficientTable& table, Index channel, const Forward& c) {
  const ForwardColumns to = table.forward(channel);
  *to.mean = c.mean;
  *to.scale = c.scale;
  *to.shift = c.shift;
  *to.variance = c.variance;
}
void set(CoefficientTable& table, Index channel, const Backward& c) {
  const BackwardColumns to = table.backward(channel);
  *to.mean = c.mean;
  *to.x_scale = c.x_scale;
  *to.normalized_scale = c.normalized_scale;
  *to.shift = c.shift;
  *to.dy_scale = c.dy_scale;
}

struct SingleCoefficients {
  float mean;
  float scale;
  float scale_rest;
  float shift;
  float x_scale;
};

SingleCoefficients at(const CoefficientTable& table, Index channel) {
  const SingleColumns columns = table.view().from(channel).single;
  return {*columns.mean, *columns.scale, *columns.scale_rest, *columns.shift, *columns.x_scale};
}

/// As every target computes it.
template <typename Coefficients>
SingleCoefficients single(const Coefficients& coefficients) {
  constexpr bool forward = std::is_same_v<Coefficients, Forward>;
  std::vector<SingleCoefficients> found;
  on_every_target([&] {
    // Somewhere among others, which are not touched.
    CoefficientTable table(20);
    const auto finish = [&](Index first, Index count) {
      forward ? table.finish_forward(first, count) : table.finish_backward(first, count);
    };
    for (const Index neighbour : {6, 8}) {
      set(table, neighbour, Coefficients{});
      finish(neighbour, 1);
    }
    set(table, 7, coefficients);
    finish(7, 1);
    EXPECT_EQ(at(table, 6).mean, 0);
    EXPECT_EQ(at(table, 8).mean, 0);
    found.push_back(at(table, 7));
    // The same in a whole vector.
    for (Index i = 0; i < 20; ++i) set(table, i, coefficients);
    finish(0, 20);
    for (Index i = 0; i < 20; ++i) found.push_back(at(table, i));
  });
  for (const SingleCoefficients& other : found) {
    if (std::isnan(found[0].mean)) {
      EXPECT_TRUE(std::isnan(other.mean));
    } else {
      EXPECT_EQ(std::memcmp(&other, found.data(), sizeof(other)), 0);
    }
  }
  return found[0];
}

void expect_scale_kept(const SingleCoefficients& c, double scale) {
  EXPECT_LE(std::fabs(static_cast<double>(c.scale) + static_cast<double>(c.scale_rest) - scale),
            0x1p-46 * std::fabs(scale));
  // An infinite number times either is infinite, with one sign.
  EXPECT_NE(c.scale_rest, 0);
  EXPECT_EQ(std::signbit(c.scale_rest), std::signbit(c.scale));
}

TEST(SingleCoefficients, OfForward) {
  Random random(421);
  for (int i = 0; i < 400 && !HasFailure(); ++i) {
    Forward c = {random.of_exponent(-80, 80), random.of_exponent(-90, 90), random.of_exponent(-90, 90), 0};
    if (random.chance(0.2)) c.scale = static_cast<double>(static_cast<float>(c.scale));
    if (random.chance(0.1)) c.scale = std::ldexp(1, static_cast<int>(random.between(-90, 90)));
    if (random.chance(0.1)) c.mean = 0;
    if (random.chance(0.1)) c.shift = 0;
    const SingleCoefficients single_c = single(c);
    const double rest = c.mean - static_cast<double>(static_cast<float>(c.mean));
    const double shift = c.shift - rest * c.scale;
    if (std::fabs(shift) > 0x1p96) {
      EXPECT_TRUE(std::isnan(single_c.mean));
      continue;
    }
    EXPECT_EQ(single_c.mean, static_cast<float>(c.mean));
    EXPECT_EQ(single_c.shift, static_cast<float>(shift));
    expect_scale_kept(single_c, c.scale);
  }
}

// Of a mean that is small beside the deviation few digits are kept, so that x less the rest of it is exact more often.
TEST(SingleCoefficients, OfAMeanBesideADeviation) {
  Random random(424);
  for (int i = 0; i < 400 && !HasFailure(); ++i) {
    const double deviation = random.of_exponent(-30, 30);
    const double mean = deviation * random.of_exponent(-30, 30);
    const double size = std::fabs(deviation);
    const SingleCoefficients c = single(Forward{mean, 2, 1, deviation * deviation});
    const double anchor = static_cast<double>(c.mean);
    EXPECT_EQ(c.shift, static_cast<float>(1 - (mean - anchor) * 2));
    if (std::fabs(mean) < 3.9 * size) {
      EXPECT_LE(std::fabs(mean - anchor), 0x1p-21 * size);
      // A multiple of 2^-21 deviations, rounded down to a power of two.
      EXPECT_EQ(std::fmod(anchor, std::ldexp(1.0, std::ilogb(size) - 20)), 0);
    } else if (std::fabs(mean) > 8.1 * size) {
      EXPECT_EQ(c.mean, static_cast<float>(mean));
    }
  }
  for (const double variance : {5e-324, 1e-310, 1e308, infinity, std::nan("")}) {
    EXPECT_FALSE(std::isnan(single(Forward{0.3, 2, 1, variance}).mean));
  }
}

TEST(SingleCoefficients, OfBackward) {
  Random random(422);
  for (int i = 0; i < 400 && !HasFailure(); ++i) {
    const Backward c = {random.of_exponent(-10, 10), random.of_exponent(-20, 20), random.of_exponent(-20, 20),
                        random.of_exponent(-20, 20), random.of_exponent(-20, 20)};
    const SingleCoefficients single_c = single(c);
    EXPECT_EQ(single_c.mean, static_cast<float>(c.mean));
    expect_scale_kept(single_c, c.dy_scale);
    const double x_scale = c.x_scale * c.normalized_scale * c.dy_scale;
    EXPECT_NEAR(static_cast<double>(single_c.x_scale), x_scale, 0x1p-24 * std::fabs(x_scale));
    // At the mean that float32 holds, the term of x is what it is at the true one less the rest.
    const double rest = c.mean - static_cast<double>(single_c.mean);
    const double shift = (c.shift - rest * c.x_scale * c.normalized_scale) * c.dy_scale;
    EXPECT_NEAR(static_cast<double>(single_c.shift), shift, 0x1.0001p-24 * std::fabs(shift));
  }
}

TEST(SingleCoefficients, GiveUpBeyondTheirRange) {
  const Forward forward = {1, 2, 3};
  EXPECT_FALSE(std::isnan(single(forward).mean));
  EXPECT_FALSE(std::isnan(single(Forward{0, 0, 0}).mean));
  for (const double large : {0x1p97, -1e300, infinity, -infinity, std::nan("")}) {
    SCOPED_TRACE(large);
    EXPECT_TRUE(std::isnan(single(Forward{large, 2, 3}).mean));
    EXPECT_TRUE(std::isnan(single(Forward{1, large, 3}).mean));
    EXPECT_TRUE(std::isnan(single(Forward{1, 2, large}).mean));
    EXPECT_TRUE(std::isnan(single(Backward{large, 1, 1, 1, 1}).mean));
    EXPECT_TRUE(std::isnan(single(Backward{1, large, 1, 1, 1}).mean));
    EXPECT_TRUE(std::isnan(single(Backward{1, 1, 1, 1, large}).mean));
  }
  for (const double small : {0x1p-97, -1e-300, 5e-324}) {
    EXPECT_TRUE(std::isnan(single(Forward{1, small, 3}).mean));
    EXPECT_TRUE(std::isnan(single(Backward{1, 1, small, 1, 1}).mean));
  }
  // Small numbers that are only added do no harm.
  EXPECT_EQ(single(Forward{1e-300, 2, 1e-300}).mean, 0);
}

// Products of 48 bits that lie halfway between two float32 numbers, or nearly: what is added decides, however small.
TEST(FusedMultiplyAdd, RoundsOnce) {
  Random random(423);
  std::vector<std::array<float, 3>> cases;
  for (int i = 0; i < 3000; ++i) {
    const auto power = [&](Index from, Index to) {
      return std::ldexp(1.0F, static_cast<int>(random.between(from, to)));
    };
    const auto factor = [&] { return 1 + static_cast<float>(random.between(0, 7)) * 0x1p-12F; };
    const float scale = power(-20, 20);
    const float sign = random.chance(0.5) ? 1.0F : -1.0F;
    float addend = scale * power(-90, -20) * (random.chance(0.5) ? 1.0F : -1.0F);
    if (random.chance(0.1)) addend = 0;
    if (random.chance(0.1)) addend = -sign * scale * factor();
    cases.push_back({factor() * scale, sign * factor(), addend});
    // Results that are subnormal.
    cases.push_back({factor() * 0x1p-70F, sign * factor() * 0x1p-75F, addend * 0x1p-60F});
  }
  // The sum is infinite.
  cases.push_back({0x1p100F, 0x1p100F, 1});
  cases.push_back({3.0F, 5.0F, std::numeric_limits<float>::infinity()});
  int decided = 0;
  on_every_target([&] {
    for (const auto& [a, b, c] : cases) {
      const float mean = 0;
      const float zero = 0;
      // out = a * b + (a * 0 + c)
      const Coefficients coefficients = {nullptr, nullptr, nullptr, nullptr, nullptr, {&mean, &b, &zero, &c, nullptr}};
      float out = 0;
      apply_runs(Formula::forward, ApplyPointers<float>{&a, nullptr, &out}, 1, {}, 1, coefficients, true,
                 Store::cached);
      ASSERT_EQ(out, std::fma(a, b, c)) << a << " * " << b << " + " << c;
      const auto twice = static_cast<float>(static_cast<double>(a) * static_cast<double>(b) + static_cast<double>(c));
      decided += twice != out;
    }
  });
  // Two roundings would not do.
  EXPECT_GT(decided, 100);
}

}  // namespace
}  // namespace exactnorm::testing

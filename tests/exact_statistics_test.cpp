// Mean and variance are the exact values, rounded once to float64; those that normalize float32 data are then rounded
// to the grid.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "support/compare.h"
#include "support/oracle.h"
#include "support/random.h"
#include "support/tensor.h"
#include "tensor/element_type.h"

namespace exactnorm::testing {
namespace {

// What the exact statistics are, worked out once for checks of several layouts.
struct Expected {
  ExactMoments moments;
  double mean = 0;
  double variance = 0;

  explicit Expected(const std::vector<double>& values)
      : moments(exact_moments(values)),
        mean(correctly_rounded(moments.mean)),
        variance(correctly_rounded(moments.variance)) {}

  // Those that training returns.
  void check_normalizing(DType dtype, const Statistics& statistics, std::size_t channel, const Options& options) const {
    if (!dtype_fits_float32(dtype)) {
      check(statistics, channel, options);
      return;
    }
    const GridMoments grid(moments);
    EXPECT_EQ(statistics.mean[channel], grid.mean) << std::hexfloat << statistics.mean[channel];
    EXPECT_EQ(statistics.mean_residual[channel], grid.mean_residual) << std::hexfloat;
    EXPECT_EQ(statistics.variance[channel], grid.variance) << std::hexfloat << statistics.variance[channel];
    const Real divisor = sqrt(Real(grid.variance) + Real(options.epsilon));
    if (divisor == 0) {
      EXPECT_EQ(statistics.inverse_deviation[channel], 0);
    } else {
      EXPECT_LE(error_in_ulps(statistics.inverse_deviation[channel], Real(1 / divisor)), 3.0);
    }
  }

  void check(const Statistics& statistics, std::size_t channel, const Options& options) const {
    EXPECT_EQ(statistics.mean[channel], mean) << std::hexfloat << statistics.mean[channel] << " and " << mean;
    EXPECT_EQ(statistics.variance[channel], variance)
        << std::hexfloat << statistics.variance[channel] << " and " << variance;
    const Real residual = real(Rational(moments.mean - rational(statistics.mean[channel])));
    // Together, mean and residual hold what twice 53 bits and a few more can.
    const Real residual_error = abs(Real(statistics.mean_residual[channel]) - residual);
    EXPECT_LE(residual_error, abs(residual) * 0x1p-52 + Real(std::fabs(mean)) * 0x1p-112 +
                                  Real(std::numeric_limits<double>::denorm_min()));
    const Real epsilon(options.epsilon);
    const Real divisor = sqrt(real(moments.variance) + epsilon);
    if (divisor == 0) {
      EXPECT_EQ(statistics.inverse_deviation[channel], 0);
    } else if (1 / divisor <= Real(std::numeric_limits<double>::max())) {
      EXPECT_LE(error_in_ulps(statistics.inverse_deviation[channel], Real(1 / divisor)), 3.0);
    }
  }
};

Statistics exact_statistics(const TensorView& x, Index channels, const Options& options) {
  PartialSums sums(channels);
  accumulate(sums, x, options);
  return statistics_of(sums, options);
}

// As one channel, as the middle one of three side by side, and as the second of forty that lie side by side.
void check(DType dtype, const std::vector<double>& values, double epsilon = 1e-5) {
  const Expected expected(values);
  Options options;
  options.epsilon = epsilon;
  const auto count = static_cast<Index>(values.size());
  {
    SCOPED_TRACE("one channel");
    const Tensor x(dtype, {count}, values);
    Tensor y(DType::float64, {count});
    options.channel_axes = {};
    expected.check_normalizing(dtype, training(x.view(), y.view(), {}, options), 0, options);
    expected.check(exact_statistics(x.view(), 1, options), 0, options);
  }
  for (const Index channels : {Index{3}, Index{40}}) {
    SCOPED_TRACE(std::to_string(channels) + " channels side by side");
    Tensor x(dtype, {count, channels}, std::vector<double>(static_cast<std::size_t>(count * channels), 1.0));
    for (Index i = 0; i < count; ++i) x.set(i * channels + 1, values[static_cast<std::size_t>(i)]);
    Tensor y(DType::float64, {count, channels});
    options.channel_axes = {1};
    const Statistics statistics = training(x.view(), y.view(), {}, options);
    expected.check_normalizing(dtype, statistics, 1, options);
    expected.check(exact_statistics(x.view(), channels, options), 1, options);
    EXPECT_EQ(statistics.mean[0], 1);
    EXPECT_EQ(statistics.variance[2], 0);
  }
}

std::vector<double> generate(DType dtype, Index count, const std::function<double()>& next) {
  Tensor rounded(dtype, {count});
  for (Index i = 0; i < count; ++i) rounded.set(i, next());
  return rounded.values();
}

TEST(ExactStatistics, OfAnyDtype) {
  Random random(1);
  for (const DType dtype : all_dtypes) {
    SCOPED_TRACE(std::string(name_of(dtype)));
    const int bits = is_floating(dtype) ? 10 : dtype == DType::boolean ? 1 : static_cast<int>(size_of(dtype)) * 8 - 1;
    const bool is_unsigned =
        dtype == DType::uint8 || dtype == DType::uint16 || dtype == DType::uint32 || dtype == DType::boolean;
    for (const Index count : {1, 2, 3, 31, 500}) {
      check(dtype, generate(dtype, count, [&] {
              const double value = std::ldexp(random.unit(), std::min(bits, 53));
              return is_unsigned || random.chance(0.5) ? value : -value;
            }));
    }
  }
}

TEST(ExactStatistics, OfIntegersAtTheirLimits) {
  check(DType::uint8, {0, 255, 255, 0, 255});
  check(DType::uint16, {65535, 0, 65535, 65535, 1});
  check(DType::uint32, {4294967295.0, 0, 4294967295.0});
  check(DType::boolean, {1, 0, 1, 1});
  check(DType::int8, {-128, 127, -128, -128, 0});
  check(DType::int16, {-32768, 32767, 32767});
  check(DType::int32, {-2147483648.0, 2147483647.0, 2147483647.0, 1});
  check(DType::int64, {-9223372036854775808.0, 9223372036854774784.0, 1, -1, 9007199254740992.0});
}

TEST(ExactStatistics, Int64BeyondTwoTo53IsRoundedFirst) {
  const std::array<std::int64_t, 3> x = {(std::int64_t{1} << 53) + 1, (std::int64_t{1} << 60) + 129, 5};
  std::array<double, 3> y{};
  Options options;
  options.channel_axes = {};
  const Statistics statistics = training(view(x, {3}), mutable_view(y, {3}), {}, options);
  Expected({0x1p53, 0x1p60 + 256, 5}).check(statistics, 0, options);
}

TEST(ExactStatistics, OfEveryCountUpTo70) {
  Random random(2);
  for (Index count = 1; count <= 70; ++count) {
    SCOPED_TRACE(count);
    check(DType::float32, generate(DType::float32, count, [&] { return random.normal() + 3; }));
    check(DType::float64, generate(DType::float64, count, [&] { return random.normal() - 1000; }));
  }
}

TEST(ExactStatistics, AroundInternalSizes) {
  Random random(3);
  for (const Index count : {127, 128, 129, 2047, 2048, 2049, 4095, 4096, 4097, 16383, 16384, 16385}) {
    SCOPED_TRACE(count);
    const bool few = count > 5000;
    // Few bits keep the oracle's rationals short.
    const auto next = [&] { return few ? std::round(random.normal() * 1024) / 1024 + 7 : random.normal() + 7; };
    check(DType::float32, generate(DType::float32, count, next));
    if (count % 2 == 1 || few) check(DType::float64, generate(DType::float64, count, next));
  }
}

TEST(ExactStatistics, OfMeansFarFromZero) {
  Random random(4);
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (double ratio = 1; ratio <= 1e16; ratio *= 10) {
      SCOPED_TRACE(ratio);
      for (const double deviation : {1.0, 1e-20, 1e20}) {
        check(dtype, generate(dtype, 100, [&] { return deviation * (random.normal() - ratio); }));
      }
    }
  }
}

TEST(ExactStatistics, OfOneOutlierInAConstantChannel) {
  for (const double constant : {0.0, 1.0, 0.1F * 1.0, -3e7}) {
    for (const double outlier : {1e30, -1e-30, 0x1p-149, 0x1p127, std::nextafterf(0.1F, 1.0F) * 1.0}) {
      for (const std::size_t at : {std::size_t{0}, std::size_t{40}, std::size_t{299}}) {
        std::vector<double> values(300, static_cast<float>(constant));
        values[at] = static_cast<float>(outlier);
        check(DType::float32, values);
        check(DType::float64, values);
      }
    }
  }
}

TEST(ExactStatistics, OfSymmetricDataWithATinyMean) {
  Random random(5);
  for (const double tiny : {0x1p-149, 1e-38, 1e-10}) {
    for (const double scale : {1.0, 1e20, 1e-20}) {
      std::vector<double> values = {static_cast<float>(tiny)};
      for (int i = 0; i < 60; ++i) {
        const double value = static_cast<float>(scale * random.normal());
        values.push_back(value);
        values.push_back(-value);
      }
      random.shuffle(values);
      check(DType::float32, values);
      check(DType::float64, values);
    }
  }
}

TEST(ExactStatistics, OfSubnormals) {
  Random random(6);
  for (const Index count : {2, 33, 200}) {
    check(DType::float32, generate(DType::float32, count, [&] { return random.of_exponent(-149, -127); }), 0);
    check(DType::float64, generate(DType::float64, count, [&] { return random.of_exponent(-1074, -1023); }), 0);
  }
}

TEST(ExactStatistics, OfAllMagnitudesInOneChannel) {
  Random random(7);
  for (const Index count : {5, 64, 300}) {
    for (int i = 0; i < 4; ++i) {
      check(DType::float32, generate(DType::float32, count, [&] { return random.of_exponent(-149, 126); }));
      check(DType::float64, generate(DType::float64, count, [&] { return random.of_exponent(-300, 300); }));
    }
  }
  for (int i = 0; i < 3; ++i) {
    check(DType::float64, generate(DType::float64, 150, [&] { return random.of_exponent(-1074, 1022); }));
  }
}

// The kernels take magnitudes in windows of 20 (float32) and 32 (float64) binades: numbers at their borders.
// As gradients are: most numbers near each other, tails below, and larger ones the more there have been.
TEST(ExactStatistics, OfTailsBelowMagnitudesThatGrow) {
  Random random(17);
  for (const int tail : {15, 30, 50}) {
    for (int i = 0; i < 4; ++i) {
      int growth = 0;
      check(DType::float32, generate(DType::float32, random.between(3000, 9000), [&] {
              if (random.chance(0.002)) growth += static_cast<int>(random.between(0, 3));
              return random.of_exponent(-(random.chance(0.05) ? tail : 8), 0) * std::ldexp(1.0, growth - 40);
            }));
    }
  }
}

TEST(ExactStatistics, AtTheBordersOfWindows) {
  Random random(8);
  for (const auto& [dtype, bits] : {std::pair{DType::float32, 19}, std::pair{DType::float64, 31}}) {
    for (const int top : {0, 100, -100}) {
      for (int i = 0; i < 6; ++i) {
        check(dtype, generate(dtype, 130, [&, width = bits] {
                const int window = static_cast<int>(random.between(0, 3)) * width;
                double value = std::ldexp(1.0, top - window + static_cast<int>(random.between(-1, 1)));
                if (random.chance(0.5)) value = std::nextafterf(static_cast<float>(value), 0.0F);
                return random.chance(0.5) ? value : -value;
              }));
      }
    }
  }
}

TEST(ExactStatistics, OfHugeNumbers) {
  Random random(9);
  constexpr double largest_float = std::numeric_limits<float>::max();
  constexpr double largest = std::numeric_limits<double>::max();
  check(DType::float32, generate(DType::float32, 99, [&] { return 1e30 * random.normal(); }));
  check(DType::float32, std::vector<double>(1000, largest_float));
  check(DType::float32,
        generate(DType::float32, 999, [&] { return random.chance(0.5) ? largest_float : -largest_float; }));
  check(DType::float64, generate(DType::float64, 99, [&] { return 1e300 * random.normal(); }));
  check(DType::float64, generate(DType::float64, 99, [&] { return 1e154 * random.normal(); }));
  check(DType::float64, std::vector<double>(1000, largest));
  check(DType::float64, generate(DType::float64, 999, [&] { return random.chance(0.5) ? largest : -largest; }));
}

TEST(ExactStatistics, OfTinyNumbers) {
  Random random(10);
  for (const double scale : {1e-300, 1e-154, 1e-157, 1e-160, 1e-161, 1e-200, 1e-307}) {
    SCOPED_TRACE(scale);
    for (int i = 0; i < 5; ++i) {
      check(DType::float64, generate(DType::float64, 41, [&] { return scale * random.normal(); }), 0);
    }
  }
}

// A sum that ties exactly, but for one bit a thousand places below.
TEST(ExactStatistics, OfATieThatIsDecidedFarBelow) {
  check(DType::float64, {1, 0x1p-53, 0, 0});
  check(DType::float64, {1, 0x1p-53, 0x1p-1074, 0});
  check(DType::float64, {1, 0x1p-53, -0x1p-1074, 0});
  check(DType::float64, {1, 0x1p-52, 0x1p-53, -0x1p-1074});
  check(DType::float32, {1, 0x1p-53, 0x1p-149, 0});
  check(DType::float32, {1, 0x1p-53, -0x1p-149, 0});
  check(DType::float32, {-1, -0x1p-53, -0x1p-149, 0});
}

TEST(ExactStatistics, OfSignedZeros) {
  for (const DType dtype : {DType::float32, DType::float64}) {
    check(dtype, {0.0, -0.0, -0.0, 0.0});
    check(dtype, {-0.0, -0.0, -0.0, -0.0}, 0);
    check(dtype, {-0.0, 1, -0.0, -1, 0.0});
  }
}

TEST(ConstantChannel, HasNoVarianceAndBecomesBeta) {
  Random random(11);
  for (const DType dtype : {DType::float32, DType::float64, DType::int32, DType::uint8}) {
    for (int i = 0; i < 60; ++i) {
      const Index count = random.between(1, 500);
      const double value = dtype == DType::uint8   ? static_cast<double>(random.between(0, 255))
                           : dtype == DType::int32 ? static_cast<double>(random.between(-1000000, 1000000))
                                                   : static_cast<float>(random.of_exponent(-126, 126));
      Options options;
      options.channel_axes = {};
      options.epsilon = std::array{0.0, 1e-5, 1.0, 1e-300}[static_cast<std::size_t>(random.between(0, 3))];
      options.epsilon_placement = random.chance(0.5) ? EpsilonPlacement::variance : EpsilonPlacement::deviation;
      const Tensor x(dtype, {count}, std::vector<double>(static_cast<std::size_t>(count), value));
      const double gamma = random.of_exponent(-20, 20);
      const double beta = static_cast<float>(random.of_exponent(-20, 20));
      const Tensor gammas(DType::float64, {1}, {gamma});
      const Tensor betas(DType::float64, {1}, {beta});
      Tensor y(random.chance(0.5) ? DType::float32 : DType::float64, {count});
      const Statistics statistics = training(x.view(), y.view(), {gammas.view(), betas.view()}, options);
      EXPECT_EQ(statistics.mean[0], x.get(0));
      EXPECT_EQ(statistics.mean_residual[0], 0);
      EXPECT_EQ(statistics.variance[0], 0);
      for (const double element : y.values()) ASSERT_EQ(element, beta);
    }
  }
}

// An epsilon whose inverse, or whose product with gamma, exceeds float64 is still no reason for a NaN.
TEST(ConstantChannel, BecomesBetaWithTheSmallestEpsilon) {
  for (const EpsilonPlacement placement : {EpsilonPlacement::variance, EpsilonPlacement::deviation}) {
    for (const double epsilon : {5e-324, 1e-310, 1e-307}) {
      for (const double gamma : {1.0, -1e300}) {
        SCOPED_TRACE(::testing::Message() << epsilon << " " << gamma << " " << static_cast<int>(placement));
        Options options;
        options.channel_axes = {};
        options.epsilon = epsilon;
        options.epsilon_placement = placement;
        const Tensor x(DType::float32, {3}, {2, 2, 2});
        const Tensor gammas(DType::float64, {1}, {gamma});
        const Tensor betas(DType::float64, {1}, {-0.75});
        Tensor y(DType::float32, {3});
        (void)training(x.view(), y.view(), {gammas.view(), betas.view()}, options);
        EXPECT_TRUE(same_bits(y.values(), {-0.75, -0.75, -0.75}));
      }
    }
  }
}

}  // namespace
}  // namespace exactnorm::testing

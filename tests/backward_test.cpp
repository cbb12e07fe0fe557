// Gradients: against finite differences of a forward pass written here, and against the exact formula.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
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

// sum of weight * y for one channel, from the definition.
long double loss(const std::vector<long double>& x, const std::vector<double>& weights, long double gamma,
                 long double beta, const Options& options, const long double* frozen_mean_and_variance) {
  long double mean = 0;
  long double variance = 0;
  if (frozen_mean_and_variance != nullptr) {
    mean = frozen_mean_and_variance[0];
    variance = frozen_mean_and_variance[1];
  } else {
    const auto count = static_cast<long double>(x.size());
    for (const long double value : x) mean += value;
    mean /= count;
    for (const long double value : x) variance += (value - mean) * (value - mean);
    variance /= count;
  }
  const auto epsilon = static_cast<long double>(options.epsilon);
  const long double divisor = options.epsilon_placement == EpsilonPlacement::variance ? std::sqrt(variance + epsilon)
                                                                                      : std::sqrt(variance) + epsilon;
  long double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    sum += static_cast<long double>(weights[i]) * (gamma * ((x[i] - mean) / divisor) + beta);
  }
  return sum;
}

struct Given {
  double mean;
  double variance;
};

// The backward pass is told no epsilon: it has that of the statistics.
void compare_with_differences(Random& random, bool frozen, EpsilonPlacement placement) {
  const Index count = random.between(2, 30);
  Options options;
  options.channel_axes = {};
  options.epsilon = std::pow(10.0, random.uniform(-6, 0));
  options.epsilon_placement = placement;
  const double gamma = random.uniform(-3, 3);
  std::vector<double> x;
  std::vector<double> dy;
  for (Index i = 0; i < count; ++i) {
    x.push_back(random.normal() * 2 + 1);
    dy.push_back(random.chance(0.2) ? 0 : random.normal());
  }
  const Given given = {0.9, 3.7};
  const Tensor gammas(DType::float64, {1}, std::vector{gamma});
  const Tensor x_tensor(DType::float64, {count}, x);
  const Tensor dy_tensor(DType::float64, {count}, dy);
  Tensor y(DType::float64, {count});
  Tensor dx(DType::float64, {count});
  Tensor dgamma(DType::float64, {1});
  Tensor dbeta(DType::float64, {1});
  const Gradients gradients = {dx.view(), dgamma.view(), dbeta.view()};
  if (frozen) {
    const std::array mean = {given.mean};
    const std::array variance = {given.variance};
    backward_frozen(dy_tensor.view(), x_tensor.view(), given_statistics(view(mean, {1}), view(variance, {1}), options),
                    {gammas.view()}, gradients, {.channel_axes = {}});
  } else {
    const Statistics statistics = training(x_tensor.view(), y.view(), {gammas.view(), {}}, options);
    backward(dy_tensor.view(), x_tensor.view(), statistics, {gammas.view()}, gradients, {.channel_axes = {}});
  }
  const long double constants[] = {given.mean, given.variance};
  const auto at = [&](Index changed, long double by, long double gamma_by, long double beta_by) {
    std::vector<long double> moved(x.begin(), x.end());
    if (changed >= 0) moved[static_cast<std::size_t>(changed)] += by;
    return loss(moved, dy, static_cast<long double>(gamma) + gamma_by, beta_by, options, frozen ? constants : nullptr);
  };
  constexpr long double step = 0x1p-21L;  // about the cube root of long double's precision
  const auto difference = [&](long double above, long double below) {
    return static_cast<double>((above - below) / (2 * step));
  };
  const double tolerance = 3e-9 * static_cast<double>(count);
  for (Index i = 0; i < count; ++i) {
    EXPECT_NEAR(dx.get(i), difference(at(i, step, 0, 0), at(i, -step, 0, 0)), tolerance) << "element " << i;
  }
  EXPECT_NEAR(dgamma.get(0), difference(at(-1, 0, step, 0), at(-1, 0, -step, 0)), tolerance);
  EXPECT_NEAR(dbeta.get(0), difference(at(-1, 0, 0, step), at(-1, 0, 0, -step)), tolerance);
}

TEST(FiniteDifferences, OfTraining) {
  Random random(41);
  for (int i = 0; i < 60 && !HasFailure(); ++i) {
    compare_with_differences(random, false, EpsilonPlacement::variance);
    compare_with_differences(random, false, EpsilonPlacement::deviation);
  }
}

TEST(FiniteDifferences, OfInference) {
  Random random(42);
  for (int i = 0; i < 60 && !HasFailure(); ++i) {
    compare_with_differences(random, true, EpsilonPlacement::variance);
    compare_with_differences(random, true, EpsilonPlacement::deviation);
  }
}

struct Case {
  DType x_dtype = DType::float32;
  DType dy_dtype = DType::float32;
  DType out_dtype = DType::float32;
  std::vector<double> x;
  std::vector<double> dy;
  double gamma = 1;
  Options options;
};

void expect_close(const char* name, double computed, const Real& exact, const Real& allowed) {
  ASSERT_TRUE(std::isfinite(computed)) << name << " is " << computed << " instead of " << exact.str(17);
  ASSERT_LE(abs(Real(computed) - exact), allowed) << name << " is " << computed << " instead of " << exact.str(17);
}

void check_gradients(const Case& test) {
  Options options = test.options;
  options.channel_axes = {};
  const auto count = static_cast<Index>(test.x.size());
  const Tensor x(test.x_dtype, {count}, test.x);
  const Tensor dy(test.dy_dtype, {count}, test.dy);
  const Tensor gamma(DType::float64, {1}, std::vector{test.gamma});
  Tensor y(DType::float64, {count});
  const Statistics statistics = training(x.view(), y.view(), {}, options);
  const bool single = test.out_dtype == DType::float32;
  const Real unit(single ? 0x1.0001p-24 : 0x1p-53);
  // float32 numbers are computed with in float32, others in float64.
  const bool all_single = single && dtype_fits_float32(test.x_dtype) && dtype_fits_float32(test.dy_dtype);
  const Real step(single ? 0x1p-149 : 0x1p-1074);
  // What normalizes float32 data is on a grid, and so are sums of gradients over them.
  const bool x_on_grid = dtype_fits_float32(test.x_dtype);
  const bool on_grid = x_on_grid && dtype_fits_float32(test.dy_dtype);
  Real squares(0);
  for (const double value : dy.values()) squares += Real(value) * Real(value);
  for (const bool frozen : {false, true}) {
    SCOPED_TRACE(frozen ? "frozen" : "batch");
    const ExactGradients exact(dy.values(), x.values(), test.gamma, options, frozen);
    Tensor dx(test.out_dtype, {count});
    Tensor dgamma(DType::float64, {1});
    Tensor dbeta(DType::float64, {1});
    (frozen ? backward_frozen : backward)(dy.view(), x.view(), statistics, {gamma.view()},
                                          {dx.view(), dgamma.view(), dbeta.view()}, options);
    Rational sum_dy;
    for (const double value : dy.values()) sum_dy += rational(value);
    const Real size_of_sum = sqrt(Real(squares * Real(count)));
    const Real deviation = sqrt(ExactChannel(x.values(), options).variance);
    const Real share = deviation * ExactChannel(x.values(), options).inverse_deviation;
    if (on_grid) {
      ASSERT_LE(abs(Real(dbeta.get(0)) - exact.dbeta), size_of_sum * 0x1p-35);
    } else {
      ASSERT_EQ(dbeta.get(0), correctly_rounded(sum_dy));
    }
    // What two float64 numbers cannot hold of the mean, times the sum of dy.
    const Real mean_error =
        abs(Real(statistics.mean[0]) * exact.dbeta * Real(statistics.inverse_deviation[0])) * 0x1p-104;
    Real grid_error(0);
    if (on_grid) grid_error += size_of_sum * share * 0x1p-35;
    if (x_on_grid) grid_error += abs(exact.dbeta) * share * 0x1p-34 + abs(exact.dgamma) * 0x1p-31;
    expect_close("dgamma", dgamma.get(0), exact.dgamma,
                 abs(exact.dgamma) * 0x1p-50 + mean_error + grid_error + Real(0x1p-1074));
    const Real factor = abs(Real(test.gamma)) * ExactChannel(x.values(), options).inverse_deviation;
    for (std::size_t i = 0; i < test.x.size(); ++i) {
      expect_close("dx", dx.get(static_cast<Index>(i)), exact.dx[i],
                   abs(exact.dx[i]) * unit + exact.dx_scale[i] * 0x1p-48 + step +
                       (all_single && !frozen ? Real(5 * unit * exact.dx_rest[i] + step) : Real(0)) +
                       (x_on_grid ? Real(abs(exact.dx[i]) * 0x1p-31 + exact.dx_rest[i] * 0x1p-29 +
                                         factor * size_of_sum / Real(count) * 0x1p-32)
                                  : Real(0)));
      if (::testing::Test::HasFatalFailure()) return;
    }
  }
}

Case random_case(Random& random, double ratio, double deviation) {
  const auto floating = [&] { return random.chance(0.7) ? DType::float32 : DType::float64; };
  Case test;
  test.x_dtype = floating();
  test.dy_dtype = floating();
  test.out_dtype = floating();
  for (Index i = random.between(2, 80); i > 0; --i) {
    test.x.push_back(deviation * (random.normal() + ratio));
    test.dy.push_back(random.chance(0.2) ? 0 : random.normal() + random.uniform(-1, 1));
  }
  test.gamma = random.of_exponent(-3, 3);
  test.options.epsilon = deviation * std::pow(10.0, random.uniform(-9, 0));
  test.options.epsilon_placement = random.chance(0.5) ? EpsilonPlacement::variance : EpsilonPlacement::deviation;
  return test;
}

TEST(Backward, IsTheExactFormula) {
  Random random(43);
  for (int i = 0; i < 200 && !HasFailure(); ++i) {
    check_gradients(random_case(random, random.uniform(-3, 3), std::pow(10.0, random.uniform(-5, 5))));
  }
}

// sum of dy * x and mean * sum of dy agree in their first digits here, and float code loses them.
TEST(Backward, OfMeansFarFromZero) {
  Random random(44);
  for (const double ratio : {1e3, 1e6, 1e9, -1e12}) {
    for (int i = 0; i < 25 && !HasFailure(); ++i) {
      Case test = random_case(random, ratio, 1);
      if (std::fabs(ratio) > 1e6) test.x_dtype = DType::float64;
      for (double& value : test.dy) value += 10;
      check_gradients(test);
    }
  }
}

TEST(Backward, OfIntegers) {
  Random random(45);
  for (const DType dtype : {DType::uint8, DType::int8, DType::int16, DType::int32, DType::int64}) {
    for (int i = 0; i < 10 && !HasFailure(); ++i) {
      Case test = random_case(random, 0, 1);
      test.x_dtype = dtype;
      for (double& value : test.x) value = static_cast<double>(random.between(0, 127));
      check_gradients(test);
    }
  }
}

TEST(Backward, OfDyOfAllMagnitudes) {
  Random random(46);
  for (int i = 0; i < 40 && !HasFailure(); ++i) {
    Case test = random_case(random, 2, 1);
    test.options.epsilon = 1e-5;
    for (double& value : test.dy) value = random.of_exponent(-60, 60);
    check_gradients(test);
  }
}

TEST(Backward, OfDyWithTailsBelowMagnitudesThatGrow) {
  Random random(56);
  for (int i = 0; i < 12 && !HasFailure(); ++i) {
    Case test;
    test.gamma = random.of_exponent(-3, 3);
    int growth = 0;
    for (Index left = random.between(4000, 9000); left > 0; --left) {
      if (random.chance(0.002)) growth += static_cast<int>(random.between(0, 3));
      test.x.push_back(random.normal() * (random.chance(0.01) ? 1e-7 : 1));
      test.dy.push_back(random.of_exponent(-(random.chance(0.05) ? 12 * (i % 4 + 1) : 8), 0) *
                        std::ldexp(1.0, growth - 40));
    }
    check_gradients(test);
  }
}

TEST(Backward, OfDyThatIsZero) {
  Random random(47);
  Case test = random_case(random, 3, 1);
  for (double& value : test.dy) value = 0;
  check_gradients(test);
}

// Squares of these numbers, or of their inverses, exceed float64.
TEST(Backward, OfFloat64DataOfExtremeScale) {
  Random random(48);
  for (const double scale : {1e200, 1e160, 1e-160, 1e-200}) {
    for (const EpsilonPlacement placement : {EpsilonPlacement::variance, EpsilonPlacement::deviation}) {
      SCOPED_TRACE(::testing::Message() << scale << " placement " << static_cast<int>(placement));
      Case test;
      test.x_dtype = test.dy_dtype = test.out_dtype = DType::float64;
      for (int i = 0; i < 20; ++i) {
        test.x.push_back(scale * random.normal());
        test.dy.push_back(random.normal());
      }
      test.options.epsilon = 0;
      test.options.epsilon_placement = placement;
      check_gradients(test);
    }
  }
}

// Products of a dy of 1e-30 and an x of 1e30, in float32.
TEST(Backward, OfFloat32DataOfExtremeScale) {
  Random random(49);
  for (const double scale : {1e30, 1e-30, 1e-38}) {
    for (const double dy_scale : {1e30, 1.0, 1e-30, 1e-42}) {
      Case test = random_case(random, 1, scale);
      test.x_dtype = test.dy_dtype = DType::float32;
      test.out_dtype = DType::float64;
      for (double& value : test.dy) value *= dy_scale;
      check_gradients(test);
    }
  }
}

// A constant channel: x - mean is zero everywhere, and so is dgamma, exactly.
TEST(Backward, OfAConstantChannel) {
  Random random(50);
  for (const double epsilon : {0.0, 1e-5}) {
    for (const EpsilonPlacement placement : {EpsilonPlacement::variance, EpsilonPlacement::deviation}) {
      Options options;
      options.channel_axes = {};
      options.epsilon = epsilon;
      options.epsilon_placement = placement;
      const Tensor x(DType::float32, {50}, std::vector<double>(50, static_cast<double>(0.1F)));
      Tensor dy(DType::float32, {50});
      for (Index i = 0; i < 50; ++i) dy.set(i, random.normal());
      Tensor y(DType::float32, {50});
      Tensor dx(DType::float64, {50});
      Tensor dgamma(DType::float32, {1});
      Tensor dbeta(DType::float32, {1});
      const Statistics statistics = training(x.view(), y.view(), {}, options);
      backward(std::as_const(dy).view(), x.view(), statistics, {}, {dx.view(), dgamma.view(), dbeta.view()}, options);
      EXPECT_EQ(dgamma.get(0), 0);
      const ExactGradients exact(dy.values(), x.values(), 1, options);
      for (Index i = 0; i < 50; ++i) {
        const auto at = static_cast<std::size_t>(i);
        // The sum of dy is on the grid.
        const Real of_grid = Real(statistics.inverse_deviation[0]) * 0x1p-33;
        expect_close("dx", dx.get(i), exact.dx[at], exact.dx_scale[at] * 0x1p-50 + of_grid);
        if (epsilon == 0) {
          EXPECT_EQ(dx.get(i), 0);
        }
      }
    }
  }
}

TEST(Backward, AnySubsetOfOutputsHasTheSameBits) {
  Random random(51);
  const IndexList shape = {20, 7, 11};
  Tensor x(DType::float32, shape);
  Tensor dy(DType::float32, shape);
  for (Index i = 0; i < x.count(); ++i) {
    x.set(i, random.normal());
    dy.set(i, random.normal());
  }
  const TensorView x_view = std::as_const(x).view();
  const TensorView dy_view = std::as_const(dy).view();
  Tensor y(DType::float32, shape);
  const Statistics statistics = training(x_view, y.view());
  PartialSums sums(7, PartialSums::Kind::gradients);
  accumulate(sums, dy_view, x_view);
  for (const int way : {0, 1, 2}) {
    std::vector<std::vector<double>> expected;
    for (const unsigned subset : {7U, 0U, 1U, 2U, 3U, 4U, 5U, 6U}) {
      SCOPED_TRACE(::testing::Message() << "way " << way << " subset " << subset);
      Tensor dx(DType::float32, shape);
      Tensor dgamma(DType::float32, {7});
      Tensor dbeta(DType::float64, {7});
      const std::vector<double> untouched[] = {dx.values(), dgamma.values(), dbeta.values()};
      Gradients gradients;
      if ((subset & 1) != 0) gradients.dx = dx.view();
      if ((subset & 2) != 0) gradients.dgamma = dgamma.view();
      if ((subset & 4) != 0) gradients.dbeta = dbeta.view();
      if (way == 0) backward(dy_view, x_view, statistics, {}, gradients);
      if (way == 1) backward_frozen(dy_view, x_view, statistics, {}, gradients);
      if (way == 2) backward_from_sums(dy_view, x_view, statistics, sums, {}, gradients);
      if (subset == 7) expected = {dx.values(), dgamma.values(), dbeta.values()};
      const Tensor* outputs[] = {&dx, &dgamma, &dbeta};
      for (std::size_t i = 0; i < 3; ++i) {
        EXPECT_TRUE(same_bits(outputs[i]->values(), (subset >> i & 1) != 0 ? expected[i] : untouched[i]));
      }
    }
  }
}

}  // namespace
}  // namespace exactnorm::testing

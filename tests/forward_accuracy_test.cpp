// y is within the documented distance of the exact result.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "support/compare.h"
#include "support/oracle.h"
#include "support/random.h"
#include "support/tensor.h"
#include "tensor/element_type.h"

namespace exactnorm::testing {
namespace {

struct Case {
  DType x_dtype = DType::float32;
  std::vector<double> x;  // of one channel, as x_dtype holds it
  double gamma = 1;
  double beta = 0;
  Options options;
};

// The largest errors met.
struct Worst {
  double relative = 0;  // in 2^-24 (float32) or 2^-53 (float64) of max(|y|, |beta|, |y - beta|)

  void record(const char* name) const {
    std::printf("%s: at most %.6f of the bound's unit\n", name, relative);
    ::testing::Test::RecordProperty(name, std::to_string(relative));
  }
};

template <typename T>
void check_forward(Case test, Worst& worst) {
  constexpr bool single = std::is_same_v<T, float>;
  const double unit = single ? 0x1p-24 : 0x1p-53;
  // float32 numbers are computed with in float32, others in float64.
  const bool all_single = single && dtype_fits_float32(test.x_dtype);
  // What normalizes them is on a grid.
  const bool on_grid = dtype_fits_float32(test.x_dtype);
  const double bound = (all_single ? 4 + 0x1p-20 : (single ? 1.001 : 8)) + (on_grid ? 0x1p-31 / unit : 0);
  const auto count = static_cast<Index>(test.x.size());
  test.options.channel_axes = {};
  const Tensor x(test.x_dtype, {count}, test.x);
  const Tensor gamma(DType::float64, {1}, {test.gamma});
  const Tensor beta(DType::float64, {1}, {test.beta});
  Tensor y(dtype_of<T>(), {count});
  (void)training(x.view(), y.view(), {gamma.view(), beta.view()}, test.options);
  const ExactChannel exact(test.x, test.options);
  for (Index i = 0; i < count; ++i) {
    const Real right = exact.y(test.x[static_cast<std::size_t>(i)], test.gamma, test.beta);
    const double computed = y.get(i);
    ASSERT_TRUE(std::isfinite(computed)) << "element " << i << " is " << computed << " instead of " << right.str(9);
    // A subnormal output has fewer digits than any relative bound asks for.
    const Real subnormal_step(std::numeric_limits<T>::denorm_min());
    const Real error = abs(Real(computed) - right);
    const Real scale = scale_of(right, test.beta);
    const Real allowed = bound * unit * scale + (on_grid ? Real(0x1p-34 * std::fabs(test.gamma)) : Real(0)) +
                         (scale < Real(std::numeric_limits<T>::min()) ? subnormal_step : Real(0));
    ASSERT_LE(error, allowed) << "element " << i << " is " << computed << " instead of " << right.str(20) << " with x "
                              << test.x[static_cast<std::size_t>(i)] << " gamma " << test.gamma << " beta " << test.beta
                              << " epsilon " << test.options.epsilon;
    if (scale < Real(std::numeric_limits<T>::min())) continue;
    worst.relative = std::max(worst.relative, Real(error / scale / unit).template convert_to<double>());
  }
}

std::vector<double> rounded_to(DType dtype, const std::vector<double>& values) {
  return Tensor(dtype, {static_cast<Index>(values.size())}, values).values();
}

Case random_case(Random& random, DType x_dtype) {
  Case test;
  test.x_dtype = x_dtype;
  const double ratio = std::pow(10.0, random.uniform(-3, 6));
  const double deviation = std::pow(10.0, random.uniform(-10, 10));
  std::vector<double> x;
  for (Index i = random.between(2, 120); i > 0; --i) x.push_back(deviation * (random.normal() + ratio));
  test.x = rounded_to(x_dtype, x);
  test.gamma = random.chance(0.2) ? 1 : random.of_exponent(-8, 8);
  test.beta = random.chance(0.2) ? 0 : random.of_exponent(-8, 8);
  const double variance = exact_moments(test.x).variance.convert_to<double>();
  test.options.epsilon = random.chance(0.3) && variance > 0 ? 0 : std::pow(10.0, random.uniform(-12, 1));
  test.options.epsilon_placement = random.chance(0.5) ? EpsilonPlacement::variance : EpsilonPlacement::deviation;
  return test;
}

TEST(ForwardAccuracy, Float32) {
  Random random(21);
  Worst worst;
  for (int i = 0; i < 500 && !HasFatalFailure(); ++i) check_forward<float>(random_case(random, DType::float32), worst);
  worst.record("float32_from_float32");
}

TEST(ForwardAccuracy, Float32FromFloat64) {
  Random random(22);
  Worst worst;
  for (int i = 0; i < 300 && !HasFatalFailure(); ++i) check_forward<float>(random_case(random, DType::float64), worst);
  worst.record("float32_from_float64");
}

TEST(ForwardAccuracy, Float64) {
  Random random(23);
  Worst worst;
  for (int i = 0; i < 400 && !HasFatalFailure(); ++i) {
    check_forward<double>(random_case(random, i % 2 == 0 ? DType::float64 : DType::float32), worst);
  }
  worst.record("float64");
}

TEST(ForwardAccuracy, OfIntegers) {
  Random random(24);
  Worst worst;
  for (const DType dtype : {DType::uint8, DType::int8, DType::int16, DType::int32, DType::int64}) {
    for (int i = 0; i < 30 && !HasFatalFailure(); ++i) {
      Case test = random_case(random, DType::float64);
      for (double& value : test.x) value = static_cast<double>(random.between(0, 127));
      test.x_dtype = dtype;
      check_forward<float>(test, worst);
      Worst ignored;
      check_forward<double>(test, ignored);
    }
  }
  worst.record("float32_from_integers");
}

// Numbers that float64 holds, but whose squares, or whose product with gamma and 1 / deviation, it does not.
class ExtremeScale : public ::testing::TestWithParam<double> {};

TEST_P(ExtremeScale, Float64) {
  Random random(25);
  for (const double gamma : {1.0, -1e-20, 1e20}) {
    for (const EpsilonPlacement placement : {EpsilonPlacement::variance, EpsilonPlacement::deviation}) {
      const double scale = gamma / GetParam();
      if (!std::isnormal(scale) || std::fabs(scale) > 1e307) continue;  // beyond what is promised
      Case test;
      test.x_dtype = DType::float64;
      for (int i = 0; i < 20; ++i) test.x.push_back(GetParam() * (random.normal() + 0.5));
      test.gamma = gamma;
      test.beta = gamma;
      test.options.epsilon = 0;
      test.options.epsilon_placement = placement;
      Worst worst;
      SCOPED_TRACE(::testing::Message() << "gamma " << gamma << ", placement " << static_cast<int>(placement));
      check_forward<double>(test, worst);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(OfFloat64, ExtremeScale, ::testing::Values(1e300, 1e160, 1e-160, 1e-200, 1e-290, 1e-300));

TEST(ForwardAccuracy, OfFloat32Limits) {
  Random random(26);
  Worst worst;
  for (const double scale : {1e30, 1e38, 1e-30, 1e-38, 1e-44}) {
    Case test;
    for (int i = 0; i < 50; ++i) test.x.push_back(scale * random.normal());
    test.x = rounded_to(DType::float32, test.x);
    test.gamma = -0.7;
    test.beta = 0.3;
    for (const double epsilon : {0.0, 1e-5}) {
      test.options.epsilon = epsilon;
      check_forward<float>(test, worst);
      test.options.epsilon_placement = EpsilonPlacement::deviation;
      check_forward<float>(test, worst);
    }
  }
  worst.record("float32_at_limits");
}

TEST(ForwardAccuracy, OfSubnormalOutput) {
  Case test;
  test.x = rounded_to(DType::float32, {1e-41, -3e-42, 2e-41, 7e-40, -1e-39});
  test.options.epsilon = 1;
  Worst worst;
  check_forward<float>(test, worst);
}

// As large as x may be for no x - mean to exceed float64.
TEST(ForwardAccuracy, OfTheLargestFloat64OfBothSigns) {
  constexpr double large = std::numeric_limits<double>::max() / 2;
  Case test;
  test.x_dtype = DType::float64;
  test.x = {large, -large, -large, -large, 0};
  Worst worst;
  check_forward<double>(test, worst);
}

// Epsilon may be far smaller than anything in float64's ordinary range, and still be beside the data.
TEST(ForwardAccuracy, OfATinyEpsilonBesideTinyData) {
  Random random(27);
  Worst worst;
  const struct {
    double scale;
    double epsilon;
    EpsilonPlacement placement;
  } cases[] = {{1e-200, 1e-205, EpsilonPlacement::deviation}, {1e-200, 1e-200, EpsilonPlacement::deviation},
               {1e-160, 5e-324, EpsilonPlacement::variance},  {1e-158, 1e-316, EpsilonPlacement::variance},
               {1e-150, 1e-300, EpsilonPlacement::variance},  {1e-290, 1e-300, EpsilonPlacement::deviation}};
  for (const auto& [scale, epsilon, placement] : cases) {
    SCOPED_TRACE(::testing::Message() << scale << " " << epsilon << " " << static_cast<int>(placement));
    Case test;
    test.x_dtype = DType::float64;
    for (int i = 0; i < 20; ++i) test.x.push_back(scale * random.normal());
    test.options.epsilon = epsilon;
    test.options.epsilon_placement = placement;
    check_forward<double>(test, worst);
  }
}

}  // namespace
}  // namespace exactnorm::testing

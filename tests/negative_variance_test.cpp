// Variances a little below zero, as published networks have them: y is defined while variance + epsilon is more than 0.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "support/compare.h"
#include "support/exact.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

Real exact_inverse(double variance, double epsilon) { return 1 / sqrt(Real(variance) + Real(epsilon)); }

Statistics given(double mean, double variance, const Options& options) {
  const std::array means = {mean};
  const std::array variances = {variance};
  return given_statistics(view(means, {1}), view(variances, {1}), options);
}

TEST(NegativeVariance, HasTheInverseDeviationOfItsSum) {
  Random random(881);
  for (int i = 0; i < 3000 && !HasFailure(); ++i) {
    const double epsilon = std::fabs(random.of_exponent(-60, 3));
    const double nearness = random.chance(0.5) ? 1 - std::fabs(random.of_exponent(-52, -2)) : random.uniform(0, 1);
    const double variance = -epsilon * nearness;
    if (!(variance > -epsilon)) continue;
    const Statistics statistics = given(0.5, variance, {.epsilon = epsilon});
    ASSERT_LE(error_in_ulps(statistics.inverse_deviation[0], exact_inverse(variance, epsilon)), 2)
        << variance << ", " << epsilon;
    ASSERT_EQ(statistics.variance[0], variance);
  }
  const double subnormal = given(0, -0x1p-1022, {.epsilon = std::nextafter(0x1p-1022, 1)}).inverse_deviation[0];
  EXPECT_EQ(subnormal, 0x1p537);  // 1 / sqrt(2^-1074)
}

// In float32 and float64, in every layout of the map: y and the gradients of a running variance of -9.9998997e-06.
TEST(NegativeVariance, NormalizesAndHasGradients) {
  Random random(882);
  const double variance = -9.9998997e-06F;
  const double epsilon = 1e-5;
  const double gamma = 1.5;
  const double beta = -0.25;
  for (const double mean : {0.75, 1e4, 0.0}) {
    const Statistics statistics = given(mean, variance, {});
    const Real inverse = exact_inverse(variance, epsilon);
    for (const DType dtype : {DType::float32, DType::float64}) {
      const bool single = dtype == DType::float32;
      const Tensor gammas(DType::float64, {1}, {gamma});
      const Tensor betas(DType::float64, {1}, {beta});
      Tensor x(dtype, {37, 1, 5});
      Tensor dy(dtype, x.shape());
      for (Index i = 0; i < x.count(); ++i) {
        x.set(i, mean + random.normal());
        dy.set(i, random.normal());
      }
      Tensor y(dtype, x.shape());
      Tensor dx(dtype, x.shape());
      Tensor dgamma(DType::float64, {1});
      inference(x.view(), statistics, y.view(), {gammas.view(), betas.view()});
      backward_frozen(dy.view(), x.view(), statistics, {gammas.view()}, {dx.view(), dgamma.view(), {}});
      Real exact_dgamma = 0;
      for (Index i = 0; i < x.count(); ++i) {
        const Real centred = Real(x.get(i)) - Real(mean);
        const Real exact = Real(gamma) * centred * inverse + Real(beta);
        const Real size = abs(exact) + abs(Real(exact - Real(beta))) + Real(std::fabs(beta));
        ASSERT_LE(abs(Real(y.get(i)) - exact), size * Real(single ? 4 * 0x1p-24 : 8 * 0x1p-53));
        const Real exact_dx = Real(gamma) * inverse * Real(dy.get(i));
        ASSERT_LE(abs(Real(dx.get(i)) - exact_dx), abs(exact_dx) * Real(single ? 0x1.01p-23 : 0x1p-50));
        exact_dgamma += Real(dy.get(i)) * centred * inverse;
      }
      EXPECT_LE(abs(Real(dgamma.get(0)) - exact_dgamma), abs(exact_dgamma) * 0x1p-50);
    }
  }
}

}  // namespace
}  // namespace exactnorm::testing

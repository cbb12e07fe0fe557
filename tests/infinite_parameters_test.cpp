// gamma and beta that are not finite: y is what IEEE arithmetic makes of gamma * (x - mean) / deviation + beta.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "support/compare.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

bool is_same(double a, double b) { return std::isnan(a) ? std::isnan(b) : a == b; }

TEST(InfiniteParameters, AreComputedWith) {
  const double nan = std::nan("");
  // Channel 0: both signs beside the mean, and the mean itself; channel 1: one value everywhere. Both means are exact.
  const std::vector<double> x = {-3, 7, 0, 7, 2, 7, 1, 7};
  const std::array<double, 2> means = {0, 7};
  for (const DType dtype : {DType::float32, DType::float64}) {
    for (const double gamma : {infinity, -infinity, nan, 2.5}) {
      for (const double beta : {0.5, infinity, -infinity, nan}) {
        const Tensor x_tensor(dtype, {4, 2}, x);
        const Tensor gammas(DType::float64, {2}, {gamma, gamma});
        const Tensor betas(DType::float64, {2}, {beta, beta});
        Tensor y(dtype, {4, 2});
        Tensor inferred(dtype, {4, 2});
        const Statistics statistics = training(x_tensor.view(), y.view(), {gammas.view(), betas.view()});
        inference(x_tensor.view(), statistics, inferred.view(), {gammas.view(), betas.view()});
        for (Index i = 0; i < 8; ++i) {
          const auto at = static_cast<std::size_t>(i);
          const double inverse = statistics.inverse_deviation[at % 2];
          const double right = gamma * ((x[at] - means[at % 2]) * inverse) + beta;
          if (std::isfinite(right)) continue;  // other tests' subject
          EXPECT_TRUE(is_same(y.get(i), right)) << y.get(i) << " for " << x[at] << ", " << gamma << ", " << beta;
          EXPECT_TRUE(is_same(inferred.get(i), right)) << inferred.get(i);
        }
      }
    }
  }
}

TEST(InfiniteParameters, ReachTheGradientOfX) {
  const std::vector<double> x = {-3, 1, 0, 2};
  const std::vector<double> dy = {1, -1, 0, 2};
  const Tensor x_tensor(DType::float32, {4, 1}, x);
  const Tensor dy_tensor(DType::float32, {4, 1}, dy);
  const std::array mean = {0.0};
  const std::array variance = {1.0};
  const Statistics given = given_statistics(view(mean, {1}), view(variance, {1}));
  for (const double gamma : {infinity, -infinity, std::nan("")}) {
    const Tensor gammas(DType::float64, {1}, {gamma});
    Tensor dx(DType::float32, {4, 1});
    backward_frozen(dy_tensor.view(), x_tensor.view(), given, {gammas.view()}, {.dx = dx.view()});
    for (Index i = 0; i < 4; ++i) {
      EXPECT_TRUE(is_same(dx.get(i), gamma * dy[static_cast<std::size_t>(i)])) << dx.get(i) << " for " << gamma;
    }
  }
}

}  // namespace
}  // namespace exactnorm::testing

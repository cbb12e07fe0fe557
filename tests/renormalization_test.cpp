// Batch renormalization: against the paper's formulas in 300 digits, against batch normalization where r is 1 and d is
// 0, and against inference where there is no limit.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "exactnorm/exactnorm.h"
#include "support/blocks.h"
#include "support/compare.h"
#include "support/exact.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr Index channels = 5;

struct Problem {
  explicit Problem(DType dtype, std::uint64_t seed)
      : x(dtype, {7, channels, 3}), dy(dtype, {7, channels, 3}), gamma(dtype, {channels}), beta(dtype, {channels}) {
    Random random(seed);
    for (Index i = 0; i < x.count(); ++i) {
      x.set(i, 3 + 2 * random.normal());
      dy.set(i, random.normal());
    }
    std::vector<double> means;
    std::vector<double> variances;
    for (Index i = 0; i < channels; ++i) {
      gamma.set(i, random.uniform(-2, 2));
      beta.set(i, random.uniform(-2, 2));
      means.push_back(random.uniform(-2, 8));
      variances.push_back(random.uniform(0.1, 12));
    }
    reference = given_statistics(view(means, {channels}), view(variances, {channels}));
  }
  [[nodiscard]] Affine affine() const { return {gamma.view(), beta.view()}; }

  Tensor x;
  Tensor dy;
  Tensor gamma;
  Tensor beta;
  Statistics reference;
};

TEST(BatchRenormalization, IsBatchNormalizationByDefault) {
  for (const DType dtype : {DType::float32, DType::float64}) {
    const Problem p(dtype, 1);
    Tensor y(dtype, p.x.shape());
    Tensor right(dtype, p.x.shape());
    const Renormalized found = renormalizing_training(p.x.view(), p.reference, {}, y.view(), p.affine());
    EXPECT_TRUE(same_bits(found.statistics, training(p.x.view(), right.view(), p.affine())));
    EXPECT_TRUE(same_bits(y.values(), right.values()));
    EXPECT_EQ(found.renormalization.r, std::vector<double>(channels, 1.0));
    Tensor dgamma(DType::float64, {channels});
    Tensor right_dgamma(DType::float64, {channels});
    renormalizing_backward(p.dy.view(), p.x.view(), found, p.affine(), {y.view(), dgamma.view()});
    backward(p.dy.view(), p.x.view(), found.statistics, p.affine(), {right.view(), right_dgamma.view()});
    EXPECT_TRUE(same_bits(y.values(), right.values()));
    EXPECT_TRUE(same_bits(dgamma.values(), right_dgamma.values()));
  }
}

TEST(BatchRenormalization, IsInferenceWithoutLimits) {
  const Problem p(DType::float64, 2);
  Tensor y(DType::float64, p.x.shape());
  Tensor right(DType::float64, p.x.shape());
  static_cast<void>(renormalizing_training(p.x.view(), p.reference, {infinity, infinity}, y.view(), p.affine()));
  inference(p.x.view(), p.reference, right.view(), p.affine());
  for (Index i = 0; i < y.count(); ++i) EXPECT_NEAR(y.get(i), right.get(i), 1e-13);
}

// The formulas of the paper, and the chain rule with r and d as constants, in 300 digits.
TEST(BatchRenormalization, IsThePapers) {
  for (const auto& limits : {RenormalizationLimits{1.5, 0.5}, RenormalizationLimits{1.1, 3, 0.0},
                             RenormalizationLimits{infinity, 0.25, 0.75}}) {
    const Problem p(DType::float64, 3);
    Tensor y(DType::float64, p.x.shape());
    const Renormalized found = renormalizing_training(p.x.view(), p.reference, limits, y.view(), p.affine());
    Tensor dx(DType::float64, p.x.shape());
    Tensor dgamma(DType::float64, {channels});
    Tensor dbeta(DType::float64, {channels});
    renormalizing_backward(p.dy.view(), p.x.view(), found, p.affine(), {dx.view(), dgamma.view(), dbeta.view()});
    const auto by_channel = values_by_channel(p.x.values(), p.x.shape(), {1});
    int limited = 0;
    for (Index channel = 0; channel < channels; ++channel) {
      const auto at = static_cast<std::size_t>(channel);
      const ExactMoments moments = exact_moments(by_channel[at]);
      const Real mean = real(moments.mean);
      const Real deviation = sqrt(real(moments.variance) + Real(1e-5));
      const Real reference_deviation = sqrt(Real(p.reference.variance[at]) + Real(1e-5));
      const double r_min = limits.r_min.value_or(1 / limits.r_max);
      const auto clip = [&](const Real& value, double low, double high) {
        limited += value < low || value > high ? 1 : 0;
        return value < low ? Real(low) : value > high ? Real(high) : value;
      };
      const Real r = clip(deviation / reference_deviation, r_min, limits.r_max);
      const Real d = clip((mean - Real(p.reference.mean[at])) / reference_deviation, -limits.d_max, limits.d_max);
      EXPECT_NEAR(found.renormalization.r[at], r.convert_to<double>(), 1e-14);
      EXPECT_NEAR(found.renormalization.d[at], d.convert_to<double>(), 1e-14);
      Real sum = 0;
      Real product = 0;
      Real of_gamma = 0;
      const auto normalized = [&](Index i) { return (Real(p.x.get(i)) - mean) / deviation; };
      const auto for_channel = [&](const auto& visit) {
        for (Index i = 0; i < p.x.count(); ++i) {
          if (channel_of_element(i, p.x.shape(), {1}) == channel) visit(i);
        }
      };
      for_channel([&](Index i) {
        const Real corrected = normalized(i) * r + d;
        const Real expected = Real(p.gamma.get(channel)) * corrected + Real(p.beta.get(channel));
        EXPECT_NEAR(y.get(i), expected.convert_to<double>(), 1e-13);
        sum += Real(p.dy.get(i));
        product += Real(p.dy.get(i)) * normalized(i);
        of_gamma += Real(p.dy.get(i)) * corrected;
      });
      EXPECT_NEAR(dbeta.get(channel), sum.convert_to<double>(), 1e-13);
      EXPECT_NEAR(dgamma.get(channel), of_gamma.convert_to<double>(), 1e-13);
      const Real count(static_cast<double>(by_channel[at].size()));
      for_channel([&](Index i) {
        const Real expected = Real(p.gamma.get(channel)) * r / deviation *
                              (Real(p.dy.get(i)) - sum / count - normalized(i) * product / count);
        EXPECT_NEAR(dx.get(i), expected.convert_to<double>(), 1e-13);
      });
    }
    EXPECT_GT(limited, 0);
  }
}

TEST(BatchRenormalization, InLayers) {
  const Problem p(DType::float32, 4);
  for (const bool is_paired : {false, true}) {  // beside an activation and a mask
    BatchNorm layer(channels);
    layer.renormalization = RenormalizationLimits{2, 1};
    layer.options.activation = is_paired ? Activation::relu : Activation::none;
    layer.gamma = p.gamma.values();
    layer.beta = p.beta.values();
    Tensor mask(DType::boolean, {7, 3}, std::vector<double>(21, 1.0));
    mask.set(4, 0);
    const std::optional<Mask> selected = is_paired ? std::optional(Mask(std::as_const(mask).view())) : std::nullopt;
    RunningStatistics running(channels);
    Tensor y(DType::float32, p.x.shape());
    Tensor right(DType::float32, p.x.shape());
    Affine affine = p.affine();
    affine.mask = selected;
    for (int step = 0; step < 3; ++step) {
      EXPECT_TRUE(layer.forward(p.x.view(), y.view(), std::nullopt, selected).empty());
      const Renormalized found =
          renormalizing_training(p.x.view(), running.statistics(), {2, 1}, right.view(), affine, layer.options);
      running.update(found.statistics);
      EXPECT_TRUE(same_bits(y.values(), right.values()));
      EXPECT_EQ(layer.running.variance, running.variance);
      layer.backward(p.dy.view(), p.x.view(), y.view(), std::nullopt, std::nullopt, selected);
      Tensor dgamma(DType::float64, {channels});
      renormalizing_backward(p.dy.view(), p.x.view(), found, affine, {right.view(), dgamma.view()}, layer.options);
      EXPECT_TRUE(same_bits(y.values(), right.values()));
      EXPECT_EQ(layer.gamma_gradient, dgamma.values());
    }
  }
}

TEST(BatchRenormalization, Schedules) {
  const auto at = [](const RenormalizationSchedule& schedule, Index step) {
    const RenormalizationLimits limits = schedule.at(step);
    return std::pair(limits.r_max, limits.d_max);
  };
  const RenormalizationSchedule paper;
  EXPECT_EQ(at(paper, 0), std::pair(1.0, 0.0));
  EXPECT_EQ(at(paper, 5000), std::pair(1.0, 0.0));
  EXPECT_EQ(at(paper, 15000), std::pair(1 + 2 * (10000.0 / 35000), 2.5));
  EXPECT_EQ(at(paper, 40000), std::pair(3.0, 5.0));
  EXPECT_EQ(at(paper, 1000000), std::pair(3.0, 5.0));
  const RenormalizationSchedule step = {100, 100, 100, 3, 5};
  EXPECT_EQ(at(step, 99), std::pair(1.0, 0.0));
  EXPECT_EQ(at(step, 100), std::pair(3.0, 5.0));
}

TEST(BatchRenormalization, ChannelsWithoutFiniteStatistics) {
  Problem p(DType::float32, 5);
  p.x.set(0, std::numeric_limits<double>::quiet_NaN());
  Tensor y(DType::float32, p.x.shape());
  const Renormalized found =
      renormalizing_training(std::as_const(p.x).view(), p.reference, {2, 1}, y.view(), p.affine());
  EXPECT_TRUE(std::isnan(found.renormalization.r[0]));
  EXPECT_TRUE(std::isnan(y.get(1)));
  EXPECT_TRUE(std::isfinite(y.get(3)));
}

TEST(BatchRenormalization, RefusesImpossibleLimits) {
  const Problem p(DType::float32, 6);
  Tensor y(DType::float32, p.x.shape(), std::vector<double>(static_cast<std::size_t>(p.x.count()), 7.0));
  const auto error = [&](const RenormalizationLimits& limits) {
    return error_of([&] { static_cast<void>(renormalizing_training(p.x.view(), p.reference, limits, y.view())); });
  };
  EXPECT_EQ(error({0.5, 1}), "r_max: is 0.5; expected 1 or more");
  EXPECT_EQ(error({NAN, 1}), "r_max: is nan; expected 1 or more");
  EXPECT_EQ(error({2, -1}), "d_max: is -1; expected 0 or more");
  EXPECT_EQ(error({2, 1, 1.5}), "r_min: is 1.5; expected 0 to 1");
  EXPECT_EQ(error_of([] {
              static_cast<void>(RenormalizationSchedule{10, 5, 20}.at(0));
            }),
            "r_end: is 5; expected 10 or more, as begin is");
  EXPECT_EQ(error_of([] { static_cast<void>(RenormalizationSchedule{}.at(-1)); }), "step: is -1; expected 0 or more");
  EXPECT_EQ(y.values(), std::vector<double>(static_cast<std::size_t>(p.x.count()), 7.0));
}

}  // namespace
}  // namespace exactnorm::testing

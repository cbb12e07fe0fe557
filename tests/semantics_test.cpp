// Edge cases that the headers speak of.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/layer.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

bool all_nan(const std::vector<double>& values) {
  for (const double value : values) {
    if (!std::isnan(value)) return false;
  }
  return true;
}

TEST(OneValuePerChannel, BecomesBeta) {
  const std::array<float, 3> x = {5, -1e30F, 0x1p-149F};
  const std::array<float, 3> beta = {0.5, -2, 7};
  const std::array<float, 3> gamma = {-1e10F, 3, 1e10F};
  for (const double epsilon : {0.0, 1e-5}) {
    std::array<float, 3> y{};
    const Options options{.epsilon = epsilon};
    const Statistics statistics =
        training(view(x, {1, 3}), mutable_view(y, {1, 3}), {view(gamma, {3}), view(beta, {3})}, options);
    EXPECT_EQ(y, beta);
    EXPECT_EQ(statistics.count, 1);
    EXPECT_EQ(statistics.mean, (std::vector<double>{5, static_cast<double>(-1e30F), 0x1p-149}));
    EXPECT_EQ(statistics.variance, (std::vector<double>{0, 0, 0}));
  }
}

TEST(ScalarTensor, IsOneChannelOfOneValue) {
  const float x = 3;
  double y = 99;
  const Options options{.channel_axes = {}};
  const Statistics statistics = training(view(&x, {}), mutable_view(&y, {}), {}, options);
  EXPECT_EQ(y, 0);
  EXPECT_EQ(statistics.channels(), 1);
  EXPECT_EQ(statistics.mean[0], 3);
}

TEST(EmptyBatch, WritesNothingAndReturnsNan) {
  const TensorView x = {nullptr, DType::float32, {0, 4}, {4, 1}};
  const MutableTensorView y = {nullptr, DType::float32, {0, 4}, {4, 1}};
  const Statistics statistics = training(x, y);
  EXPECT_EQ(statistics.count, 0);
  EXPECT_EQ(statistics.channels(), 4);
  EXPECT_TRUE(all_nan(statistics.mean) && all_nan(statistics.variance) && all_nan(statistics.inverse_deviation));
  EXPECT_TRUE(all_nan(statistics_of(PartialSums(4)).mean));
  inference(x, statistics, y);

  PartialSums moments(4);
  accumulate(moments, x);
  EXPECT_TRUE(moments == PartialSums(4));
}

TEST(EmptyBatch, HasZeroGradients) {
  const TensorView x = {nullptr, DType::float32, {0, 2}, {2, 1}};
  const MutableTensorView dx = {nullptr, DType::float32, {0, 2}, {2, 1}};
  const Statistics statistics = training(x, dx);
  const PartialSums sums(2, PartialSums::Kind::gradients);
  for (const int way : {0, 1, 2}) {
    SCOPED_TRACE(way);
    std::array<double, 2> dgamma = {9, 9};
    std::array<double, 2> dbeta = {9, 9};
    const Gradients gradients = {dx, mutable_view(dgamma, {2}), mutable_view(dbeta, {2})};
    if (way == 0) backward(x, x, statistics, {}, gradients);
    if (way == 1) backward_frozen(x, x, statistics, {}, gradients);
    if (way == 2) backward_from_sums(x, x, statistics, sums, {}, gradients);
    EXPECT_EQ(dgamma, (std::array<double, 2>{0, 0}));
    EXPECT_EQ(dbeta, (std::array<double, 2>{0, 0}));
  }
}

TEST(ZeroChannels, AreFine) {
  const TensorView x = {nullptr, DType::float32, {4, 0}, {0, 1}};
  const MutableTensorView y = {nullptr, DType::float64, {4, 0}, {1, 1}};
  const Statistics statistics = training(x, y);
  EXPECT_EQ(statistics.channels(), 0);
  backward(x, x, statistics, {}, {y, {}, {}});
  EXPECT_EQ(BatchNorm(0).running.channels(), 0);
}

// NaN and infinity in channel 1 of three; the other channels have the bits that they would have without.
TEST(NonFinite, PoisonsItsOwnChannelInTraining) {
  Random random(61);
  for (const bool last : {false, true}) {
    for (const DType dtype : {DType::float32, DType::float64}) {
      for (const double poison : {not_a_number, infinity, -infinity}) {
        const IndexList shape = last ? IndexList{300, 3} : IndexList{10, 3, 30};
        Tensor clean(dtype, shape);
        for (Index i = 0; i < clean.count(); ++i) clean.set(i, random.normal());
        Tensor dirty = clean;
        const auto channel_at = [&](Index i) { return last ? i % 3 : i / 30 % 3; };
        const Index where = last ? 151 : 45;
        ASSERT_EQ(channel_at(where), 1);
        dirty.set(where, poison);
        Tensor y(DType::float32, shape);
        Tensor clean_y(DType::float32, shape);
        const Statistics statistics = training(std::as_const(dirty).view(), y.view());
        const Statistics clean_statistics = training(std::as_const(clean).view(), clean_y.view());
        for (const auto member :
             {&Statistics::mean, &Statistics::mean_residual, &Statistics::variance, &Statistics::inverse_deviation}) {
          EXPECT_TRUE(std::isnan((statistics.*member)[1]));
          EXPECT_EQ((statistics.*member)[0], (clean_statistics.*member)[0]);
          EXPECT_EQ((statistics.*member)[2], (clean_statistics.*member)[2]);
        }
        for (Index i = 0; i < y.count(); ++i) {
          if (channel_at(i) == 1) {
            ASSERT_TRUE(std::isnan(y.get(i)));
          } else {
            ASSERT_EQ(y.get(i), clean_y.get(i));
          }
        }
        // In dy it poisons dgamma and dx of the channel in the batch mode, and dx of its own element alone if frozen.
        Tensor dx(dtype, shape);
        Tensor dgamma(DType::float64, {3});
        Tensor dbeta(DType::float64, {3});
        const Gradients gradients = {dx.view(), dgamma.view(), dbeta.view()};
        backward(std::as_const(dirty).view(), std::as_const(clean).view(), clean_statistics, {}, gradients);
        for (Index i = 0; i < dx.count(); ++i) ASSERT_EQ(std::isnan(dx.get(i)), channel_at(i) == 1);
        for (Index c = 0; c < 3; ++c) {
          EXPECT_EQ(std::isnan(dgamma.get(c)), c == 1);
          EXPECT_EQ(std::isnan(dbeta.get(c)), c == 1);
        }
        backward_frozen(std::as_const(dirty).view(), std::as_const(clean).view(), clean_statistics, {}, gradients);
        for (Index i = 0; i < dx.count(); ++i) ASSERT_EQ(std::isfinite(dx.get(i)), i != where);
        // In x it poisons dgamma, not dbeta; and frozen dx does not look at x.
        backward_frozen(std::as_const(clean).view(), std::as_const(dirty).view(), clean_statistics, {}, gradients);
        for (Index i = 0; i < dx.count(); ++i) ASSERT_TRUE(std::isfinite(dx.get(i)));
        for (Index c = 0; c < 3; ++c) {
          EXPECT_EQ(std::isnan(dgamma.get(c)), c == 1);
          EXPECT_TRUE(std::isfinite(dbeta.get(c)));
        }
      }
    }
  }
}

TEST(NonFinite, ReachesItsOwnElementsInInference) {
  const std::array<float, 8> x = {1, NAN, 2, INFINITY, 3, -INFINITY, 4, 5};
  const std::array<double, 2> mean = {0, 1};
  const std::array<double, 2> variance = {4, 0.25};
  const Options options{.epsilon = 0};
  const std::array<double, 2> gamma = {-1, 1};
  const Affine affine = {view(gamma, {2}), {}};
  const Statistics statistics = given_statistics(view(mean, {2}), view(variance, {2}), options);
  const TargetRestorer restorer;
  for (const std::string& target : supported_targets()) {
    SCOPED_TRACE(target);
    set_target(target);
    std::array<float, 8> y{};
    inference(view(x, {4, 2}), statistics, mutable_view(y, {4, 2}), affine, options);
    EXPECT_EQ(y[0], -0.5F);
    EXPECT_TRUE(std::isnan(y[1]));
    EXPECT_EQ(y[2], -1);
    EXPECT_EQ(y[3], INFINITY);
    EXPECT_EQ(y[4], -1.5F);
    EXPECT_EQ(y[5], -INFINITY);
    EXPECT_EQ(y[6], -2);
    EXPECT_EQ(y[7], 8);
  }
}

// A float32 output beyond its range is infinite with every instruction set.
TEST(Overflow, IsInfinite) {
  const std::array<float, 4> x = {-3, -1, 1, 3};
  const std::array<double, 1> gamma = {3.4e38};
  const Options options{.channel_axes = {}, .epsilon = 0};
  const TargetRestorer restorer;
  for (const std::string& target : supported_targets()) {
    set_target(target);
    std::array<float, 4> y{};
    (void)training(view(x, {4}), mutable_view(y, {4}), {view(gamma, {1}), {}}, options);
    EXPECT_EQ(y[0], -INFINITY) << target;
    EXPECT_EQ(y[3], INFINITY) << target;
    EXPECT_TRUE(std::isfinite(y[1])) << target;
  }
}

TEST(Epsilon, MovesTheDivisorAsPlaced) {
  const std::array<double, 2> x = {-3, 3};
  std::array<double, 2> y{};
  Options options{.channel_axes = {}, .epsilon = 7};
  EXPECT_EQ(training(view(x, {2}), mutable_view(y, {2}), {}, options).inverse_deviation[0], 0.25);
  EXPECT_EQ(y[1], 0.75);
  options.epsilon_placement = EpsilonPlacement::deviation;
  EXPECT_EQ(training(view(x, {2}), mutable_view(y, {2}), {}, options).inverse_deviation[0], 0.1);
  EXPECT_NEAR(y[1], 0.3, 1e-16);
}

Statistics batch_of(const std::vector<double>& x, Index channels) {
  std::vector<double> y(x.size());
  const IndexList shape = {static_cast<Index>(x.size()) / channels, channels};
  return training(view(x, shape), mutable_view(y, shape));
}

TEST(RunningStatistics, MatchNumbersWorkedOutByHand) {
  RunningStatistics running(2);
  EXPECT_EQ(running.mean, (std::vector<double>{0, 0}));
  EXPECT_EQ(running.variance, (std::vector<double>{1, 1}));
  running.momentum = 0.25;
  // Channel 0: 1, 3, 8: mean 4, unbiased variance 13. Channel 1: 2, 2, 2.
  EXPECT_TRUE(running.update(batch_of({1, 2, 3, 2, 8, 2}, 2)).empty());
  EXPECT_EQ(running.mean, (std::vector<double>{1, 0.5}));
  EXPECT_NEAR(running.variance[0], 4, 1e-15);
  EXPECT_EQ(running.variance[1], 0.75);
  // Channel 0: -1, 1: unbiased variance 2. Channel 1: 0, 8: mean 4, unbiased variance 32.
  EXPECT_TRUE(running.update(batch_of({-1, 0, 1, 8}, 2)).empty());
  EXPECT_EQ(running.mean, (std::vector<double>{0.75, 1.375}));
  EXPECT_NEAR(running.variance[0], 3.5, 1e-15);
  EXPECT_EQ(running.variance[1], 8.5625);
  EXPECT_EQ(running.batches_tracked, 2);
}

TEST(RunningStatistics, WithoutMomentumAreTheAverageOfAllBatches) {
  RunningStatistics running(1);
  running.momentum = std::nullopt;
  (void)running.update(batch_of({1, 3}, 1));
  EXPECT_EQ(running.mean[0], 2);
  EXPECT_EQ(running.variance[0], 2);
  (void)running.update(batch_of({4, 8}, 1));
  (void)running.update(batch_of({10, 10}, 1));
  EXPECT_NEAR(running.mean[0], 6, 1e-14);
  EXPECT_NEAR(running.variance[0], 10.0 / 3, 1e-14);
}

TEST(RunningStatistics, MomentumOfZeroAndOne) {
  RunningStatistics running(1);
  running.momentum = 0;
  (void)running.update(batch_of({1, 3}, 1));
  EXPECT_EQ(running.mean[0], 0);
  EXPECT_EQ(running.variance[0], 1);
  EXPECT_EQ(running.batches_tracked, 1);
  running.momentum = 1;
  (void)running.update(batch_of({1, 3}, 1));
  EXPECT_EQ(running.mean[0], 2);
  EXPECT_EQ(running.variance[0], 2);
}

TEST(RunningStatistics, RefuseChannelsThatAreNotFinite) {
  RunningStatistics running(3);
  const std::vector<Index> refused = running.update(batch_of({1, not_a_number, 3, 3, 1, infinity}, 3));
  EXPECT_EQ(refused, (std::vector<Index>{1, 2}));
  EXPECT_EQ(running.mean[1], 0);
  EXPECT_EQ(running.variance[2], 1);
  EXPECT_NEAR(running.mean[0], 0.2, 1e-16);
  // A variance that exceeds float64, of data that does not.
  EXPECT_EQ(running.update(batch_of({1, 1e300, 0, 2, -1e300, 0}, 3)), (std::vector<Index>{1}));
}

TEST(RunningStatistics, ChangeNothingWhenTheyThrow) {
  RunningStatistics running(2);
  const Statistics good = batch_of({1, 2, 3, 5}, 2);
  const Statistics one = batch_of({1, 2}, 2);
  const auto unchanged = [&] {
    return running.mean == std::vector<double>{0, 0} && running.variance == std::vector<double>{1, 1} &&
           running.batches_tracked == 0;
  };
  EXPECT_THROW((void)running.update(one), Error);
  EXPECT_TRUE(unchanged());
  EXPECT_THROW((void)running.update(batch_of({1, 2, 3}, 1)), Error);
  EXPECT_TRUE(unchanged());
  for (const double momentum : {-0.1, 1.1, not_a_number, infinity}) {
    running.momentum = momentum;
    EXPECT_THROW((void)running.update(good), Error);
    EXPECT_TRUE(unchanged());
  }
  running.momentum = 0.1;
  EXPECT_TRUE(running.update(Statistics{0, {1, 1}, {0, 0}, {1, 1}, {1, 1}}).empty());
  EXPECT_TRUE(unchanged());
}

TEST(RunningStatistics, RefuseABatchWithTooFewVariances) {
  RunningStatistics running(2);
  Statistics batch = batch_of({1, 2, 3, 5}, 2);
  batch.variance = std::vector<double>(1, 0.5);
  EXPECT_THROW((void)running.update(batch), Error);
  EXPECT_EQ(running.batches_tracked, 0);
}

// A batch that a channel refuses has no part in that channel's average: the first one taken in counts fully.
TEST(RunningStatistics, AverageOnlyWhatEachChannelTookIn) {
  RunningStatistics running(2);
  running.momentum = std::nullopt;
  Statistics batch;
  batch.count = 5;
  batch.mean = {not_a_number, 2};
  batch.variance = {not_a_number, 4};
  EXPECT_EQ(running.update(batch), std::vector<Index>{0});
  batch.mean = {6, 4};
  batch.variance = {8, 12};
  EXPECT_TRUE(running.update(batch).empty());
  EXPECT_EQ(running.mean, (std::vector<double>{6, 3}));
  EXPECT_EQ(running.variance, (std::vector<double>{10, 10}));  // 8 * 5 / 4, and (4 + 12) / 2 * 5 / 4
  EXPECT_EQ(running.batches_tracked, 2);
}

// 1, 3, 8: mean 4, biased variance 26 / 3.
TEST(RunningStatistics, KeepTheBiasedVarianceWhereToldTo) {
  RunningStatistics running(1);
  running.variance_kind = VarianceKind::biased;
  running.momentum = 1;
  EXPECT_TRUE(running.update(batch_of({1, 3, 8}, 1)).empty());
  EXPECT_EQ(running.mean[0], 4);
  EXPECT_EQ(running.variance[0], 26.0 / 3);
  EXPECT_TRUE(running.update(batch_of({5}, 1)).empty());  // one value has a biased variance
  EXPECT_EQ(running.mean[0], 5);
  EXPECT_EQ(running.variance[0], 0);
}

TEST(RunningStatistics, GoOnFromValuesThatWereSet) {
  RunningStatistics running(2);
  running.mean = {1, 2};
  running.variance = {3, 5};
  running.momentum = std::nullopt;
  running.batches_tracked = 3;
  EXPECT_TRUE(running.update(batch_of({4, 0, 6, 4}, 2)).empty());  // means 5 and 2, unbiased variances 2 and 8
  EXPECT_EQ(running.mean, (std::vector<double>{2, 2}));
  EXPECT_EQ(running.variance, (std::vector<double>{2.75, 5.75}));
  running.batches_refused = {0, 9};
  EXPECT_EQ(error_of([&] {
              (void)running.update(batch_of({1, 2, 3, 5}, 2));
            }),
            "batches_refused: is 9 in channel 1; expected 0 to 4, the batches tracked");
  running.batches_refused = {0, 0};
  running.variance = {1};
  EXPECT_EQ(error_of([&] {
              (void)running.update(batch_of({1, 2, 3, 5}, 2));
            }),
            "variance: has 1 values; expected 2, as many as mean has");
  EXPECT_EQ(running.batches_tracked, 4);
}

TEST(GivenStatistics, MayHaveAnyShape) {
  const std::vector<double> mean = {1, 2, 3, 4, 5, 6};
  const std::vector<float> variance = {6, 5, 4, 3, 2, 1};
  const Statistics flat = given_statistics(view(mean, {6}), view(variance, {6}));
  const Statistics shaped = given_statistics(view(mean, {2, 3}), view(variance, {1, 2, 1, 3}));
  EXPECT_EQ(flat.mean, shaped.mean);
  EXPECT_EQ(flat.variance, shaped.variance);
  EXPECT_EQ(flat.mean, mean);
}

}  // namespace
}  // namespace exactnorm::testing

// A tensor that comes in blocks gives the sums, and the y, of the whole tensor, wherever the blocks cut.
#include "support/blocks.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "exactnorm/exactnorm.h"
#include "support/compare.h"
#include "support/oracle.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr int rounds = 60;

// A tensor of any strides, its channel axes, and what it holds.
struct Problem {
  explicit Problem(std::uint64_t seed, bool with_nonfinite)
      : random(seed),
        dtype(random.chance(0.5) ? DType::float32 : DType::float64),
        shape(random_shape(random, 7)),
        axes(random_axes(random, shape)),
        x(Tensor::strided(dtype, shape, random_strides(random, shape))) {
    for (Index i = 0; i < x.count(); ++i) {
      x.set(i, 1000 + random.normal() * std::ldexp(1.0, static_cast<int>(random.between(-3, 3))));
    }
    for (int i = 0; with_nonfinite && i < 2; ++i) {
      x.set(random.between(0, x.count() - 1), random.chance(0.5) ? not_a_number : -infinity);
    }
    options.channel_axes = axes;
    options.threads = static_cast<int>(random.between(1, 3));
    channels = channel_axes_of(shape, options).channels;
  }

  Random random;
  DType dtype;
  IndexList shape;
  IndexList axes;
  Tensor x;
  Options options;
  Index channels = 0;
};

TEST(Blocks, GiveTheExactStatisticsOfTheWhole) {
  for (int round = 0; round < rounds; ++round) {
    SCOPED_TRACE(round);
    Problem problem(static_cast<std::uint64_t>(round), round % 3 == 0);
    std::vector<PartialSums> parts(2, PartialSums(problem.channels));
    for (const Box& box : random_boxes(problem.random, problem.shape)) {
      accumulate(parts[problem.random.chance(0.5) ? 0 : 1], box.of(std::as_const(problem.x).view()),
                 {problem.shape, box.begin}, problem.options);
    }
    EXPECT_EQ(parts[0].count(), 0);
    EXPECT_TRUE(std::isnan(statistics_of(parts[0]).mean[0]));
    parts[0].merge(parts[1]);
    parts[0].add_count(problem.x.count() / problem.channels);

    const Statistics statistics = statistics_of(parts[0], problem.options);
    const auto by_channel = values_by_channel(problem.x.values(), problem.shape, problem.axes);
    for (std::size_t channel = 0; channel < by_channel.size(); ++channel) {
      Index nonfinite = 0;
      for (const double value : by_channel[channel]) nonfinite += std::isfinite(value) ? 0 : 1;
      EXPECT_EQ(parts[0].nonfinite_count(static_cast<Index>(channel)), nonfinite);
      if (nonfinite > 0) {
        EXPECT_TRUE(std::isnan(statistics.mean[channel]));
        continue;
      }
      const ExactMoments exact = exact_moments(by_channel[channel]);
      EXPECT_EQ(statistics.mean[channel], correctly_rounded(exact.mean));
      EXPECT_EQ(statistics.variance[channel], correctly_rounded(exact.variance));
    }
    PartialSums whole(problem.channels);
    accumulate(whole, problem.x.view(), problem.options);
    EXPECT_TRUE(whole == parts[0]);
  }
}

TEST(Blocks, StayInSumsThatOtherDataIsAddedTo) {
  const std::vector<float> x = {1, 2, 3, 4};
  PartialSums sums(2);
  accumulate(sums, view(x.data(), {2, 1}), {{2, 2}, {0, 1}});
  accumulate(sums, view(x, {2, 2}));  // no count tells of the block
  accumulate(sums, view(x.data() + 2, {2, 1}), {{2, 2}, {0, 0}});
  sums.add_count(2);
  const Statistics statistics = statistics_of(sums);
  EXPECT_EQ(statistics.count, 4);
  EXPECT_EQ(statistics.mean, (std::vector<double>{11.0 / 4, 9.0 / 4}));  // 1 + 3 + 3 + 4, 2 + 4 + 1 + 2
}

TEST(Blocks, AreNormalizedAsTheWhole) {
  for (int round = 0; round < rounds; ++round) {
    SCOPED_TRACE(round);
    Problem problem(static_cast<std::uint64_t>(1000 + round), false);
    Random& random = problem.random;
    std::vector<double> means;
    std::vector<double> variances;
    Tensor gamma(DType::float32, {problem.channels});
    Tensor beta(DType::float64, {problem.channels});
    for (Index channel = 0; channel < problem.channels; ++channel) {
      means.push_back(random.uniform(990, 1010));
      variances.push_back(random.uniform(0.1, 4));
      gamma.set(channel, random.normal());
      beta.set(channel, random.normal());
    }
    const IndexList in_channels = {problem.channels};
    const Statistics statistics =
        given_statistics(view(means, in_channels), view(variances, in_channels), problem.options);
    const Affine affine = {std::as_const(gamma).view(), std::as_const(beta).view()};

    Tensor whole(DType::float64, problem.shape);
    inference(problem.x.view(), statistics, whole.view(), affine, problem.options);
    Tensor y = Tensor::strided(DType::float64, problem.shape, random_strides(random, problem.shape));
    for (const Box& box : random_boxes(random, problem.shape)) {
      inference(box.of(std::as_const(problem.x).view()), {problem.shape, box.begin}, statistics, box.of(y.view()),
                affine, problem.options);
    }
    EXPECT_TRUE(y.guards_intact());
    EXPECT_TRUE(same_bits(y.values(), whole.values()));
    for (Index i = 0; i < y.count(); ++i) {
      const Index channel = channel_of_element(i, problem.shape, problem.axes);
      const auto at = static_cast<std::size_t>(channel);
      const long double divisor = std::sqrt(static_cast<long double>(variances[at]) + problem.options.epsilon);
      const long double normalized = (static_cast<long double>(problem.x.get(i)) - means[at]) / divisor;
      const long double expected = gamma.get(channel) * normalized + beta.get(channel);
      EXPECT_NEAR(static_cast<double>(y.get(i) - expected), 0, 1e-14 * (1 + std::abs(static_cast<double>(expected))));
    }
  }
}

TEST(Blocks, TakeParametersOfAllShapes) {
  // Channels (2, 3) of axes 2 and 0: gamma as keepdims leaves it has them in the other order.
  const IndexList shape = {3, 4, 2};
  const Options options = {.channel_axes = {2, 0}};
  const std::vector<double> x(24, 1.0);
  const std::vector<double> zeros(6, 0.0);
  const std::vector<double> ones(6, 1.0);
  const std::vector<double> in_order = {0, 1, 2, 3, 4, 5};
  const std::vector<double> as_kept = {0, 3, 1, 4, 2, 5};
  Options exact = options;
  exact.epsilon = 0;
  const Statistics statistics = given_statistics(view(zeros, {6}), view(ones, {6}), exact);
  const TensorView gammas[] = {view(in_order, {6}), view(in_order, {2, 3}), view(as_kept, {3, 1, 2})};
  for (const TensorView& gamma : gammas) {
    SCOPED_TRACE(to_string(gamma.shape));
    std::vector<double> y(4, -1);
    inference(view(x.data(), {1, 4, 1}), {shape, {2, 0, 1}}, statistics, mutable_view(y, {1, 4, 1}), {gamma}, options);
    EXPECT_EQ(y, std::vector<double>(4, 5));
  }
}

TEST(Blocks, MayBeEmptyOrScalars) {
  const std::vector<double> x = {3, 5};
  PartialSums sums(3);
  accumulate(sums, view(x.data(), {0, 3}), {{4, 3}, {4, 0}});
  EXPECT_TRUE(sums == PartialSums(3));
  PartialSums of_scalar(1);
  accumulate(of_scalar, view(x.data(), {}), Place{}, {.channel_axes = {}});
  of_scalar.add_count(1);
  EXPECT_EQ(statistics_of(of_scalar).mean[0], 3);
}

TEST(Blocks, RefuseWrongPlaces) {
  const std::vector<float> x(6, 2.0F);
  const TensorView view_of_x = view(x, {2, 3});
  PartialSums sums(4);
  const PartialSums before = sums;
  const auto message = [&](const Place& place) { return error_of([&] { accumulate(sums, view_of_x, place); }); };
  EXPECT_EQ(message({{5, 4}, {3, 1}}), "no error");
  sums = before;
  EXPECT_EQ(message({{5, 4}, {4, 1}}),
            "place: begins at (4, 1) of shape (5, 4); expected a place that holds x of shape (2, 3)");
  EXPECT_EQ(message({{5, 4}, {0, 2}}),
            "place: begins at (0, 2) of shape (5, 4); expected a place that holds x of shape (2, 3)");
  EXPECT_EQ(message({{5, 4}, {-1, 0}}),
            "place: begins at (-1, 0) of shape (5, 4); expected a place that holds x of shape (2, 3)");
  EXPECT_EQ(message({{5, 4, 1}, {0, 0, 0}}),
            "place: begins at (0, 0, 0) of shape (5, 4, 1); expected 2 numbers in each, one per dimension of x");
  EXPECT_EQ(message({{5, 4}, {0}}),
            "place: begins at (0,) of shape (5, 4); expected 2 numbers in each, one per dimension of x");
  EXPECT_EQ(message({{5, -4}, {0, 0}}), "place: has a whole shape that is (5, -4); expected sizes of 0 or more");
  EXPECT_EQ(message({{5, 7}, {0, 0}}), "place: is of a tensor of 7 channels; expected 4, as in sums");
  EXPECT_EQ(error_of([&] {
              accumulate(sums, view_of_x, Place{{5, 4}, {0, 0}}, {.channel_axes = {2}});
            }),
            "channel_axes: has 2; expected axes of a tensor of shape (2, 3)");
  EXPECT_TRUE(sums == before);
  PartialSums gradients(4, PartialSums::Kind::gradients);
  EXPECT_EQ(error_of([&] {
              accumulate(gradients, view_of_x, {{5, 4}, {0, 0}});
            }),
            "sums: are of kind gradients; expected moments");

  const Statistics statistics = {0, {0, 0, 0}, {0, 0, 0}, {1, 1, 1}, {1, 1, 1}};
  std::vector<float> y(6, 7.0F);
  const auto inference_message = [&](const Place& place, const Affine& affine) {
    return error_of([&] { inference(view_of_x, place, statistics, mutable_view(y, {2, 3}), affine); });
  };
  EXPECT_EQ(inference_message({{5, 3}, {4, 0}}, {}),
            "place: begins at (4, 0) of shape (5, 3); expected a place that holds x of shape (2, 3)");
  EXPECT_EQ(inference_message({{5, 4}, {0, 0}}, {}),
            "statistics: have vectors of 3, 3, 3 and 3 values; expected one for each of the 4 channels");
  EXPECT_EQ(inference_message({{5, 3}, {0, 0}}, {view(x.data(), {2})}),
            "gamma: has shape (2,); expected one element for each of the 3 channels");
  EXPECT_EQ(inference_message({{5, 3}, {0, 0}}, {std::nullopt, view(y.data() + 2, {3})}),
            "y: overlaps beta; expected separate memory");
  EXPECT_EQ(y, std::vector<float>(6, 7.0F));
}

TEST(Blocks, CountIsAdded) {
  PartialSums sums(1);
  sums.add_count(5);
  sums.add_count(0);
  EXPECT_EQ(sums.count(), 5);
  EXPECT_EQ(error_of([&] { sums.add_count(-1); }), "elements: is -1; expected 0 or more");
  EXPECT_EQ(error_of([&] { sums.add_count(Index{1} << 62); }),
            "elements: is 4611686018427387904, beside 5 so far; expected at most 2^62 in all");
  EXPECT_EQ(sums.count(), 5);
}

TEST(Ranges, FollowTheDtype) {
  for (const DType dtype : {DType::float32, DType::uint8, DType::int8, DType::int16}) {
    EXPECT_EQ(range_for(dtype), PartialSums::Range::single) << name_of(dtype);
  }
  for (const DType dtype : {DType::float64, DType::int32, DType::int64}) {
    EXPECT_EQ(range_for(dtype), PartialSums::Range::extended) << name_of(dtype);
  }
}

TEST(Deviations, AreExactAndRoundedOnce) {
  Random random(7);
  for (int round = 0; round < rounds; ++round) {
    SCOPED_TRACE(round);
    const Index count = random.between(2, 40);
    Tensor x(DType::float64, {count});
    for (Index i = 0; i < count; ++i) x.set(i, random.of_exponent(-60, 900));
    PartialSums sums(1);
    accumulate(sums, x.view(), {.channel_axes = {}});
    const Rational scatter = exact_moments(x.values()).variance * Rational(count);
    const Deviations deviations = deviations_of(sums);
    // The root of a rational is nearest to a number where half a unit to either side encloses it, squared.
    const auto expect_nearest = [](double deviation, const Rational& variance) {
      const Rational below = (rational(deviation) + rational(std::nextafter(deviation, 0))) / 2;
      const Rational above = (rational(deviation) + rational(std::nextafter(deviation, infinity))) / 2;
      EXPECT_LE(below * below, variance);
      EXPECT_LE(variance, above * above);
    };
    expect_nearest(deviations.biased.at(0), Rational(scatter / count));
    expect_nearest(deviations.unbiased.at(0), Rational(scatter / (count - 1)));
  }
}

TEST(Deviations, AreNotANumberWhereThereIsNone) {
  PartialSums sums(2);
  EXPECT_TRUE(std::isnan(deviations_of(sums).biased[1]));
  const std::vector<float> x = {3, not_a_number};
  accumulate(sums, view(x, {1, 2}));
  const Deviations deviations = deviations_of(sums);
  EXPECT_EQ(deviations.biased[0], 0);
  EXPECT_TRUE(std::isnan(deviations.unbiased[0]));
  EXPECT_TRUE(std::isnan(deviations.biased[1]));
  EXPECT_TRUE(std::isnan(deviations.unbiased[1]));
  const PartialSums gradients(2, PartialSums::Kind::gradients);
  EXPECT_EQ(error_of([&] { (void)deviations_of(gradients); }), "sums: are of kind gradients; expected moments");
}

}  // namespace
}  // namespace exactnorm::testing

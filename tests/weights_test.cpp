// Weighted moments: against rows that are repeated, bit for bit, and against rationals.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
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

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

Tensor make(DType dtype, const IndexList& shape, Random& random) {
  return random.chance(0.5) ? Tensor(dtype, shape) : Tensor::strided(dtype, shape, random_strides(random, shape));
}

// The weight of each element of x, in row-major order.
std::vector<double> spread(const Tensor& weights, const IndexList& shape, const IndexList& axes) {
  const bool has_all_axes = weights.shape().size() == shape.size();
  std::vector<double> of_elements;
  for (Index i = 0; i < product(shape); ++i) {
    const IndexList at = unravel(i, shape);
    Index position = 0;
    std::size_t kept = 0;
    for (std::size_t axis = 0; axis < shape.size(); ++axis) {
      const bool is_channel = std::find(axes.begin(), axes.end(), static_cast<Index>(axis)) != axes.end();
      if (is_channel && !has_all_axes) continue;
      const Index size = weights.shape()[kept++];
      position = position * size + (size == 1 ? 0 : at[axis]);
    }
    of_elements.push_back(weights.get(position));
  }
  return of_elements;
}

struct Problem {
  IndexList shape;
  IndexList axes;
  IndexList weights_shape;
};

Problem random_problem(Random& random) {
  Problem p;
  p.shape = random_shape(random, 7);
  p.axes = random_axes(random, p.shape);
  const bool has_all_axes = random.chance(0.5);
  for (std::size_t axis = 0; axis < p.shape.size(); ++axis) {
    const bool is_channel = std::find(p.axes.begin(), p.axes.end(), static_cast<Index>(axis)) != p.axes.end();
    if (is_channel && !has_all_axes) continue;
    p.weights_shape.push_back(is_channel || random.chance(0.15) ? 1 : p.shape[axis]);
  }
  return p;
}

Index channels_of(const Problem& p) {
  Index channels = 1;
  for (const Index axis : p.axes) channels *= p.shape[static_cast<std::size_t>(axis)];
  return channels;
}

TEST(Weights, OfIntegersRepeatElements) {
  Random random(31);
  constexpr std::array types = {DType::float32, DType::float64, DType::float16, DType::int16, DType::int64};
  constexpr std::array weight_types = {DType::uint8, DType::int32, DType::int64, DType::boolean, DType::float32};
  for (int round = 0; round < 200; ++round) {
    const Problem p = random_problem(random);
    const DType dtype = types[static_cast<std::size_t>(random.between(0, 4))];
    const DType weight_dtype = weight_types[static_cast<std::size_t>(random.between(0, 4))];
    SCOPED_TRACE("round " + std::to_string(round) + ", shape " + to_string(p.shape) + ", channel axes " +
                 to_string(p.axes) + ", " + std::string(name_of(dtype)) + ", " + std::string(name_of(weight_dtype)));
    Tensor x = make(dtype, p.shape, random);
    Tensor weights = make(weight_dtype, p.weights_shape, random);
    for (Index i = 0; i < x.count(); ++i) x.set(i, 100 + 10 * random.normal());
    for (Index i = 0; i < weights.count(); ++i) weights.set(i, static_cast<double>(random.between(0, 4)));
    const std::vector<double> of_elements = spread(weights, p.shape, p.axes);
    const Index channels = channels_of(p);
    std::vector<std::vector<double>> repeated(static_cast<std::size_t>(channels));
    for (Index i = 0; i < x.count(); ++i) {
      auto& of_channel = repeated[static_cast<std::size_t>(channel_of_element(i, p.shape, p.axes))];
      of_channel.insert(of_channel.end(), static_cast<std::size_t>(of_elements[static_cast<std::size_t>(i)]), x.get(i));
    }
    const auto rows = static_cast<Index>(repeated.front().size());
    Tensor alone(dtype, {channels, rows});
    for (Index i = 0; i < alone.count(); ++i) {
      alone.set(i, repeated[static_cast<std::size_t>(i / rows)][static_cast<std::size_t>(i % rows)]);
    }
    PartialSums sums(channels);
    accumulate(sums, std::as_const(alone).view(), {.channel_axes = {0}});
    WeightedMoments moments(channels);
    accumulate(moments, std::as_const(x).view(), std::as_const(weights).view(),
               {.channel_axes = p.axes, .threads = static_cast<int>(random.between(1, 3))});
    if (weight_dtype != DType::float32) {
      EXPECT_EQ(moments.count(), rows);
    }
    for (const bool normalizing : {false, true}) {
      const Statistics expected = normalizing ? normalizing_statistics(sums) : statistics_of(sums);
      const Statistics found = normalizing ? normalizing_statistics(moments) : statistics_of(moments);
      EXPECT_TRUE(same_numbers(found.mean, expected.mean));
      EXPECT_TRUE(same_numbers(found.mean_residual, expected.mean_residual));
      EXPECT_TRUE(same_numbers(found.variance, expected.variance));
      EXPECT_TRUE(same_numbers(found.inverse_deviation, expected.inverse_deviation));
    }
    EXPECT_TRUE(same_numbers(deviations_of(moments).biased, deviations_of(sums).biased));
    EXPECT_TRUE(same_numbers(deviations_of(moments).unbiased, deviations_of(sums).unbiased));
    if (::testing::Test::HasFailure()) return;
  }
}

// Numbers of many magnitudes: each result is the exact value, rounded once.
TEST(Weights, OfAnyNumbersAreExact) {
  Random random(32);
  for (int round = 0; round < 100; ++round) {
    const Index rows = random.between(1, 20);
    const DType dtype = random.chance(0.5) ? DType::float64 : DType::float32;
    const DType weight_dtype = random.chance(0.5) ? DType::float64 : DType::float32;
    const int spread_of = random.chance(0.5) ? 2 : 60;
    Tensor x(dtype, {rows, 2});
    Tensor weights(weight_dtype, {rows});
    for (Index i = 0; i < x.count(); ++i) x.set(i, 3 + random.of_exponent(-spread_of, spread_of));
    for (Index i = 0; i < rows; ++i) {
      weights.set(i, random.chance(0.1) ? 0 : std::abs(random.of_exponent(-spread_of, spread_of)));
    }
    WeightedMoments moments(2);
    accumulate(moments, std::as_const(x).view(), std::as_const(weights).view());
    const Statistics found = statistics_of(moments);
    Rational total = 0;
    for (Index i = 0; i < rows; ++i) total += rational(weights.get(i));
    if (total == 0) continue;
    for (Index channel = 0; channel < 2; ++channel) {
      Rational mean = 0;
      Rational variance = 0;
      for (Index i = 0; i < rows; ++i) mean += rational(weights.get(i)) * rational(x.get(i * 2 + channel));
      mean /= total;
      for (Index i = 0; i < rows; ++i) {
        const Rational difference = rational(x.get(i * 2 + channel)) - mean;
        variance += rational(weights.get(i)) * difference * difference;
      }
      variance /= total;
      const auto at = static_cast<std::size_t>(channel);
      EXPECT_EQ(found.mean[at], nearest(mean));
      EXPECT_EQ(found.mean_residual[at], nearest(mean - rational(found.mean[at])));
      EXPECT_EQ(found.variance[at], nearest(variance));
      const Deviations deviations = deviations_of(moments);
      EXPECT_EQ(deviations.biased[at], boost::multiprecision::sqrt(real(variance)).convert_to<double>());
      if (total > 1) {
        const Rational unbiased = variance * total / (total - 1);
        EXPECT_EQ(deviations.unbiased[at], boost::multiprecision::sqrt(real(unbiased)).convert_to<double>());
      } else {
        EXPECT_TRUE(std::isnan(deviations.unbiased[at]));
      }
    }
    if (::testing::Test::HasFailure()) return;
  }
}

// However the data is cut, and by however many threads: pieces of more elements than are taken at a time, too.
TEST(Weights, AreTheSameForAnyCut) {
  Random random(33);
  const IndexList shape = {3, 5, 211, 67};
  Tensor x(DType::float32, shape);
  Tensor weights(DType::float32, {3, 1, 211, 67});
  for (Index i = 0; i < x.count(); ++i) x.set(i, 1000 + random.normal());
  for (Index i = 0; i < weights.count(); ++i) weights.set(i, random.unit());
  WeightedMoments whole(5);
  accumulate(whole, std::as_const(x).view(), std::as_const(weights).view(), {.threads = 1});
  EXPECT_EQ(whole.count(), 3 * 211 * 67);
  WeightedMoments merged(5);
  for (const Index image : {2, 0, 1}) {
    WeightedMoments part(5);
    accumulate(part, slice(std::as_const(x).view(), 0, image, 1), slice(std::as_const(weights).view(), 0, image, 1),
               {.threads = 2});
    merged.merge(WeightedMoments::deserialize(part.serialize()));
  }
  EXPECT_TRUE(merged == whole);
  EXPECT_TRUE(same_bits(statistics_of(merged), statistics_of(whole)));
  EXPECT_EQ(statistics_of(whole).counts, std::vector<Index>(5, whole.count()));
}

// Blocks that cut through channels and places alike, in any order, each in sums of its own.
TEST(Weights, OfBlocksAreThoseOfTheWhole) {
  Random random(34);
  for (int round = 0; round < 60; ++round) {
    const Problem p = random_problem(random);
    SCOPED_TRACE("round " + std::to_string(round) + ", shape " + to_string(p.shape) + ", channel axes " +
                 to_string(p.axes) + ", weights " + to_string(p.weights_shape));
    Tensor x = make(DType::float64, p.shape, random);
    Tensor weights = make(random.chance(0.5) ? DType::uint8 : DType::float64, p.weights_shape, random);
    for (Index i = 0; i < x.count(); ++i) x.set(i, random.chance(0.02) ? not_a_number : random.normal());
    for (Index i = 0; i < weights.count(); ++i) weights.set(i, static_cast<double>(random.between(0, 3)));
    const Options options = {.channel_axes = p.axes};
    WeightedMoments whole(channels_of(p));
    accumulate(whole, std::as_const(x).view(), std::as_const(weights).view(), options);
    const TensorView of_all = reduced_view(std::as_const(weights).view(), p.shape, options);
    WeightedMoments merged(channels_of(p));
    for (const Box& box : random_boxes(random, p.shape)) {
      TensorView of_box = of_all;
      for (std::size_t axis = 0; axis < p.shape.size(); ++axis) {
        if (of_box.shape[axis] != 1) of_box = slice(of_box, axis, box.begin[axis], box.size[axis]);
      }
      WeightedMoments part(channels_of(p));
      accumulate(part, box.of(std::as_const(x).view()), Place{p.shape, box.begin}, of_box, options);
      merged.merge(WeightedMoments::deserialize(part.serialize()));
    }
    EXPECT_TRUE(merged == whole);
    EXPECT_EQ(merged.count(), whole.count());
    EXPECT_TRUE(same_bits(statistics_of(merged), statistics_of(whole)));
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(Weights, OfABlockAreRefusedWhereItDoesNotFit) {
  const Tensor x(DType::float32, {2, 3}, {1, 2, 3, 4, 5, 6});
  const Tensor weights(DType::float32, {2}, {1, 1});
  WeightedMoments moments(4);
  const auto error = [&](const Place& place) {
    return error_of([&] { accumulate(moments, x.view(), place, weights.view()); });
  };
  EXPECT_EQ(error({{2, 5}, {0, 0}}), "place: is of a tensor of 5 channels; expected 4, as in moments");
  EXPECT_EQ(error({{2, 4}, {0, 2}}),
            "place: begins at (0, 2) of shape (2, 4); expected a place that holds x of shape (2, 3)");
  EXPECT_EQ(error({{2, 4}, {0, 1}}), "no error");
  EXPECT_EQ(moments.count(), 0);  // that comes with channel 0
  EXPECT_EQ(error({{2, 4}, {0, 0}}), "no error");
  EXPECT_EQ(moments.count(), 2);
}

TEST(Weights, OfZeroHideElements) {
  const Tensor x(DType::float32, {3, 2}, {1, not_a_number, not_a_number, 5, 3, 7});
  const auto statistics = [&](const std::vector<double>& values) {
    const Tensor weights(DType::float32, {3}, values);
    WeightedMoments moments(2);
    accumulate(moments, x.view(), weights.view());
    return statistics_of(moments);
  };
  EXPECT_TRUE(same_numbers(statistics({1, 0, 3}).mean, {2.5, not_a_number}));
  EXPECT_TRUE(same_numbers(statistics({0, 0, 3}).mean, {3, 7}));
  EXPECT_TRUE(same_numbers(statistics({0, 0, 0}).mean, {not_a_number, not_a_number}));
  EXPECT_EQ(statistics({0, 0, 3}).count, 1);
}

TEST(Weights, ServeRunningStatisticsButNoBackwardPass) {
  const Tensor x(DType::float32, {3, 1}, {1, 2, 6});
  const Tensor weights(DType::int32, {3}, {1, 2, 1});
  WeightedMoments moments(1);
  accumulate(moments, x.view(), weights.view());
  const Statistics statistics = normalizing_statistics(moments);
  RunningStatistics running(1);
  running.momentum = 1;
  EXPECT_TRUE(running.update(statistics).empty());
  EXPECT_DOUBLE_EQ(running.mean[0], 2.75);
  EXPECT_NEAR(running.variance[0], 4.916666666, 1e-8);  // of 1, 2, 2 and 6, divided by 3
  Tensor dx(DType::float32, {3, 1});
  EXPECT_NE(
      error_of([&] { backward(x.view(), x.view(), statistics, {}, {.dx = dx.view()}); }).find("statistics: are of"),
      std::string::npos);
}

TEST(Weights, AreRefusedWhereTheyAreImpossible) {
  const Tensor x(DType::float64, {2, 3, 4}, std::vector<double>(24, 1e300));
  WeightedMoments moments(3);
  const auto error = [&](const Tensor& weights) {
    return error_of([&] { accumulate(moments, x.view(), weights.view()); });
  };
  EXPECT_EQ(error(Tensor(DType::float64, {2, 4}, {1, 1, 1, -2, 1, 1, 1, 1})),
            "weights: have -2 as element 3; expected finite numbers, 0 or more");
  EXPECT_EQ(error(Tensor(DType::float64, {2, 4}, {1, 1, 1, 1, not_a_number, 1, 1, 1})),
            "weights: have nan as element 4; expected finite numbers, 0 or more");
  EXPECT_EQ(error(Tensor(DType::float64, {2, 4}, std::vector<double>(8, 1e9))),
            "weights: have 1e+09 for an x of 1e+300; expected products of 2^-968 to 2^1023, or 0");
  EXPECT_EQ(error(Tensor(DType::float64, {2, 3}, std::vector<double>(6, 1))),
            "weights: has shape (2, 3); expected (2, 1, 4) or (2, 4), or 1 on some of these axes");
  EXPECT_TRUE(moments == WeightedMoments(3));
  WeightedMoments other(2);
  EXPECT_EQ(error_of([&] { accumulate(other, x.view(), x.view()); }), "x: has 3 channels; expected 2, as in moments");
  EXPECT_EQ(error_of([&] { static_cast<void>(WeightedMoments::deserialize({})); }),
            "bytes: are 0 bytes; expected what WeightedMoments::serialize writes");
  std::vector<std::byte> bytes = moments.serialize();
  bytes[0] = std::byte{1};
  EXPECT_EQ(error_of([&] { static_cast<void>(WeightedMoments::deserialize(bytes)); }),
            "bytes: start with another signature; expected what WeightedMoments::serialize writes");
  bytes = moments.serialize();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_NE(error_of([&] { static_cast<void>(WeightedMoments::deserialize({bytes.data(), size})); }), "no error");
  }
}

}  // namespace
}  // namespace exactnorm::testing

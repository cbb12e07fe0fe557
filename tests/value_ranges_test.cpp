// The least and the greatest finite value of each channel, beside a plain loop.
#include "exactnorm/value_ranges.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "support/blocks.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

// Data with NaN, infinities, zeros of both signs and the ends of the range.
Tensor random_tensor(Random& random, DType dtype, const IndexList& shape) {
  Tensor x = Tensor::strided(dtype, shape, random_strides(random, shape));
  const std::array special = {not_a_number, infinity, -infinity, -0.0, 0.0, 0x1p-149, -0x1.fffffep127};
  for (Index i = 0; i < x.count(); ++i) {
    const bool is_special = is_floating(dtype) && random.chance(0.4);
    x.set(i, is_special ? special[static_cast<std::size_t>(random.between(0, special.size() - 1))]
                        : static_cast<double>(random.between(is_floating(dtype) ? -50 : 0, 50)));
  }
  return x;
}

ValueRanges expected_ranges(const Tensor& x, const IndexList& axes) {
  const auto by_channel = values_by_channel(x.values(), x.shape(), axes);
  ValueRanges expected(static_cast<Index>(by_channel.size()));
  for (std::size_t channel = 0; channel < by_channel.size(); ++channel) {
    for (const double value : by_channel[channel]) {
      if (!std::isfinite(value)) continue;
      const double without_sign = value == 0 ? 0.0 : value;
      if (without_sign < expected.minimum[channel]) expected.minimum[channel] = without_sign;
      if (without_sign > expected.maximum[channel]) expected.maximum[channel] = without_sign;
    }
  }
  return expected;
}

void expect_same(const ValueRanges& ranges, const ValueRanges& expected) {
  EXPECT_TRUE(same_bits(ranges.minimum, expected.minimum));
  EXPECT_TRUE(same_bits(ranges.maximum, expected.maximum));
}

TEST(ValueRanges, AreThoseOfThePlainLoop) {
  Random random(5);
  for (const DType dtype : {DType::float32, DType::float64, DType::uint8, DType::int16, DType::int64}) {
    for (int round = 0; round < 40; ++round) {
      const IndexList shape = random_shape(random, 9);
      SCOPED_TRACE(to_string(shape));
      const IndexList axes = random_axes(random, shape);
      const Tensor x = random_tensor(random, dtype, shape);
      const Options options = {.channel_axes = axes, .threads = static_cast<int>(random.between(1, 3))};
      const ValueRanges expected = expected_ranges(x, axes);

      ValueRanges whole(expected.channels());
      accumulate(whole, x.view(), options);
      expect_same(whole, expected);

      std::vector<ValueRanges> parts(2, ValueRanges(expected.channels()));
      for (const Box& box : random_boxes(random, shape)) {
        accumulate(parts[random.chance(0.5) ? 0 : 1], box.of(x.view()), {shape, box.begin}, options);
      }
      parts[0].merge(parts[1]);
      expect_same(parts[0], expected);
    }
  }
}

TEST(ValueRanges, OfNothing) {
  ValueRanges ranges(2);
  const std::vector<double> x = {not_a_number, infinity};
  accumulate(ranges, view(x, {1, 2}));
  accumulate(ranges, view(x.data(), {0, 2}));
  EXPECT_EQ(ranges.minimum, (std::vector<double>{infinity, infinity}));
  EXPECT_EQ(ranges.maximum, (std::vector<double>{-infinity, -infinity}));
  EXPECT_EQ(ValueRanges().channels(), 0);
}

TEST(ValueRanges, RefuseWrongArguments) {
  const std::vector<float> x(6, 2.0F);
  ValueRanges ranges(4);
  EXPECT_EQ(error_of([&] { accumulate(ranges, view(x, {2, 3})); }), "x: has 3 channels; expected 4, as in ranges");
  EXPECT_EQ(error_of([&] {
              accumulate(ranges, view(x, {2, 3}), Place{{2, 5}, {0, 0}});
            }),
            "place: is of a tensor of 5 channels; expected 4, as in ranges");
  EXPECT_EQ(error_of([&] {
              accumulate(ranges, view(x, {2, 3}), Place{{2, 4}, {0, 2}});
            }),
            "place: begins at (0, 2) of shape (2, 4); expected a place that holds x of shape (2, 3)");
  EXPECT_EQ(error_of([&] { ranges.merge(ValueRanges(3)); }), "other: has 3 channels; expected 4");
  expect_same(ranges, ValueRanges(4));
  EXPECT_EQ(error_of([] { (void)ValueRanges(-1); }), "channels: is -1; expected 0 or more");
  ranges.maximum.pop_back();
  EXPECT_EQ(error_of([&] {
              accumulate(ranges, view(x, {2, 3}), Place{{2, 4}, {0, 0}});
            }),
            "ranges: have 4 minima and 3 maxima; expected one of each for each channel");
}

}  // namespace
}  // namespace exactnorm::testing

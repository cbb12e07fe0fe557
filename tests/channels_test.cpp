// Channel axes, parameters as views of channels, and values of any view.
#include "exactnorm/channels.h"

#include <gtest/gtest.h>

#include <vector>

#include "support/blocks.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

TEST(ChannelAxes, AreResolved) {
  const ChannelAxes found = channel_axes_of({2, 3, 5, 7}, {.channel_axes = {-1, 1}});
  EXPECT_EQ(found.axes, (IndexList{3, 1}));
  EXPECT_EQ(found.sizes, (IndexList{7, 3}));
  EXPECT_EQ(found.channels, 21);
  const ChannelAxes none = channel_axes_of({2, 3}, {.channel_axes = {}});
  EXPECT_TRUE(none.axes.empty() && none.sizes.empty());
  EXPECT_EQ(none.channels, 1);
  EXPECT_EQ(channel_axes_of({2, 0}).channels, 0);
}

TEST(ChannelAxes, RefuseImpossibleArguments) {
  const auto message = [](const IndexList& shape, const Options& options) {
    return error_of([&] { (void)channel_axes_of(shape, options); });
  };
  EXPECT_EQ(message({2, 3}, {.channel_axes = {-3}}), "channel_axes: has -3; expected axes of a tensor of shape (2, 3)");
  EXPECT_EQ(message({2, 3}, {.channel_axes = {1, -1}}), "channel_axes: is (1, -1); expected each axis at most once");
  EXPECT_EQ(message({2, -3}, {}), "shape: is (2, -3); expected sizes of 0 or more");
  EXPECT_EQ(message({2, 3}, {.epsilon = -1}), "epsilon: is -1; expected a finite number of 0 or more");
  EXPECT_EQ(message({2, 3}, {.threads = -1}), "threads: is -1; expected 0 (all) or more");
}

// Each shape that a parameter may have, of any strides.
TEST(ParameterViews, AreInTheOrderOfChannels) {
  Random random(3);
  for (int round = 0; round < 100; ++round) {
    SCOPED_TRACE(round);
    const IndexList shape = random_shape(random, 5);
    const IndexList axes = random_axes(random, shape);
    const Options options = {.channel_axes = axes};
    const ChannelAxes channels = channel_axes_of(shape, options);
    IndexList kept = shape;
    for (Index& size : kept) size = 1;
    for (const Index axis : axes) kept[static_cast<std::size_t>(axis)] = shape[static_cast<std::size_t>(axis)];
    for (const IndexList& parameter_shape : {IndexList{channels.channels}, channels.sizes, kept}) {
      SCOPED_TRACE(to_string(parameter_shape));
      Tensor parameter = Tensor::strided(DType::int16, parameter_shape, random_strides(random, parameter_shape));
      const bool is_kept = parameter_shape == kept && parameter_shape != channels.sizes &&
                           parameter_shape != IndexList{channels.channels};
      for (Index i = 0; i < parameter.count(); ++i) {
        parameter.set(i, static_cast<double>(is_kept ? channel_of_element(i, kept, axes) : i));
      }
      const TensorView view = parameter_view(std::as_const(parameter).view(), shape, options);
      EXPECT_EQ(view.shape, channels.sizes);
      const std::vector<double> values = values_of(view);
      ASSERT_EQ(static_cast<Index>(values.size()), channels.channels);
      for (std::size_t i = 0; i < values.size(); ++i) EXPECT_EQ(values[i], static_cast<double>(i));
    }
  }
}

TEST(ParameterViews, RefuseOtherShapes) {
  const std::vector<double> values(6, 1.0);
  EXPECT_EQ(error_of([&] {
              (void)parameter_view(view(values, {3, 2}), {4, 2, 3}, {.channel_axes = {1, 2}});
            }),
            "parameter: has shape (3, 2); expected one element for each of the 6 channels");
  EXPECT_EQ(error_of([&] {
              (void)parameter_view({nullptr, DType::float32, {3}, {1}}, {4, 3});
            }),
            "parameter: is a null pointer; expected 3 elements");
}

TEST(Values, AreThoseOfAnyView) {
  Random random(4);
  for (const DType dtype :
       {DType::float32, DType::float64, DType::uint8, DType::int8, DType::int16, DType::int32, DType::int64}) {
    for (int round = 0; round < 20; ++round) {
      const IndexList shape = random_shape(random, 6);
      Tensor x = Tensor::strided(dtype, shape, random_strides(random, shape));
      std::vector<double> expected;
      for (Index i = 0; i < x.count(); ++i) expected.push_back(static_cast<double>(random.between(0, 100)));
      x.fill(expected);
      EXPECT_EQ(values_of(x.view()), expected) << name_of(dtype) << to_string(shape);
    }
  }
  const float scalar = 2.5F;
  EXPECT_EQ(values_of(view(&scalar, {})), std::vector<double>{2.5});
  EXPECT_TRUE(values_of(view(&scalar, {3, 0})).empty());
  EXPECT_EQ(error_of([&] {
              (void)values_of({nullptr, DType::float32, {2}, {1}});
            }),
            "x: is a null pointer; expected 2 elements");
}

}  // namespace
}  // namespace exactnorm::testing

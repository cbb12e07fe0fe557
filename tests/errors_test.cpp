// What each wrong argument is answered with: the argument, what was given, and what was expected.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "exactnorm/exactnorm.h"
#include "support/compare.h"
#include "support/random.h"

namespace exactnorm::testing {
namespace {

// A valid call of each function, of which each test spoils one argument.
class Errors : public ::testing::Test {
 protected:
  std::vector<float> memory = std::vector<float>(1000, 2.0F);
  std::vector<float> more = std::vector<float>(1000, 3.0F);
  std::vector<double> parameters = std::vector<double>(20, 1.0);
  IndexList shape = {4, 3, 5};
  TensorView x = view(std::as_const(memory).data(), shape);
  MutableTensorView y = mutable_view(memory.data() + 500, shape);
  TensorView dy = view(std::as_const(more).data(), shape);
  Affine affine;
  Options options;
  Statistics statistics = {20, {0, 0, 0}, {0, 0, 0}, {1, 1, 1}, {1, 1, 1}};

  std::string training_error() {
    const std::vector<float> before = memory;
    std::string message = error_of([&] { (void)training(x, y, affine, options); });
    if (message != "no error") {
      EXPECT_EQ(memory, before) << "written to, and then: " << message;
    }
    return message;
  }
  std::string inference_error() {
    return error_of([&] { inference(x, statistics, y, affine, options); });
  }
  std::string backward_error(const Gradients& gradients, const std::optional<TensorView>& gamma = {}) {
    return error_of([&] { backward(dy, x, statistics, {gamma}, gradients, options); });
  }
};

TEST_F(Errors, NoneInAValidCall) {
  EXPECT_EQ(training_error(), "no error");
  EXPECT_EQ(inference_error(), "no error");
  EXPECT_EQ(backward_error({y, mutable_view(parameters.data(), {3}), {}}), "no error");
}

TEST_F(Errors, NameTheArgument) {
  y.shape = {4, 3, 6};
  try {
    (void)training(x, y);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.argument(), "y");
  }
}

TEST_F(Errors, OfShapes) {
  y = mutable_view(memory.data() + 500, {4, 3, 6});
  EXPECT_EQ(training_error(), "y: has shape (4, 3, 6); expected (4, 3, 5), the shape of x");
  y = mutable_view(memory.data() + 500, {4, 15});
  EXPECT_EQ(training_error(), "y: has shape (4, 15); expected (4, 3, 5), the shape of x");
  y.shape = shape;
  EXPECT_EQ(training_error(), "y: has shape (4, 3, 5) and strides (15, 1); expected one stride per dimension");
  dy = view(std::as_const(more).data(), {60});
  EXPECT_EQ(backward_error({}), "dy: has shape (60,); expected (4, 3, 5), the shape of x");
}

TEST_F(Errors, OfSizes) {
  x.shape = {4, -3, 5};
  EXPECT_EQ(training_error(), "x: has a shape that is (4, -3, 5); expected sizes of 0 or more");
  const Index large = Index{1} << 40;
  x.shape = {large, large, 1};
  EXPECT_EQ(training_error(),
            "x: has a shape that is (1099511627776, 1099511627776, 1); expected at most 2^62 elements");
  x.shape = {large, 1, 1};
  x.strides = {large, 1, 1};
  EXPECT_EQ(training_error(), "x: has strides (1099511627776, 1, 1); expected all elements within 2^60 bytes");
  EXPECT_EQ(error_of([&] {
              (void)view(memory, {10, 10});
            }),
            "values: hold 1000 elements; expected 100 for shape (10, 10)");
  EXPECT_EQ(error_of([&] { (void)mutable_view(memory, {1001}); }),
            "values: hold 1000 elements; expected 1001 for shape (1001,)");
}

TEST_F(Errors, OfAShapeTooLargeForAView) {
  const Index large = Index{1} << 40;
  EXPECT_NE(error_of([&] {
              (void)training(view(std::as_const(memory).data(), {large, large, large}), y);
            }),
            "no error");
}

TEST_F(Errors, OfNineDimensions) {
  EXPECT_EQ(error_of([] { (void)IndexList{1, 1, 1, 1, 1, 1, 1, 1, 1}; }),
            "values: are more than 8; expected at most 8 dimensions");
  EXPECT_EQ((IndexList{1, 1, 1, 1, 1, 1, 1, 1}).size(), 8U);
}

TEST_F(Errors, OfDtypes) {
  y.dtype = DType::int32;
  EXPECT_EQ(training_error(), "y: has dtype int32; expected float32, float64, bfloat16 or float16");
  y.dtype = static_cast<DType>(77);
  EXPECT_EQ(training_error(),
            "y: has an unknown dtype; expected float32, float64, bfloat16, float16, uint8, int8, uint16, int16, "
            "uint32, int32, int64 or bool");
  dy.dtype = DType::int16;
  EXPECT_EQ(backward_error({}), "dy: has dtype int16; expected float32, float64, bfloat16 or float16");
  MutableTensorView dgamma = {parameters.data(), DType::int64, {3}, {1}};
  dy.dtype = DType::float32;
  EXPECT_EQ(backward_error({{}, dgamma, {}}),
            "dgamma: has dtype int64; expected float32, float64, bfloat16 or float16");
}

TEST_F(Errors, OfPointers) {
  const TensorView good = x;
  x.data = nullptr;
  EXPECT_EQ(training_error(), "x: is a null pointer; expected 60 elements");
  x.data = reinterpret_cast<const std::byte*>(memory.data()) + 2;
  EXPECT_EQ(training_error(), "x: is not aligned; expected an address that is a multiple of 4 for float32");
  x = good;
  y.data = nullptr;
  EXPECT_EQ(training_error(), "y: is a null pointer; expected 60 elements");
  affine.gamma = TensorView{nullptr, DType::float32, {3}, {1}};
  y.data = memory.data() + 500;
  EXPECT_EQ(training_error(), "gamma: is a null pointer; expected 3 elements");
}

TEST_F(Errors, OfChannelAxes) {
  options.channel_axes = {3};
  EXPECT_EQ(training_error(), "channel_axes: has 3; expected axes of a tensor of shape (4, 3, 5)");
  options.channel_axes = {-4};
  EXPECT_EQ(training_error(), "channel_axes: has -4; expected axes of a tensor of shape (4, 3, 5)");
  options.channel_axes = {1, 0, -2};
  EXPECT_EQ(training_error(), "channel_axes: is (1, 0, -2); expected each axis at most once");
  options.channel_axes = {1};
  const float scalar = 1;
  float out = 0;
  EXPECT_EQ(error_of([&] { (void)training(view(&scalar, {}), mutable_view(&out, {})); }),
            "channel_axes: has 1; expected axes of a tensor of shape ()");
}

TEST_F(Errors, OfOptions) {
  options.threads = -1;
  EXPECT_EQ(training_error(), "threads: is -1; expected 0 (all) or more");
  options.threads = 0;
  options.epsilon = std::nan("");
  EXPECT_EQ(training_error(), "epsilon: is nan; expected a finite number of 0 or more");
  options.epsilon = std::numeric_limits<double>::infinity();
  EXPECT_EQ(training_error(), "epsilon: is inf; expected a finite number of 0 or more");
  options.epsilon = -1e-9;  // whose message must not say that 0 is less than 0
  EXPECT_NE(training_error(), "no error");
  EXPECT_NE(training_error().find("-1e-09"), std::string::npos) << training_error();
}

TEST_F(Errors, OfParameters) {
  const std::vector<double> four(4);
  affine.gamma = view(four, {4});
  EXPECT_EQ(training_error(), "gamma: has shape (4,); expected one element for each of the 3 channels");
  affine.gamma = {};
  affine.beta = view(four, {2, 2});
  EXPECT_EQ(training_error(), "beta: has shape (2, 2); expected one element for each of the 3 channels");
  std::vector<double> dgamma(4);
  EXPECT_EQ(backward_error({{}, mutable_view(dgamma, {4}), {}}),
            "dgamma: has shape (4,); expected one element for each of the 3 channels");
}

TEST_F(Errors, OfOverlap) {
  const std::string refused_x =
      "y: overlaps x; expected separate memory or the very same view (address, strides and dtype)";
  y.data = memory.data();
  EXPECT_EQ(training_error(), "no error");
  y.data = memory.data() + 1;
  EXPECT_EQ(training_error(), refused_x);
  y.data = memory.data() + 59;
  EXPECT_EQ(training_error(), refused_x);
  y.data = memory.data() + 60;
  EXPECT_EQ(training_error(), "no error");
  y.data = memory.data();
  y.strides = {15, 1, 3};  // the same memory, other strides
  EXPECT_EQ(training_error(), refused_x);
  y.strides = x.strides;
  y.dtype = DType::float64;
  EXPECT_EQ(training_error(), refused_x);
  y = {memory.data() + 1, DType::float32, shape, {30, 10, 2}};  // interleaved: x even, y odd
  x.strides = {30, 10, 2};
  EXPECT_EQ(training_error(), "no error");
  y.data = memory.data() + 2;
  EXPECT_EQ(training_error(), refused_x);
  y = mutable_view(memory.data() + 500, shape);
  affine.gamma = view(std::as_const(memory).data() + 501, {3});
  EXPECT_EQ(training_error(), "y: overlaps gamma; expected separate memory");
  affine = {{}, view(std::as_const(memory).data() + 559, {3})};
  EXPECT_EQ(training_error(), "y: overlaps beta; expected separate memory");
}

TEST_F(Errors, OfBrokenParameters) {
  const TensorView good = view(parameters.data(), {3});
  for (const char* name : {"gamma", "beta"}) {
    const auto error_with = [&](const TensorView& parameter) {
      affine = name == std::string("gamma") ? Affine{parameter, good} : Affine{good, parameter};
      return training_error();
    };
    std::string start = name;
    start += ": ";
    TensorView broken = good;
    broken.shape = {-1};
    EXPECT_EQ(error_with(broken), start + "has a shape that is (-1,); expected sizes of 0 or more");
    broken = good;
    broken.strides = {1, 1};
    EXPECT_EQ(error_with(broken), start + "has shape (3,) and strides (1, 1); expected one stride per dimension");
    broken = good;
    broken.strides = {std::numeric_limits<Index>::max()};
    EXPECT_EQ(error_with(broken),
              start + "has strides (9223372036854775807,); expected all elements within 2^60 bytes");
  }
  TensorView broken = good;
  broken.strides = {std::numeric_limits<Index>::min()};
  EXPECT_EQ(backward_error({y, {}, {}}, broken),
            "gamma: has strides (-9223372036854775808,); expected all elements within 2^60 bytes");
}

// The stride of an axis of size one is never used, and NumPy may put anything there.
TEST_F(Errors, NoneForAnyStrideOfAnAxisOfSizeOne) {
  shape = {4, 3, 1};
  x = view(std::as_const(memory).data(), shape);
  y = mutable_view(memory.data() + 500, shape);
  for (const Index stride : {std::numeric_limits<Index>::max(), std::numeric_limits<Index>::min()}) {
    x.strides[2] = stride;
    y.strides[2] = stride;
    EXPECT_EQ(training_error(), "no error");
  }
}

TEST_F(Errors, OfOverlapInBackward) {
  const std::string separate = "; expected separate memory";
  const auto at = [&](Index offset) { return mutable_view(memory.data() + offset, {3}); };
  EXPECT_EQ(backward_error({mutable_view(more.data(), shape), {}, {}}), "no error");
  EXPECT_EQ(backward_error({mutable_view(more.data() + 3, shape), {}, {}}),
            "dx: overlaps dy; expected separate memory or the very same view (address, strides and dtype)");
  EXPECT_EQ(backward_error({mutable_view(memory.data() + 3, shape), {}, {}}),
            "dx: overlaps x; expected separate memory or the very same view (address, strides and dtype)");
  EXPECT_EQ(backward_error({{}, at(0), {}}), "dgamma: overlaps x" + separate);
  EXPECT_EQ(backward_error({{}, at(600), at(602)}), "dbeta: overlaps dgamma" + separate);
  EXPECT_EQ(backward_error({y, at(505), {}}), "dgamma: overlaps dx" + separate);
  EXPECT_EQ(backward_error({{}, at(600), {}}, TensorView(at(602))), "dgamma: overlaps gamma" + separate);
  EXPECT_EQ(backward_error({{}, at(600), at(603)}, TensorView(at(606))), "no error");
}

TEST_F(Errors, OfOutputsOntoThemselves) {
  const std::string end = "; expected an output whose elements do not overlap";
  y.strides = {15, 0, 1};
  EXPECT_EQ(training_error(), "y: has shape (4, 3, 5) and strides (15, 0, 1)" + end);
  y.strides = {15, 4, 1};
  EXPECT_EQ(training_error(), "y: has shape (4, 3, 5) and strides (15, 4, 1)" + end);
  EXPECT_EQ(backward_error({{}, {}, MutableTensorView{parameters.data(), DType::float64, {3}, {0}}}),
            "dbeta: has shape (3,) and strides (0,)" + end);
}

TEST_F(Errors, OfStatistics) {
  statistics.mean.push_back(0);
  EXPECT_EQ(inference_error(),
            "statistics: have vectors of 4, 3, 3 and 3 values; expected one for each of the 3 channels");
  statistics = given_statistics(view(parameters.data(), {3}), view(parameters.data(), {3}));
  EXPECT_EQ(backward_error({}),
            "statistics: were given, not computed from a batch; expected those that `training` returned, or "
            "`backward_frozen`");
  statistics.count = 19;
  EXPECT_EQ(backward_error({}), "statistics: are of 19 elements per channel; expected 20, as in x");
  statistics.epsilon = -1;
  EXPECT_EQ(backward_error({}), "statistics: have an epsilon of -1; expected a finite number of 0 or more");
  statistics.inverse_deviation.pop_back();  // 3 means, 2 inverses: the message must not ask for what it has
  EXPECT_NE(inference_error(), "no error");
  EXPECT_NE(inference_error(), "statistics: have 3 channels; expected 3");
}

TEST_F(Errors, OfGivenStatistics) {
  const auto message = [&](std::vector<double> mean, std::vector<double> variance) {
    return error_of([&] {
      (void)given_statistics(view(mean, {static_cast<Index>(mean.size())}),
                             view(variance, {static_cast<Index>(variance.size())}), options);
    });
  };
  EXPECT_EQ(message({0, 1}, {1, 2}), "no error");
  EXPECT_EQ(message({0, std::nan("")}, {1, 2}), "mean: is nan in channel 1; expected a finite number");
  EXPECT_EQ(message({-INFINITY}, {1}), "mean: is -inf in channel 0; expected a finite number");
  EXPECT_EQ(message({0}, {INFINITY}), "variance: is inf in channel 0; expected a finite number");
  EXPECT_EQ(message({0}, {std::nan("")}), "variance: is nan in channel 0; expected a finite number");
  EXPECT_EQ(message({0, 1}, {1}), "variance: has shape (1,); expected 2 elements, as many as mean has");
  EXPECT_EQ(message({0}, {0}), "no error");
  options.epsilon = 0;
  EXPECT_NE(message({0}, {0}), "no error");
  EXPECT_EQ(message({0}, {5e-324}), "no error");
  EXPECT_EQ(message({0}, {-1e-9}), "variance: is -1e-09 in channel 0; expected more than 0, as epsilon is 0");
  options.epsilon = 1e-5;
  EXPECT_EQ(message({0}, {-std::nextafter(1e-5, 0.0)}), "no error");
  EXPECT_EQ(message({0, 0}, {1, -1e-5}),
            "variance: is -1e-05 in channel 1; expected more than -1e-05, so that variance + epsilon is more than 0");
  options.epsilon_placement = EpsilonPlacement::deviation;
  EXPECT_EQ(message({0}, {-1e-9}),
            "variance: is -1e-09 in channel 0; expected 0 or more, as epsilon is added to its square root");
  EXPECT_EQ(message({0}, {0}), "no error");
}

TEST_F(Errors, OfPartialSums) {
  PartialSums moments(3);
  PartialSums gradients(3, PartialSums::Kind::gradients);
  const PartialSums four(4);
  EXPECT_EQ(error_of([&] { moments.merge(gradients); }), "other: holds gradients; expected moments");
  EXPECT_EQ(error_of([&] { moments.merge(four); }), "other: has 4 channels; expected 3");
  EXPECT_EQ(error_of([&] { accumulate(gradients, x); }), "sums: are of kind gradients; expected moments");
  EXPECT_EQ(error_of([&] { accumulate(moments, dy, x); }), "sums: are of kind moments; expected gradients");
  EXPECT_EQ(error_of([&] { accumulate(moments, x, Options{.channel_axes = {2}}); }),
            "x: has 5 channels; expected 3, as in sums");
  EXPECT_EQ(error_of([&] { (void)statistics_of(gradients); }), "sums: are of kind gradients; expected moments");
  EXPECT_EQ(error_of([&] { (void)moments.nonfinite_count(3); }), "channel: is 3; expected 0 or more and less than 3");
  EXPECT_EQ(error_of([] { PartialSums bad(-1); }), "channels: is -1; expected 0 or more");
  EXPECT_TRUE(moments == PartialSums(3));
  EXPECT_EQ(error_of([&] { backward_from_sums(dy, x, statistics, moments, {}, {}); }),
            "sums: are of kind moments; expected gradients");
  EXPECT_EQ(error_of([&] { backward_from_sums(dy, x, statistics, gradients, {}, {}); }),
            "sums: are over 0 elements per channel; expected 20, as in statistics");
  EXPECT_EQ(
      error_of([&] { backward_from_sums(dy, x, statistics, PartialSums(4, PartialSums::Kind::gradients), {}, {}); }),
      "sums: have 4 channels; expected 3");
}

TEST_F(Errors, OfCountsBeyondTwoTo62) {
  std::vector<std::byte> bytes = PartialSums(3).serialize();
  bytes[23] = std::byte{0x40};  // the highest byte of the count: 2^62
  PartialSums full = PartialSums::deserialize(bytes);
  EXPECT_EQ(full.count(), Index{1} << 62);
  PartialSums one(3);
  accumulate(one, slice(x, 0, 0, 1));
  EXPECT_EQ(error_of([&] { full.merge(one); }), "other: has too many elements; expected at most 2^62 in all");
  EXPECT_EQ(error_of([&] { accumulate(full, x); }), "x: has too many elements; expected at most 2^62 in all");
  EXPECT_EQ(full.count(), Index{1} << 62);
}

TEST_F(Errors, OfBytesThatAreNoSums) {
  PartialSums sums(3);
  accumulate(sums, x);
  const std::vector<std::byte> good = sums.serialize();
  const auto message = [](const std::vector<std::byte>& bytes) {
    return error_of([&] { (void)PartialSums::deserialize(bytes); });
  };
  EXPECT_EQ(message(good), "no error");
  for (std::size_t size = 0; size < good.size(); ++size) {
    ASSERT_NE(message({good.begin(), good.begin() + static_cast<std::ptrdiff_t>(size)}), "no error") << size;
  }
  std::vector<std::byte> longer = good;
  longer.push_back({});
  EXPECT_NE(message(longer), "no error");
  for (std::size_t i = 0; i < 16; ++i) {  // signature and channels
    std::vector<std::byte> bad = good;
    bad[i] ^= std::byte{1};
    EXPECT_NE(message(bad), "no error") << i;
  }
  for (std::size_t i = 24; i < 32; ++i) {  // kind, range and what is reserved
    std::vector<std::byte> bad = good;
    bad[i] ^= std::byte{2};
    EXPECT_NE(message(bad), "no error") << i;
  }
}

TEST_F(Errors, RandomBytesNeverCrash) {
  Random random(71);
  PartialSums sums(2, PartialSums::Kind::moments, PartialSums::Range::extended);
  const std::vector<float> small = {1, 2, 3, 4};
  accumulate(sums, view(small, {2, 2}));
  const std::vector<std::byte> good = sums.serialize();
  for (int i = 0; i < 3000; ++i) {
    std::vector<std::byte> bytes = good;
    if (i % 3 == 0) bytes.resize(static_cast<std::size_t>(random.between(0, 2000)));
    const Index changes = i % 3 == 1 ? random.between(1, 4) : static_cast<Index>(bytes.size());
    for (Index j = 0; j < changes && bytes.size() > 40; ++j) {
      // Mostly behind the header, so that most are read to their end.
      const Index from = random.chance(0.01) ? 0 : 32;
      const auto at = static_cast<std::size_t>(random.between(from, static_cast<Index>(bytes.size()) - 1));
      bytes[at] = static_cast<std::byte>(random.chance(0.3) ? 0 : random.bits());
    }
    (void)error_of([&] {
      PartialSums read = PartialSums::deserialize(bytes);
      if (read.kind() == PartialSums::Kind::moments) (void)statistics_of(read);
      const PartialSums copy = read;
      read.merge(copy);
    });
  }
}

TEST_F(Errors, OfViews) {
  EXPECT_EQ(error_of([&] {
              (void)permute(x, {0, 1});
            }),
            "order: is (0, 1); expected each axis of shape (4, 3, 5) once");
  EXPECT_EQ(error_of([&] {
              (void)permute(x, {0, 1, 1});
            }),
            "order: is (0, 1, 1); expected each axis of shape (4, 3, 5) once");
  EXPECT_EQ(error_of([&] {
              (void)permute(x, {0, -1, 1});
            }),
            "order: is (0, -1, 1); expected each axis of shape (4, 3, 5) once");
  EXPECT_EQ(error_of([&] { (void)slice(x, 3, 0, 1); }), "axis: is 3; expected less than 3");
  EXPECT_EQ(error_of([&] { (void)slice(x, 0, 2, 3); }), "size: takes 3 from 2 on; expected a part of 0 to 4");
  EXPECT_EQ(error_of([&] { (void)slice(x, 0, -1, 2); }), "begin: is -1; expected 0 to 4, the axis' size");
  EXPECT_NE(error_of([&] { (void)slice(x, 0, 0, -1); }), "no error");
  EXPECT_NE(error_of([&] { (void)slice(x, 0, std::numeric_limits<Index>::max(), 1); }), "no error");
}

TEST_F(Errors, OfLayouts) {
  const auto message = [&](std::string_view layout, const IndexList& sizes) {
    return error_of([&] { (void)layout_view(std::as_const(memory).data(), layout, sizes); });
  };
  EXPECT_EQ(message("nchw", {1, 2, 3}), "layout: is \"nchw\" with sizes (1, 2, 3); expected one size per letter");
  EXPECT_EQ(message("nc", {1, 2, 3}), "layout: is \"nc\" with sizes (1, 2, 3); expected one size per letter");
  EXPECT_EQ(message("nhw", {1, 2, 3}),
            "layout: is \"nhw\" with sizes (1, 2, 3); expected one letter c for the channels");
  EXPECT_EQ(message("ncc", {1, 2, 3}), "layout: is \"ncc\" with sizes (1, 2, 3); expected each letter at most once");
  EXPECT_EQ(message("nChw16c", {1, 24, 3, 3}),
            "layout: is \"nChw16c\" with sizes (1, 24, 3, 3); expected a number of channels that is a multiple of 16");
  EXPECT_EQ(message("nchw16c", {1, 16, 3, 3}),
            "layout: is \"nchw16c\" with sizes (1, 16, 3, 3); expected a block such as 16c only after a capital C");
  for (const std::string_view layout : {"nChw", "nChw16", "nChw16cc", "nChw16w", "nChw0c", "n c", "NCHW", "", "nCc16c",
                                        "nChw99999999999999999999c", "nhwC16c4c"}) {
    EXPECT_NE(message(layout, {1, 16, 3, 3}), "no error") << layout;
  }
}

TEST_F(Errors, OfTheLayerAndTheRest) {
  EXPECT_EQ(error_of([] { BatchNorm layer(-1); }), "channels: is -1; expected 0 or more");
  BatchNorm layer(4);
  EXPECT_EQ(error_of([&] { layer.backward(dy, x, {}); }),
            "backward: was called without a forward; expected a forward first");
  EXPECT_EQ(error_of([&] { (void)layer.forward(x, y); }), "x: has 3 channels; expected 4");
  const std::string target = error_of([] { set_target("Z80"); });
  EXPECT_NE(target.find("\"Z80\"; expected a target that this processor supports: "), std::string::npos) << target;
}

}  // namespace
}  // namespace exactnorm::testing

// bfloat16 and float16: each conversion against the formats' definitions, and all results against those of the same
// numbers as float32, rounded once.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "exactnorm/exactnorm.h"
#include "support/compare.h"
#include "support/half.h"
#include "support/random.h"
#include "support/tensor.h"
#include "tensor/conversions.h"
#include "tensor/half_kernels.h"

namespace exactnorm::testing {
namespace {

template <typename Half>
class HalfConversions : public ::testing::Test {
 protected:
  void TearDown() override { set_target(""); }

  static constexpr HalfFormat format = std::is_same_v<Half, bfloat16> ? bfloat16_format : float16_format;

  static Half narrowed(float value) {
    if constexpr (std::is_same_v<Half, bfloat16>) {
      return to_bfloat16(value);
    } else {
      return to_float16(value);
    }
  }

  // Numbers of all exponents, ties between neighbours and numbers beside them, the ends of the range.
  static std::vector<float> numbers() {
    Random random(7);
    std::vector<float> result = {0.0F,
                                 -0.0F,
                                 std::numeric_limits<float>::infinity(),
                                 -std::numeric_limits<float>::infinity(),
                                 std::numeric_limits<float>::max(),
                                 std::numeric_limits<float>::denorm_min(),
                                 std::numeric_limits<float>::quiet_NaN()};
    for (int i = 0; i < 20'000; ++i) {
      result.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random.bits())));
      const auto bits = static_cast<std::uint16_t>(random.bits());
      const double one = value_of(format, bits);
      const double next = value_of(format, static_cast<std::uint16_t>(bits + 1));
      if (!std::isfinite(one) || !std::isfinite(next)) continue;
      const auto tie = static_cast<float>((one + next) / 2);
      result.push_back(static_cast<float>(one));
      result.push_back(tie);
      result.push_back(std::nextafter(tie, 0.0F));
      result.push_back(std::nextafter(tie, 2 * tie));
    }
    const auto beyond = static_cast<float>(largest_of(format) * (1 + std::ldexp(1.0, -format.significand_bits - 2)));
    for (const float value : {beyond, std::nextafter(beyond, 0.0F)}) result.push_back(value);
    return result;
  }
};
using Halves = ::testing::Types<bfloat16, float16>;
TYPED_TEST_SUITE(HalfConversions, Halves);

TYPED_TEST(HalfConversions, OfOneNumber) {
  constexpr HalfFormat of_type = TestFixture::format;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    const double right = value_of(of_type, half);
    const float value = to_float32(TypeParam{half});
    if (std::isnan(right)) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_TRUE(std::isnan(value_of(of_type, TestFixture::narrowed(value).bits))) << bits;
      continue;
    }
    EXPECT_EQ(std::bit_cast<std::uint64_t>(double{value}), std::bit_cast<std::uint64_t>(right)) << bits;
    EXPECT_EQ(TestFixture::narrowed(value).bits, half);
    EXPECT_EQ(bits_of(of_type, right), half);  // the oracle itself
  }
  for (const float value : TestFixture::numbers()) {
    const std::uint16_t bits = TestFixture::narrowed(value).bits;
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(value_of(of_type, bits)));
    } else {
      EXPECT_EQ(bits, bits_of(of_type, rounded(of_type, value))) << value;
    }
  }
}

TYPED_TEST(HalfConversions, OfFloat64RoundOnce) {
  constexpr HalfFormat of_type = TestFixture::format;
  Random random(3);
  for (const float value : TestFixture::numbers()) {
    if (std::isnan(value)) continue;
    // Beside a tie by less than float32 resolves: rounded to float32 first, it would be the tie.
    for (const double factor : {1.0, 1 + 0x1p-40, 1 - 0x1p-40}) {
      const double number = value * factor;
      EXPECT_EQ(convert<TypeParam>(number).bits, bits_of(of_type, rounded(of_type, number))) << number;
    }
  }
  for (int i = 0; i < 20'000; ++i) {
    const double number = random.of_exponent(-160, 130);
    EXPECT_EQ(convert<TypeParam>(number).bits, bits_of(of_type, rounded(of_type, number))) << number;
  }
}

TYPED_TEST(HalfConversions, OfVectorsAreTheSame) {
  std::vector<float> numbers = TestFixture::numbers();
  const auto count = static_cast<Index>(numbers.size());
  std::vector<TypeParam> all(0x10000);
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) all[bits].bits = static_cast<std::uint16_t>(bits);
  for (const std::string& target : supported_targets()) {
    SCOPED_TRACE(target);
    set_target(target);
    std::vector<float> wide(all.size());
    promote(all.data(), static_cast<Index>(all.size()), wide.data());
    for (std::size_t i = 0; i < all.size(); ++i) {
      ASSERT_EQ(std::bit_cast<std::uint32_t>(wide[i]), std::bit_cast<std::uint32_t>(to_float32(all[i]))) << i;
    }
    // All lengths, each from another place on, and nothing beside them.
    Random random(11);
    for (Index length = 0; length < 150; ++length) {
      const Index from = random.between(0, count - 150);
      std::vector<TypeParam> to(300, TypeParam{0x1234});
      const auto at = static_cast<std::size_t>(random.between(1, 100));
      demote(numbers.data() + from, length, to.data() + at);
      for (std::size_t i = 0; i < to.size(); ++i) {
        const bool is_inside = i >= at && i < at + static_cast<std::size_t>(length);
        const std::uint16_t right =
            is_inside ? TestFixture::narrowed(numbers[static_cast<std::size_t>(from) + i - at]).bits : 0x1234;
        ASSERT_EQ(to[i].bits, right) << length << ' ' << i;
      }
      std::vector<float> some(static_cast<std::size_t>(length) + 2, -7.0F);
      promote(all.data() + from % 60'000, length, some.data() + 1);
      EXPECT_EQ(some.front(), -7);
      EXPECT_EQ(some.back(), -7);
      for (Index i = 0; i < length; ++i) {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(some[static_cast<std::size_t>(i) + 1]),
                  std::bit_cast<std::uint32_t>(wide[static_cast<std::size_t>(from % 60'000 + i)]));
      }
    }
    std::vector<TypeParam> narrow(numbers.size());
    demote(numbers.data(), count, narrow.data());
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      ASSERT_EQ(narrow[i].bits, TestFixture::narrowed(numbers[i]).bits) << numbers[i];
    }
  }
}

// ---- Operations

struct Shape {
  const char* name;
  IndexList shape;
  IndexList axes;
  std::optional<IndexList> strides;
};

// Runs long and short, rows of channels wide and narrow, strides.
const std::array shapes = {
    Shape{"nchw", {3, 5, 9, 7}, {1}, {}},
    Shape{"nchw, large images", {2, 2, 90, 61}, {1}, {}},
    Shape{"nchw, small images", {40, 33, 2, 3}, {1}, {}},
    Shape{"nhwc", {3, 6, 7, 40}, {-1}, {}},
    Shape{"nhwc of few channels", {5, 31, 17, 3}, {-1}, {}},
    Shape{"nc", {67, 130}, {1}, {}},
    Shape{"cn", {3, 5000}, {0}, {}},
    Shape{"nchw with gaps", {3, 4, 5, 6}, {1}, IndexList{300, 70, 13, 2}},
    Shape{"one channel", {7, 11}, {}, {}},
};

struct Result {
  Statistics statistics;
  std::vector<double> y, inferred, dx, frozen, dgamma, dbeta, moments_mean;
};

Result run(const Shape& shape, DType inputs, DType outputs, const std::vector<double>& x_values,
           const std::vector<double>& dy_values, const std::vector<double>& parameters, int threads) {
  const auto make = [&](DType dtype) {
    return shape.strides ? Tensor::strided(dtype, shape.shape, *shape.strides) : Tensor(dtype, shape.shape);
  };
  Tensor x = make(inputs);
  x.fill(x_values);
  Tensor dy = make(inputs);
  dy.fill(dy_values);
  const auto channels = static_cast<Index>(parameters.size());
  const Tensor gamma(DType::float32, {channels}, parameters);
  const Tensor beta(DType::float64, {channels}, parameters);
  Options options;
  options.channel_axes = shape.axes;
  options.threads = threads;
  Tensor y = make(outputs);
  Tensor inferred = make(outputs);
  Tensor dx = make(outputs);
  Tensor frozen = make(outputs);
  Tensor dgamma(DType::float32, {channels});
  Tensor dbeta(DType::float32, {channels});
  Result result;
  const Affine affine = {gamma.view(), beta.view()};
  result.statistics = training(x.view(), y.view(), affine, options);
  inference(x.view(), result.statistics, inferred.view(), affine, options);
  backward(dy.view(), x.view(), result.statistics, {gamma.view()}, {dx.view(), dgamma.view(), dbeta.view()}, options);
  backward_frozen(dy.view(), x.view(), result.statistics, {gamma.view()}, {frozen.view(), {}, {}}, options);
  result.y = y.values();
  result.inferred = inferred.values();
  result.dx = dx.values();
  result.frozen = frozen.values();
  result.dgamma = dgamma.values();
  result.dbeta = dbeta.values();
  PartialSums sums(channels, PartialSums::Kind::moments, range_for(inputs));
  accumulate(sums, x.view(), options);
  result.moments_mean = statistics_of(sums, options).mean;
  for (const Tensor* tensor : {&y, &inferred, &dx, &frozen, &dgamma, &dbeta}) EXPECT_TRUE(tensor->guards_intact());
  return result;
}

std::vector<double> all_rounded(DType dtype, std::vector<double> values) {
  std::transform(values.begin(), values.end(), values.begin(),
                 [&](double value) { return rounded(format_of(dtype), value); });
  return values;
}

class HalfOperations : public ::testing::TestWithParam<DType> {
 protected:
  void TearDown() override { set_target(""); }
};

TEST_P(HalfOperations, AreThoseOfFloat32RoundedOnce) {
  const DType half = GetParam();
  for (const Shape& shape : shapes) {
    SCOPED_TRACE(shape.name);
    Random random(5);
    const Index count = product(shape.shape);
    Index channels = 1;
    for (const Index axis : shape.axes) {
      channels *=
          shape.shape[static_cast<std::size_t>(axis < 0 ? axis + static_cast<Index>(shape.shape.size()) : axis)];
    }
    Tensor x(half, {count});
    Tensor dy(half, {count});
    for (Index i = 0; i < count; ++i) {
      x.set(i, 3 + random.normal());
      dy.set(i, random.chance(0.1) ? 0 : random.normal() * 0.01);
    }
    std::vector<double> parameters;
    for (Index i = 0; i < channels; ++i) parameters.push_back(static_cast<float>(random.uniform(-2, 2)));
    const Result right = run(shape, DType::float32, DType::float32, x.values(), dy.values(), parameters, 1);
    for (const std::string& target : supported_targets()) {
      set_target(target);
      for (const int threads : {1, 3}) {
        SCOPED_TRACE(target + " " + std::to_string(threads));
        for (const DType outputs : {half, DType::float32}) {
          const Result result = run(shape, half, outputs, x.values(), dy.values(), parameters, threads);
          const auto of = [&](const std::vector<double>& values) {
            return outputs == half ? all_rounded(half, values) : values;
          };
          EXPECT_TRUE(same_bits(result.statistics, right.statistics));
          EXPECT_TRUE(same_bits(result.y, of(right.y)));
          EXPECT_TRUE(same_bits(result.inferred, of(right.inferred)));
          EXPECT_TRUE(same_bits(result.dx, of(right.dx)));
          EXPECT_TRUE(same_bits(result.frozen, of(right.frozen)));
          EXPECT_TRUE(same_bits(result.dgamma, right.dgamma));
          EXPECT_TRUE(same_bits(result.dbeta, right.dbeta));
          EXPECT_TRUE(same_bits(result.moments_mean, right.moments_mean));
        }
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Types, HalfOperations, ::testing::Values(DType::bfloat16, DType::float16),
                         [](const auto& of) { return std::string(name_of(of.param)); });

TEST_P(HalfOperations, InPlaceAndPastTheCaches) {
  const DType half = GetParam();
  // Larger than any last level of caches here, so that outputs are streamed.
  const IndexList shape = {8, 3, 1024, 1031};
  const Index count = product(shape);
  std::vector<std::uint16_t> bits(static_cast<std::size_t>(count));
  Random random(9);
  for (std::uint16_t& value : bits) {
    value = bits_of(format_of(half), rounded(format_of(half), 1 + random.uniform(-1, 1)));
  }
  std::vector<std::uint16_t> streamed(bits.size() + 1);
  const MutableTensorView x = {bits.data(), half, shape, contiguous_strides(shape)};
  const MutableTensorView y = {streamed.data() + 1, half, shape, contiguous_strides(shape)};
  const Statistics apart = training(x, y);
  const Statistics in_place = training(x, x);
  EXPECT_TRUE(same_bits(apart, in_place));
  EXPECT_TRUE(std::equal(bits.begin(), bits.end(), streamed.begin() + 1));
}

// What float32's range holds and float16's does not is infinity, as after a cast; small results are subnormal.
TEST(HalfOperationsOfFloat16, LeaveItsRangeAsACastDoes) {
  const std::vector<float> x = {-1, 1, -1, 1};
  const std::vector<float> gamma = {1e5F, 3e-8F};
  std::vector<float16> y(4);
  Options options;
  options.epsilon = 0;
  training(view(x, {2, 2}), mutable_view(y, {2, 2}), {view(gamma, {2}), {}}, options);
  // Both channels hold one number alone, so that y is 0; by given statistics it is not.
  EXPECT_EQ(y[0].bits, 0);
  const std::vector<double> zeros = {0, 0};
  const std::vector<double> ones = {1, 1};
  inference(view(x, {2, 2}), given_statistics(view(zeros, {2}), view(ones, {2}), options), mutable_view(y, {2, 2}),
            {view(gamma, {2}), {}}, options);
  EXPECT_EQ(y[0].bits, 0xfc00);  // -infinity
  EXPECT_EQ(y[1].bits, 0x0001);  // 3e-8 beside the smallest, 5.96e-8
}

TEST(BooleanElements, CountWhereTheyAreNotZero) {
  const std::array<std::uint8_t, 5> bytes = {0, 1, 255, 0, 2};
  const TensorView x = {bytes.data(), DType::boolean, {5, 1}, {1, 1}};
  PartialSums sums(1, PartialSums::Kind::moments, range_for(x.dtype));
  accumulate(sums, x);
  EXPECT_EQ(statistics_of(sums).mean[0], 0.6);
  EXPECT_EQ(values_of(x), (std::vector<double>{0, 1, 1, 0, 1}));
}

TEST(Dtypes, AreListedInMessages) {
  for (const DType dtype : all_dtypes) {
    EXPECT_NE(dtype_names.find(name_of(dtype)), std::string::npos);
    EXPECT_EQ(floating_dtype_names.find(name_of(dtype)) != std::string::npos, is_floating(dtype)) << name_of(dtype);
    EXPECT_GT(size_of(dtype), 0U);
  }
  EXPECT_EQ(std::count(dtype_names.begin(), dtype_names.end(), ' '), static_cast<Index>(all_dtypes.size()));
}

}  // namespace
}  // namespace exactnorm::testing

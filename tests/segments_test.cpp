// Segments: every result against that of a tensor of the segment's rows alone, bit for bit.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "exactnorm/exactnorm.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

struct Case {
  IndexList shape;
  IndexList channel_axes;  // from 0
  Index axis = 0;
  std::vector<Index> ids;
  Index count = 0;
  DType dtype = DType::float32;
  Options options;
  bool has_mask = false;
};

Tensor make(const Case& c, Random& random) {
  Tensor tensor = random.chance(0.5) ? Tensor(c.dtype, c.shape)
                                     : Tensor::strided(c.dtype, c.shape, random_strides(random, c.shape));
  for (Index i = 0; i < tensor.count(); ++i) tensor.set(i, 50 + random.normal());
  return tensor;
}

// The rows of a segment, in their order; `from` has c's shape, or 1 on some axes.
Tensor rows_of(const Tensor& from, const Case& c, Index segment, DType dtype) {
  const auto axis = static_cast<std::size_t>(c.axis);
  IndexList shape = from.shape();
  shape[axis] = std::count(c.ids.begin(), c.ids.end(), segment);
  std::vector<double> values;
  for (Index i = 0; i < from.count(); ++i) {
    if (c.ids[static_cast<std::size_t>(unravel(i, from.shape())[axis])] == segment) values.push_back(from.get(i));
  }
  return {dtype, shape, values};
}

void check(const Case& c, std::uint64_t seed) {
  Random random(seed);
  const Tensor x = make(c, random);
  const Tensor dy = make(c, random);
  const Tensor residual = make(c, random);
  Index channels = 1;
  for (const Index axis : c.channel_axes) channels *= c.shape[static_cast<std::size_t>(axis)];
  std::vector<double> parameters;
  for (Index i = 0; i < channels; ++i) parameters.push_back(static_cast<float>(random.uniform(-3, 3)));
  const Tensor gamma(DType::float32, {channels}, parameters);
  const Tensor beta(DType::float32, {channels}, {parameters.rbegin(), parameters.rend()});
  IndexList mask_shape = c.shape;
  for (const Index axis : c.channel_axes) mask_shape[static_cast<std::size_t>(axis)] = 1;
  Tensor mask(DType::boolean, mask_shape);
  for (Index i = 0; i < mask.count(); ++i) mask.set(i, random.chance(0.6) ? 1 : 0);
  const Segments segments(c.ids, c.count, random.chance(0.5) ? c.axis : c.axis - static_cast<Index>(c.shape.size()));
  const bool has_residual = random.chance(0.5);
  Affine affine = {gamma.view(), beta.view()};
  if (has_residual) affine.residual = residual.view();
  if (c.has_mask) affine.mask = Mask(std::as_const(mask).view());

  Tensor y = make(c, random);
  const std::vector<Statistics> found = segmented_training(x.view(), segments, y.view(), affine, c.options);
  ASSERT_EQ(static_cast<Index>(found.size()), c.count);
  Tensor inferred = make(c, random);
  segmented_inference(x.view(), segments, found, inferred.view(), affine, c.options);
  std::vector<PartialSums> sums(found.size(), PartialSums(channels));
  accumulate(sums, x.view(), segments, c.options);
  Tensor dx = make(c, random);
  Tensor d_residual = make(c, random);
  Tensor dgamma(DType::float64, {channels});
  Tensor dbeta(DType::float64, {channels});
  Gradients gradients = {dx.view(), dgamma.view(), dbeta.view()};
  if (has_residual) gradients.d_residual = d_residual.view();
  segmented_backward(dy.view(), x.view(), segments, found, affine, gradients, c.options);
  std::vector<long double> dgamma_sum(static_cast<std::size_t>(channels));
  std::vector<long double> dbeta_sum(static_cast<std::size_t>(channels));
  for (Index segment = 0; segment < c.count; ++segment) {
    SCOPED_TRACE("segment " + std::to_string(segment));
    const auto at = static_cast<std::size_t>(segment);
    const auto alone = [&](const Tensor& from) { return rows_of(from, c, segment, c.dtype); };
    const Tensor own_x = alone(x);
    const Tensor own_dy = alone(dy);
    const Tensor own_residual = alone(residual);
    const Tensor own_mask = rows_of(mask, c, segment, DType::boolean);
    Affine own_affine = {gamma.view(), beta.view()};
    if (has_residual) own_affine.residual = own_residual.view();
    if (c.has_mask) own_affine.mask = Mask(own_mask.view());
    Tensor right(c.dtype, own_x.shape());
    const Statistics expected = training(own_x.view(), right.view(), own_affine, c.options);
    EXPECT_EQ(found[at].count, expected.count);
    EXPECT_TRUE(same_numbers(found[at].mean, expected.mean));
    EXPECT_TRUE(same_numbers(found[at].variance, expected.variance));
    EXPECT_TRUE(same_numbers(alone(y).values(), right.values()));
    EXPECT_TRUE(same_numbers(alone(inferred).values(), right.values()));
    PartialSums right_sums(channels);
    accumulate(right_sums, own_x.view(), c.options);
    EXPECT_TRUE(sums[at] == right_sums);
    Tensor right_residual(c.dtype, own_x.shape());
    Tensor own_dgamma(DType::float64, {channels});
    Tensor own_dbeta(DType::float64, {channels});
    Gradients own = {right.view(), own_dgamma.view(), own_dbeta.view()};
    if (has_residual) own.d_residual = right_residual.view();
    backward(own_dy.view(), own_x.view(), expected, own_affine, own, c.options);
    EXPECT_TRUE(same_numbers(alone(dx).values(), right.values()));
    if (has_residual) {
      EXPECT_TRUE(same_numbers(alone(d_residual).values(), right_residual.values()));
    }
    for (Index channel = 0; channel < channels; ++channel) {
      dgamma_sum[static_cast<std::size_t>(channel)] += own_dgamma.get(channel);
      dbeta_sum[static_cast<std::size_t>(channel)] += own_dbeta.get(channel);
    }
  }
  for (Index channel = 0; channel < channels; ++channel) {
    const auto at = static_cast<std::size_t>(channel);
    EXPECT_DOUBLE_EQ(dgamma.get(channel), static_cast<double>(dgamma_sum[at]));
    EXPECT_DOUBLE_EQ(dbeta.get(channel), static_cast<double>(dbeta_sum[at]));
  }
  EXPECT_TRUE(y.guards_intact() && inferred.guards_intact() && dx.guards_intact() && d_residual.guards_intact());
}

TEST(SegmentsOfRows, GiveTheBitsOfTheirRowsAlone) {
  Random random(21);
  for (std::uint64_t seed = 1; seed <= 120; ++seed) {
    Case c;
    const Index rank = random.between(1, 4);
    for (Index axis = 0; axis < rank; ++axis) c.shape.push_back(random.between(1, random.chance(0.3) ? 30 : 6));
    c.axis = random.between(0, rank - 1);
    for (Index axis = 0; axis < rank; ++axis) {
      if (axis != c.axis && random.chance(0.5)) c.channel_axes.push_back(axis);
    }
    c.count = random.between(1, 7);
    const bool is_sorted = random.chance(0.5);
    for (Index row = 0; row < c.shape[static_cast<std::size_t>(c.axis)]; ++row) {
      c.ids.push_back(random.between(0, c.count - 1));
    }
    if (is_sorted) std::sort(c.ids.begin(), c.ids.end());
    c.has_mask = is_sorted && random.chance(0.5);
    constexpr std::array types = {DType::float32, DType::float64, DType::bfloat16};
    c.dtype = types[static_cast<std::size_t>(random.between(0, 2))];
    c.options.channel_axes = c.channel_axes;
    c.options.threads = static_cast<int>(random.between(1, 3));
    if (random.chance(0.5)) c.options.activation = Activation::relu;
    SCOPED_TRACE("shape " + to_string(c.shape) + ", channel axes " + to_string(c.channel_axes) + ", axis " +
                 std::to_string(c.axis) + ", " + std::to_string(c.count) + " segments, " +
                 (is_sorted ? "sorted" : "not sorted") + ", seed " + std::to_string(seed));
    check(c, seed);
    if (::testing::Test::HasFailure()) return;
  }
}

// y over x: a segment's rows are read before they are written, and no others are touched.
TEST(SegmentsOfRows, InPlace) {
  Random random(22);
  Tensor x(DType::float32, {40, 9});
  for (Index i = 0; i < x.count(); ++i) x.set(i, random.normal());
  std::vector<Index> ids;
  for (Index row = 0; row < 40; ++row) ids.push_back(random.between(0, 3));
  const Segments segments(ids, 4);
  Tensor y(DType::float32, {40, 9});
  static_cast<void>(segmented_training(std::as_const(x).view(), segments, y.view()));
  static_cast<void>(segmented_training(std::as_const(x).view(), segments, x.view()));
  EXPECT_TRUE(same_bits(x.values(), y.values()));
}

std::vector<Index> sizes_of(const Segments& segments) {
  std::vector<Index> sizes;
  for (Index i = 0; i < segments.count(); ++i) sizes.push_back(segments.rows_of(i));
  return sizes;
}

TEST(SegmentsOfRows, GhostBatches) {
  using Sizes = std::vector<Index>;
  EXPECT_EQ(sizes_of(Segments::even(129, 128)), (Sizes{65, 64}));
  EXPECT_EQ(sizes_of(Segments::even(10, 3)), (Sizes{3, 3, 3, 1}));
  EXPECT_EQ(sizes_of(Segments::even(7, 8)), (Sizes{7}));
  // chunk(5) of 6 rows makes parts of 2: three of them.
  EXPECT_EQ(sizes_of(Segments::even(9, 2)), (Sizes{2, 2, 2, 2, 1}));
  EXPECT_EQ(sizes_of(Segments::even(0, 8)), Sizes{});
  EXPECT_EQ(sizes_of(Segments::exact(129, 128)), (Sizes{129}));
  EXPECT_EQ(sizes_of(Segments::exact(130, 128)), (Sizes{128, 2}));
  EXPECT_EQ(sizes_of(Segments::exact(257, 128)), (Sizes{128, 129}));
  EXPECT_EQ(sizes_of(Segments::exact(1, 128)), (Sizes{1}));
  EXPECT_EQ(sizes_of(Segments::exact(3, 1)), (Sizes{1, 1, 1}));
}

TEST(SegmentsOfRows, AreRefusedWhereTheyDoNotFit) {
  const Tensor x(DType::float32, {4, 3}, std::vector<double>(12, 1.0));
  Tensor y(DType::float32, {4, 3}, std::vector<double>(12, 7.0));
  const auto error = [&](const Segments& segments, const Affine& affine = {}) {
    return error_of([&] { static_cast<void>(segmented_training(x.view(), segments, y.view(), affine)); });
  };
  EXPECT_EQ(error_of([] { Segments({0, 2, 1}, 2); }), "segments: have id 2 in row 1; expected 0 to 1");
  EXPECT_EQ(error_of([] { Segments({0, -1}, 2); }), "segments: have id -1 in row 1; expected 0 to 1");
  EXPECT_EQ(error_of([] { Segments({}, -1); }), "count: is -1; expected 0 or more");
  EXPECT_EQ(error_of([] { static_cast<void>(Segments::even(4, 0)); }), "size: is 0; expected 1 or more");
  EXPECT_EQ(error({{0, 0, 1}, 2}), "segments: are of 3 rows; expected 4, as x has on axis 0");
  EXPECT_EQ(error({{0, 0, 1}, 2, 1}), "segments: are along axis 1, a channel axis; expected another one");
  EXPECT_EQ(error({{0, 0, 1}, 2, 2}), "segments: are along axis 2; expected one of x's 2");
  const Tensor mask(DType::boolean, {4, 1}, {1, 1, 0, 1});
  EXPECT_EQ(error({{0, 1, 0, 1}, 2}, {.mask = Mask(mask.view())}),
            "mask: was given; expected none, as there are segments whose rows do not follow each other");
  const Segments segments({0, 0, 1, 1}, 2);
  const std::vector<Statistics> statistics = segmented_training(x.view(), segments, y.view());
  y.fill(std::vector<double>(12, 7.0));
  EXPECT_EQ(error_of([&] {
              segmented_inference(x.view(), Segments({0, 0, 0, 0}, 1), statistics, y.view());
            }),
            "statistics: are of 2 segments; expected 1");
  EXPECT_EQ(error_of([&] {
              segmented_backward(x.view(), x.view(), Segments({0, 0, 0, 1}, 2), statistics, {}, {.dx = y.view()});
            }),
            "statistics: are of 2 elements per channel in segment 0; expected 3, as in x");
  EXPECT_EQ(y.values(), std::vector<double>(12, 7.0));
}

}  // namespace
}  // namespace exactnorm::testing

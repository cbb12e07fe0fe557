// Outputs over inputs.
#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/info.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

// Many channels and several threads, so that some groups are mapped while others are still being reduced; the
// operands' axes in one order, and in different ones.
TEST(InPlace, GivesTheSameBitsWhileOtherThreadsReduce) {
  Random random(63);
  const IndexList shape = {16, 64, 16, 50};
  const std::vector<IndexList> orders = {{0, 1, 2, 3}, {2, 1, 0, 3}, {3, 1, 2, 0}};
  const auto ordered = [&](const IndexList& order) {
    IndexList strides = shape;
    Index stride = 1;
    for (std::size_t i = shape.size(); i-- > 0;) {
      strides[static_cast<std::size_t>(order[i])] = stride;
      stride *= shape[static_cast<std::size_t>(order[i])];
    }
    return Tensor::strided(DType::float32, shape, strides);
  };
  const Options options{.threads = 4};
  for (const IndexList& x_order : orders) {
    for (const IndexList& dy_order : orders) {
      Tensor x = ordered(x_order);
      Tensor dy = ordered(dy_order);
      for (Index i = 0; i < x.count(); ++i) {
        x.set(i, random.normal());
        dy.set(i, random.normal());
      }
      Tensor y(DType::float32, shape);
      Tensor dx(DType::float32, shape);
      const Statistics statistics = training(std::as_const(x).view(), y.view(), {}, options);
      backward(std::as_const(dy).view(), std::as_const(x).view(), statistics, {}, {dx.view(), {}, {}}, options);
      Tensor over = x;
      (void)training(std::as_const(over).view(), over.view(), {}, options);
      EXPECT_TRUE(same_bits(over.values(), y.values()));
      over = dy;
      backward(std::as_const(over).view(), std::as_const(x).view(), statistics, {}, {over.view(), {}, {}}, options);
      EXPECT_TRUE(same_bits(over.values(), dx.values()));
      over = x;
      backward(std::as_const(dy).view(), std::as_const(over).view(), statistics, {}, {over.view(), {}, {}}, options);
      EXPECT_TRUE(same_bits(over.values(), dx.values()));
    }
  }
}

TEST(InPlace, GivesTheSameBits) {
  Random random(62);
  for (const IndexList& shape : {IndexList{20, 3, 50}, IndexList{999, 5}, IndexList{40000, 3}}) {
    for (const DType dtype : {DType::float32, DType::float64}) {
      Tensor x = Tensor::strided(dtype, shape, random_strides(random, shape));
      Tensor dy = Tensor::strided(dtype, shape, random_strides(random, shape));
      for (Index i = 0; i < x.count(); ++i) {
        x.set(i, random.normal());
        dy.set(i, random.normal());
      }
      const TensorView x_view = std::as_const(x).view();
      const TensorView dy_view = std::as_const(dy).view();
      const Options options{.threads = 2};
      Tensor y(dtype, shape);
      Tensor dx(dtype, shape);
      const Statistics statistics = training(x_view, y.view(), {}, options);
      backward(dy_view, x_view, statistics, {}, {dx.view(), {}, {}}, options);
      Tensor over = x;
      EXPECT_TRUE(same_bits(training(std::as_const(over).view(), over.view(), {}, options), statistics));
      EXPECT_TRUE(same_bits(over.values(), y.values()));
      EXPECT_TRUE(over.guards_intact());
      over = x;
      inference(std::as_const(over).view(), statistics, over.view(), {}, options);
      EXPECT_TRUE(same_bits(over.values(), y.values()));
      over = x;
      backward(dy_view, std::as_const(over).view(), statistics, {}, {over.view(), {}, {}}, options);
      EXPECT_TRUE(same_bits(over.values(), dx.values()));
      over = dy;
      backward(std::as_const(over).view(), x_view, statistics, {}, {over.view(), {}, {}}, options);
      EXPECT_TRUE(same_bits(over.values(), dx.values()));
      EXPECT_TRUE(over.guards_intact());
      backward_frozen(dy_view, x_view, statistics, {}, {dx.view(), {}, {}}, options);
      over = x;
      backward_frozen(dy_view, std::as_const(over).view(), statistics, {}, {over.view(), {}, {}}, options);
      EXPECT_TRUE(same_bits(over.values(), dx.values()));
    }
  }
}

// An axis of one element takes no step, whatever its stride: NumPy and PyTorch give such axes strides of many kinds.
TEST(InPlace, IgnoresTheStridesOfAxesOfOneElement) {
  Random random(64);
  const IndexList shape = {7, 3, 5, 1};
  const IndexList strides = {15, 5, 1, 1};
  Tensor x = Tensor::strided(DType::float32, shape, strides);
  for (Index i = 0; i < x.count(); ++i) x.set(i, random.normal());
  Tensor y(DType::float32, shape);
  const Statistics statistics = training(std::as_const(x).view(), y.view());
  Tensor dy = x;
  Tensor dx(DType::float32, shape);
  backward(std::as_const(dy).view(), std::as_const(x).view(), statistics, {}, {.dx = dx.view()});
  for (const Index other : {0, 3, -40, 15}) {
    Tensor over = x;
    MutableTensorView out = over.view();
    out.strides[3] = other;
    (void)training(std::as_const(over).view(), out);
    EXPECT_TRUE(same_bits(over.values(), y.values())) << other;
    over = dy;
    out = over.view();
    out.strides[3] = other;
    backward(std::as_const(over).view(), std::as_const(x).view(), statistics, {}, {.dx = out});
    EXPECT_TRUE(same_bits(over.values(), dx.values())) << other;
  }
}

// Where steps are taken, other strides are another view.
TEST(InPlace, RefusesTheSameMemoryInAnotherOrder) {
  std::vector<float> x(16, 1);
  const IndexList shape = {4, 4};
  EXPECT_EQ(error_of([&] {
              training(view(x, shape), mutable_view(x.data(), shape, {1, 4}));
            }),
            "y: overlaps x; expected separate memory or the very same view (address, strides and dtype)");
}

}  // namespace
}  // namespace exactnorm::testing

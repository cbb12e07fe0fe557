// Training with weights: against sums in long double by the definition, in any layout, and in pieces.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "exactnorm/exactnorm.h"
#include "support/blocks.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

using Real = long double;

// The gradients of one channel by the formulas, from its elements.
struct Channel {
  std::vector<Real> x, dy, w;
  Real total = 0, mean = 0, variance = 0, dbeta = 0, centred = 0;

  void finish() {
    for (std::size_t i = 0; i < x.size(); ++i) total += w[i];
    for (std::size_t i = 0; i < x.size(); ++i) mean += w[i] * x[i] / total;
    for (std::size_t i = 0; i < x.size(); ++i) variance += w[i] * (x[i] - mean) * (x[i] - mean) / total;
    for (std::size_t i = 0; i < x.size(); ++i) dbeta += dy[i];
    for (std::size_t i = 0; i < x.size(); ++i) centred += dy[i] * (x[i] - mean);
  }
};

Tensor make(DType dtype, const IndexList& shape, Random& random) {
  Tensor tensor =
      random.chance(0.5) ? Tensor(dtype, shape) : Tensor::strided(dtype, shape, random_strides(random, shape));
  for (Index i = 0; i < tensor.count(); ++i) tensor.set(i, random.normal());
  return tensor;
}

// Where the weight of an element lies among the values of a mask-like shape of all axes.
Index weight_of(Index element, const IndexList& shape, const IndexList& of_weights) {
  const IndexList at = unravel(element, shape);
  Index position = 0;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    position = position * of_weights[axis] + (of_weights[axis] == 1 ? 0 : at[axis]);
  }
  return position;
}

TEST(WeightedTraining, GradientsAreThoseOfTheDefinition) {
  Random random(51);
  constexpr std::array types = {DType::float32, DType::float64, DType::bfloat16};
  for (int round = 0; round < 150; ++round) {
    const IndexList shape = random_shape(random, 9);
    const IndexList axes = random_axes(random, shape);
    IndexList of_weights = shape;
    for (const Index axis : axes) of_weights[static_cast<std::size_t>(axis)] = 1;
    if (random.chance(0.3)) of_weights[0] = 1;
    const DType dtype = types[static_cast<std::size_t>(random.between(0, 2))];
    SCOPED_TRACE("round " + std::to_string(round) + ", shape " + to_string(shape) + ", channel axes " +
                 to_string(axes) + ", weights " + to_string(of_weights) + ", " + std::string(name_of(dtype)));
    const Tensor x = make(dtype, shape, random);
    const Tensor dy = make(dtype, shape, random);
    Tensor weights = make(DType::float64, of_weights, random);
    for (Index i = 0; i < weights.count(); ++i) weights.set(i, random.chance(0.2) ? 0 : std::abs(weights.get(i)));
    weights.set(0, 1);
    Index count = 1;
    for (const Index axis : axes) count *= shape[static_cast<std::size_t>(axis)];
    const Tensor gamma = make(DType::float64, {count}, random);
    const Options options = {
        .channel_axes = axes,
        .epsilon = 0.1,
        .epsilon_placement = random.chance(0.5) ? EpsilonPlacement::variance : EpsilonPlacement::deviation,
        .threads = static_cast<int>(random.between(1, 3))};

    std::vector<Channel> channels(static_cast<std::size_t>(count));
    for (Index i = 0; i < x.count(); ++i) {
      Channel& channel = channels[static_cast<std::size_t>(channel_of_element(i, shape, axes))];
      channel.x.push_back(static_cast<Real>(x.get(i)));
      channel.dy.push_back(static_cast<Real>(dy.get(i)));
      channel.w.push_back(static_cast<Real>(std::as_const(weights).get(weight_of(i, shape, of_weights))));
    }
    for (Channel& channel : channels) channel.finish();

    Tensor y = make(DType::float64, shape, random);
    Tensor dx = make(dtype, shape, random);
    Tensor dgamma(DType::float64, {count});
    Tensor dbeta(DType::float64, {count});
    const Affine affine = {.gamma = gamma.view()};
    const TensorView of_all = std::as_const(weights).view();
    const Statistics statistics = weighted_training(x.view(), of_all, y.view(), affine, options);
    weighted_backward(dy.view(), x.view(), of_all, statistics, affine,
                      {.dx = dx.view(), .dgamma = dgamma.view(), .dbeta = dbeta.view()}, options);
    const Real unit = dtype == DType::bfloat16 ? 0x1p-8L : dtype == DType::float32 ? 0x1p-24L : 0x1p-48L;
    const Real of_sums = dtype == DType::float64 ? 1e-13L : 1e-8L;  // those of what float32 holds are on a grid
    for (Index i = 0; i < x.count(); ++i) {
      const Index number = channel_of_element(i, shape, axes);
      const Channel& channel = channels[static_cast<std::size_t>(number)];
      const Real epsilon = static_cast<Real>(options.epsilon);
      const bool beside_deviation = options.epsilon_placement == EpsilonPlacement::deviation;
      const Real deviation = std::sqrt(channel.variance);
      const Real r = beside_deviation ? 1 / (deviation + epsilon) : 1 / std::sqrt(channel.variance + epsilon);
      const bool is_constant = channel.variance < 1e-30L;
      const Real k = !beside_deviation ? r * r : is_constant ? 0 : r / deviation;
      const Real scale = static_cast<Real>(std::as_const(gamma).get(number)) * r;
      const Real centre = static_cast<Real>(x.get(i)) - channel.mean;
      const Real weight =
          static_cast<Real>(std::as_const(weights).get(weight_of(i, shape, of_weights))) / channel.total;
      const Real terms[] = {static_cast<Real>(dy.get(i)), weight * channel.dbeta,
                            weight * k * centre * channel.centred};
      const Real sum = std::abs(terms[0]) + std::abs(terms[1]) + std::abs(terms[2]);
      const Real expected = scale * (terms[0] - terms[1] - terms[2]);
      EXPECT_LE(std::abs(static_cast<Real>(std::as_const(dx).get(i)) - expected),
                unit * std::abs(expected) + of_sums * (1 + std::abs(scale) * sum));
      EXPECT_NEAR(std::as_const(y).get(i), static_cast<double>(scale * centre), 1e-8);
      EXPECT_NEAR(std::as_const(dbeta).get(number), static_cast<double>(channel.dbeta), 1e-7);
      EXPECT_NEAR(std::as_const(dgamma).get(number), static_cast<double>(r * channel.centred), 1e-7);
    }
    EXPECT_TRUE(dx.guards_intact());
    EXPECT_TRUE(y.guards_intact());
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(WeightedTraining, IsTheSameForAnyNumberOfThreads) {
  Random random(52);
  const IndexList shape = {5, 3, 190, 61};
  const Tensor x = make(DType::float32, shape, random);
  const Tensor dy = make(DType::float32, shape, random);
  Tensor weights = make(DType::float32, {5, 190, 61}, random);
  for (Index i = 0; i < weights.count(); ++i) weights.set(i, std::abs(weights.get(i)));
  const auto results = [&](int threads) {
    const Options options = {.activation = Activation::silu, .threads = threads};
    Tensor y(DType::float32, shape);
    Tensor dx(DType::float32, shape);
    const Statistics statistics = weighted_training(x.view(), std::as_const(weights).view(), y.view(), {}, options);
    weighted_backward(dy.view(), x.view(), std::as_const(weights).view(), statistics, {}, {.dx = dx.view()}, options);
    return std::pair(y.values(), dx.values());
  };
  EXPECT_TRUE(results(1) == results(3));
}

// An empty batch, a channel's element alone, and weights of 0 throughout.
TEST(WeightedTraining, OfNothingIsNan) {
  const Tensor empty(DType::float32, {0, 2});
  const Tensor no_weights(DType::float32, {0});
  Tensor dgamma(DType::float64, {2}, {7, 7});
  Statistics statistics = weighted_training(empty.view(), no_weights.view(), Tensor(DType::float32, {0, 2}).view());
  EXPECT_EQ(statistics.count, 0);
  EXPECT_TRUE(std::isnan(statistics.mean[1]));
  weighted_backward(empty.view(), empty.view(), no_weights.view(), statistics, {}, {.dgamma = dgamma.view()});
  EXPECT_EQ(dgamma.values(), std::vector<double>(2, 0));

  const Tensor x(DType::float32, {2, 1}, {3, 5});
  Tensor y(DType::float32, {2, 1});
  const Tensor zeros(DType::float32, {2}, {0, 0});
  EXPECT_TRUE(std::isnan(weighted_training(x.view(), zeros.view(), y.view()).mean[0]));
  EXPECT_TRUE(std::isnan(y.values()[0]));
  const Tensor one(DType::float32, {2}, {0, 2});
  statistics = weighted_training(x.view(), one.view(), y.view(), {}, {.epsilon = 1});
  EXPECT_EQ(y.values(), (std::vector<double>{-2, 0}));
}

}  // namespace
}  // namespace exactnorm::testing

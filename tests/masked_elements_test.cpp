// Masks: padding of any length, gradients of normalized elements, layers, blocks, plans, and what is refused.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
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

// Sequences padded to any length: the bits of y, its statistics and all gradients are the same.
TEST(MaskedElements, MakePaddingInvisible) {
  constexpr Index sequences = 5;
  constexpr Index channels = 7;
  constexpr std::array<Index, sequences> lengths = {17, 3, 40, 1, 29};
  struct Results {
    Statistics statistics;
    std::vector<double> y;
    std::vector<double> dx;
    std::vector<double> dgamma;
    std::vector<double> dbeta;
  };
  const auto run = [&](Index padded, bool channels_last) {
    Random random(3);
    Random padding(static_cast<std::uint64_t>(padded));
    const IndexList shape =
        channels_last ? IndexList{sequences, padded, channels} : IndexList{sequences, channels, padded};
    const auto at = [&](Index sequence, Index channel, Index time) {
      return channels_last ? (sequence * padded + time) * channels + channel
                           : (sequence * channels + channel) * padded + time;
    };
    Tensor x(DType::float32, shape);
    Tensor dy(DType::float32, shape);
    Tensor mask(DType::boolean, {sequences, padded});
    for (Index i = 0; i < x.count(); ++i) {
      x.set(i, padding.chance(0.2) ? not_a_number : padding.normal() * 1e20);
      dy.set(i, padding.chance(0.2) ? not_a_number : padding.normal());
    }
    mask.fill(std::vector<double>(static_cast<std::size_t>(mask.count()), 0.0));
    for (Index sequence = 0; sequence < sequences; ++sequence) {
      for (Index time = 0; time < lengths[static_cast<std::size_t>(sequence)]; ++time) {
        mask.set(sequence * padded + time, 1);
        for (Index channel = 0; channel < channels; ++channel) {
          x.set(at(sequence, channel, time), 100 + random.normal());
          dy.set(at(sequence, channel, time), random.normal());
        }
      }
    }
    Options options;
    options.channel_axes = {channels_last ? 2 : 1};
    const Affine affine = {.mask = Mask(std::as_const(mask).view())};
    Tensor y(DType::float32, shape);
    Tensor dx(DType::float32, shape);
    Tensor dgamma(DType::float64, {channels});
    Tensor dbeta(DType::float64, {channels});
    Results results = {training(std::as_const(x).view(), y.view(), affine, options), {}, {}, {}, {}};
    backward(std::as_const(dy).view(), std::as_const(x).view(), results.statistics, affine,
             {dx.view(), dgamma.view(), dbeta.view()}, options);
    for (Index sequence = 0; sequence < sequences; ++sequence) {
      for (Index time = 0; time < lengths[static_cast<std::size_t>(sequence)]; ++time) {
        for (Index channel = 0; channel < channels; ++channel) {
          results.y.push_back(y.get(at(sequence, channel, time)));
          results.dx.push_back(dx.get(at(sequence, channel, time)));
        }
      }
    }
    results.dgamma = dgamma.values();
    results.dbeta = dbeta.values();
    return results;
  };
  const Results expected = run(40, false);
  EXPECT_EQ(expected.statistics.count, 90);
  for (const Index padded : {40, 41, 64, 333}) {
    for (const bool channels_last : {false, true}) {
      const Results found = run(padded, channels_last);
      EXPECT_TRUE(same_bits(found.statistics, expected.statistics));
      EXPECT_TRUE(same_bits(found.y, expected.y));
      EXPECT_TRUE(same_bits(found.dx, expected.dx));
      EXPECT_TRUE(same_bits(found.dgamma, expected.dgamma));
      EXPECT_TRUE(same_bits(found.dbeta, expected.dbeta));
    }
  }
}

// With `normalized` each masked y depends on the others' mean and variance, and so their x gets a gradient from it: by
// the formula, in rationals.
TEST(MaskedElements, GradientsOfNormalizedElements) {
  constexpr Index rows = 23;
  constexpr Index channels = 3;
  for (const Activation activation : {Activation::none, Activation::leaky_relu}) {
    Random random(7);
    Tensor x(DType::float64, {rows, channels});
    Tensor dy(DType::float64, {rows, channels});
    Tensor mask(DType::boolean, {rows});
    Index selected = 0;
    for (Index i = 0; i < rows; ++i) {
      mask.set(i, random.chance(0.6) ? 1 : 0);
      selected += mask.get(i) != 0 ? 1 : 0;
      for (Index channel = 0; channel < channels; ++channel) {
        x.set(i * channels + channel, 5 + random.normal());
        dy.set(i * channels + channel, random.normal());
      }
    }
    const Tensor gamma(DType::float64, {channels}, {1.5, -2, 0.25});
    Options options;
    options.activation = activation;
    options.slope = 0.25;
    const Affine affine = {.gamma = gamma.view(), .mask = Mask(std::as_const(mask).view(), MaskedOutput::normalized)};
    Tensor y(DType::float64, {rows, channels});
    const Statistics statistics = training(std::as_const(x).view(), y.view(), affine, options);
    ASSERT_EQ(statistics.count, selected);
    Tensor dx(DType::float64, {rows, channels});
    Tensor dgamma(DType::float64, {channels});
    Tensor dbeta(DType::float64, {channels});
    backward(std::as_const(dy).view(), std::as_const(x).view(), statistics, affine,
             {dx.view(), dgamma.view(), dbeta.view()}, options);
    PartialSums sums(channels, PartialSums::Kind::gradients);
    accumulate_gradients(sums, std::as_const(dy).view(), std::as_const(x).view(), statistics, affine, options);
    EXPECT_EQ(sums.count(), rows);
    Tensor from_sums(DType::float64, {rows, channels});
    backward_from_sums(std::as_const(dy).view(), std::as_const(x).view(), statistics, sums, affine,
                       {.dx = from_sums.view()}, options);
    EXPECT_TRUE(same_bits(from_sums.values(), dx.values()));
    for (Index channel = 0; channel < channels; ++channel) {
      std::vector<double> values;
      for (Index i = 0; i < rows; ++i) {
        if (mask.get(i) != 0) values.push_back(x.get(i * channels + channel));
      }
      const ExactMoments moments = exact_moments(values);
      const Real inverse = 1 / sqrt(real(moments.variance) + Real(options.epsilon));
      const auto gradient = [&](Index i) {
        const double of_y = dy.get(i * channels + channel);
        const bool is_negative = activation == Activation::leaky_relu && y.get(i * channels + channel) < 0;
        return Real(is_negative ? of_y * options.slope : of_y);
      };
      Real sum = 0;
      Real product = 0;
      for (Index i = 0; i < rows; ++i) {
        sum += gradient(i);
        product += gradient(i) * (Real(x.get(i * channels + channel)) - real(moments.mean)) * inverse;
      }
      EXPECT_NEAR(dbeta.get(channel), sum.convert_to<double>(), 1e-14);
      EXPECT_NEAR(dgamma.get(channel), product.convert_to<double>(), 1e-14);
      for (Index i = 0; i < rows; ++i) {
        Real expected = gradient(i);
        if (mask.get(i) != 0) {
          const Real normalized = (Real(x.get(i * channels + channel)) - real(moments.mean)) * inverse;
          expected -= (sum + normalized * product) / Real(static_cast<double>(selected));
        }
        expected *= Real(gamma.get(channel)) * inverse;
        EXPECT_NEAR(dx.get(i * channels + channel), expected.convert_to<double>(), 1e-14);
      }
    }
  }
}

TEST(MaskedElements, ThatSelectNothing) {
  const Tensor x(DType::float32, {2, 3, 2}, std::vector<double>(12, 1.5));
  const Tensor mask(DType::boolean, {2, 1, 2}, {0, 0, 0, 0});
  BatchNorm layer(3);
  Tensor y(DType::float32, {2, 3, 2});
  EXPECT_EQ(layer.forward(x.view(), y.view(), std::nullopt, Mask(mask.view())), (std::vector<Index>{0, 1, 2}));
  EXPECT_EQ(y.values(), std::vector<double>(12, 0.0));
  EXPECT_EQ(layer.running.mean, std::vector<double>(3, 0.0));
  EXPECT_EQ(layer.running.variance, std::vector<double>(3, 1.0));
  EXPECT_EQ(layer.running.batches_tracked, 0);
  Tensor dx(DType::float32, {2, 3, 2});
  layer.backward(x.view(), x.view(), dx.view(), std::nullopt, std::nullopt, Mask(mask.view()));
  EXPECT_EQ(dx.values(), std::vector<double>(12, 0.0));
  EXPECT_EQ(layer.gamma_gradient, std::vector<double>(3, 0.0));
  EXPECT_EQ(layer.beta_gradient, std::vector<double>(3, 0.0));
}

TEST(MaskedElements, InLayers) {
  Random random(5);
  const Index channels = 4;
  Tensor x(DType::float32, {6, channels, 9});
  Tensor dy(DType::float32, {6, channels, 9});
  Tensor mask(DType::boolean, {6, 9});
  for (Index i = 0; i < x.count(); ++i) {
    x.set(i, random.normal());
    dy.set(i, random.normal());
  }
  for (Index i = 0; i < mask.count(); ++i) mask.set(i, random.chance(0.5) ? 1 : 0);
  const Mask selected(std::as_const(mask).view());
  const Affine affine = {.mask = selected};
  BatchNorm layer(channels);
  Tensor y(DType::float32, x.shape());
  EXPECT_TRUE(layer.forward(std::as_const(x).view(), y.view(), std::nullopt, selected).empty());
  Tensor right(DType::float32, x.shape());
  const Statistics statistics = training(std::as_const(x).view(), right.view(), affine);
  EXPECT_TRUE(same_bits(y.values(), right.values()));
  RunningStatistics running(channels);
  EXPECT_TRUE(running.update(statistics).empty());
  EXPECT_EQ(layer.running.mean, running.mean);
  EXPECT_EQ(layer.running.variance, running.variance);

  Tensor dx(DType::float32, x.shape());
  layer.backward(std::as_const(dy).view(), std::as_const(x).view(), dx.view(), std::nullopt, std::nullopt, selected);
  backward(std::as_const(dy).view(), std::as_const(x).view(), statistics, affine, {.dx = right.view()});
  EXPECT_TRUE(same_bits(dx.values(), right.values()));
  // Without the mask x has other statistics than in the forward pass.
  EXPECT_NE(error_of([&] {
              layer.backward(std::as_const(dy).view(), std::as_const(x).view(), dx.view());
            }).find("x: has a mean of"),
            std::string::npos);
}

TEST(MaskedElements, OfBlocks) {
  Random random(15);
  for (int round = 0; round < 30; ++round) {
    const IndexList shape = random_shape(random, 9);
    const IndexList axes = random_axes(random, shape);
    Tensor x(DType::float32, shape);
    IndexList mask_shape = shape;
    for (const Index axis : axes) mask_shape[static_cast<std::size_t>(axis)] = 1;
    Tensor mask(DType::boolean, mask_shape);
    for (Index i = 0; i < x.count(); ++i) x.set(i, random.normal());
    for (Index i = 0; i < mask.count(); ++i) mask.set(i, random.chance(0.6) ? 1 : 0);
    const Options options = {.channel_axes = axes};
    Index channels = 1;
    for (const Index axis : axes) channels *= shape[static_cast<std::size_t>(axis)];
    PartialSums expected(channels);
    accumulate(expected, std::as_const(x).view(), Mask(std::as_const(mask).view()), options);
    Tensor right(DType::float32, shape);
    Affine affine = {.mask = Mask(std::as_const(mask).view())};
    const Statistics statistics = training(std::as_const(x).view(), right.view(), affine, options);
    PartialSums sums(channels);
    Tensor y(DType::float32, shape);
    for (const Box& box : random_boxes(random, shape)) {
      TensorView of_mask = std::as_const(mask).view();
      for (std::size_t axis = 0; axis < shape.size(); ++axis) {
        if (mask_shape[axis] != 1) of_mask = slice(of_mask, axis, box.begin[axis], box.size[axis]);
      }
      const Place place = {shape, box.begin};
      static_cast<void>(accumulate(sums, box.of(std::as_const(x).view()), place, Mask(of_mask), options));
      inference(box.of(std::as_const(x).view()), place, statistics, box.of(y.view()), {.mask = Mask(of_mask)}, options);
    }
    sums.add_count(expected.count());
    EXPECT_TRUE(sums == expected);
    if (statistics.count > 0) {
      EXPECT_TRUE(same_bits(y.values(), right.values()));
    }
  }
}

TEST(MaskedElements, InPlans) {
  const Tensor x(DType::float32, {4, 2}, {1, 2, 3, 4, 5, 6, 7, 80});
  const Tensor mask(DType::boolean, {4, 1}, {1, 1, 1, 0});
  Tensor y(DType::float32, {4, 2});
  const Affine affine = {.mask = Mask(mask.view())};
  const TrainingPlan plan(x.view(), y.view(), affine);
  Statistics found = {0, {0, 0}, {0, 0}, {0, 0}, {0, 0}};
  EXPECT_EQ(plan.run({.x = x.view().data, .y = y.view().data, .mask = mask.view().data}, mutable_view(found)), 3);
  EXPECT_EQ(found.mean, (std::vector<double>{3, 4}));
  EXPECT_EQ(error_of([&] { plan.run({.x = x.view().data, .y = y.view().data}, mutable_view(found)); }),
            "mask: is a null pointer; expected 4 elements");
}

TEST(MaskedElements, AreRefusedWhereTheyDoNotFit) {
  const Tensor x(DType::float32, {2, 3, 4}, std::vector<double>(24, 1.0));
  Tensor y(DType::float32, {2, 3, 4});
  const auto error = [&](const Tensor& mask) {
    return error_of([&] { static_cast<void>(training(x.view(), y.view(), {.mask = Mask(mask.view())})); });
  };
  EXPECT_EQ(error(Tensor(DType::uint8, {2, 1, 4})), "mask: has dtype uint8; expected bool");
  const std::string shapes = "; expected (2, 1, 4) or (2, 4), or 1 on some of these axes";
  EXPECT_EQ(error(Tensor(DType::boolean, {2, 3, 4})), "mask: has shape (2, 3, 4)" + shapes);
  EXPECT_EQ(error(Tensor(DType::boolean, {4})), "mask: has shape (4,)" + shapes);
  EXPECT_EQ(error(Tensor(DType::boolean, {4, 2})), "mask: has shape (4, 2)" + shapes);
  EXPECT_EQ(error_of([&] {
              static_cast<void>(
                  training(x.view(), y.view(), {.mask = Mask({y.view().data, DType::boolean, {2, 4}, {4, 1}})}));
            }).substr(0, 20),
            "y: overlaps mask; ex");
  EXPECT_EQ(
      error_of([&] {
        static_cast<void>(training(x.view(), y.view(), {.mask = Mask({nullptr, DType::boolean, {2, 4}, {4, 1}})}));
      }),
      "mask: is a null pointer; expected 8 elements");
  // A batch of one selected element has no unbiased variance.
  BatchNorm layer(3);
  const Tensor one(DType::boolean, {2, 4}, {0, 0, 0, 1, 0, 0, 0, 0});
  EXPECT_EQ(error_of([&] { layer.forward(x.view(), y.view(), std::nullopt, Mask(one.view())); }),
            "x: has one value per channel that the mask selects; expected more in training mode, as one has no "
            "unbiased variance");
  const Statistics statistics = training(x.view(), y.view());
  EXPECT_EQ(error_of([&] { backward(x.view(), x.view(), statistics, {.mask = Mask(one.view())}, {.dx = y.view()}); }),
            "statistics: are of 8 elements per channel; expected 1, as in x where the mask selects them");
}

}  // namespace
}  // namespace exactnorm::testing

// The derivative of an activation by its output: every result has the bits of the one by x and the residual, but where
// 16 bits round an output to a value of another derivative.
#include <gtest/gtest.h>

#include <array>
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

const IndexList shape = {6, 5, 7, 3};
constexpr Index channels = 5;

Tensor numbers(Random& random, DType dtype) {
  Tensor tensor =
      random.chance(0.5) ? Tensor(dtype, shape) : Tensor::strided(dtype, shape, random_strides(random, shape));
  for (Index i = 0; i < tensor.count(); ++i) tensor.set(i, random.normal());
  return tensor;
}

struct Results {
  explicit Results(DType dtype) : dx(dtype, shape), d_residual(dtype, shape) {}

  Tensor dx;
  Tensor d_residual;
  std::vector<double> dgamma = std::vector<double>(channels);
  std::vector<double> dbeta = std::vector<double>(channels);

  [[nodiscard]] Gradients gradients() {
    return {dx.view(), mutable_view(dgamma, {channels}), mutable_view(dbeta, {channels}), d_residual.view()};
  }
};

// One batch, with what both ways take.
class DerivativeByTheOutput : public ::testing::TestWithParam<DType> {
 protected:
  // `run(affine, gradients)` is a backward pass after a forward pass that has written y.
  template <typename Run>
  void check(const Run& run) {
    Results right(GetParam());
    run(affine(), right.gradients());
    Results found(GetParam());
    const Affine by_output = {gamma_.view(), std::nullopt, std::nullopt, mask_, std::as_const(y_).view()};
    run(by_output, found.gradients());
    EXPECT_TRUE(same_bits(found.dx.values(), right.dx.values()));
    EXPECT_TRUE(same_bits(found.d_residual.values(), right.d_residual.values()));
    EXPECT_EQ(found.dgamma, right.dgamma);
    EXPECT_EQ(found.dbeta, right.dbeta);
  }

  [[nodiscard]] Affine affine() const { return {gamma_.view(), beta_.view(), residual_.view(), mask_}; }
  [[nodiscard]] TensorView x() const { return x_.view(); }
  [[nodiscard]] TensorView dy() const { return dy_.view(); }

  Random random_{91};
  const Tensor x_ = numbers(random_, GetParam());
  const Tensor dy_ = numbers(random_, GetParam());
  const Tensor residual_ = numbers(random_, GetParam());
  Tensor y_ = numbers(random_, GetParam());
  const Tensor gamma_ = Tensor(DType::float32, {channels}, {1, -0.5, 0.25, -2, 1.5});
  const Tensor beta_ = Tensor(DType::float32, {channels}, {0.5, 0, -0.75, 1, 2});
  std::optional<Mask> mask_;
  const Options options_ = {.activation = Activation::relu};
};

TEST_P(DerivativeByTheOutput, OfMasks) {
  std::vector<std::uint8_t> selected(6 * 7 * 3);
  for (std::uint8_t& byte : selected) byte = random_.chance(0.6) ? 1 : 0;
  const TensorView view_of_mask = {selected.data(), DType::boolean, {6, 1, 7, 3}, {21, 21, 3, 1}};
  for (const MaskedOutput masked : {MaskedOutput::zero, MaskedOutput::normalized, MaskedOutput::untouched}) {
    SCOPED_TRACE(static_cast<int>(masked));
    mask_ = Mask(view_of_mask, masked);
    const Statistics statistics = training(x(), y_.view(), affine(), options_);
    check([&](const Affine& affine, const Gradients& gradients) {
      backward(dy(), x(), statistics, affine, gradients, options_);
    });
  }
}

TEST_P(DerivativeByTheOutput, OfSegments) {
  const Segments segments({0, 1, 1, 0, 2, 2}, 3);
  const std::vector<Statistics> statistics = segmented_training(x(), segments, y_.view(), affine(), options_);
  check([&](const Affine& affine, const Gradients& gradients) {
    segmented_backward(dy(), x(), segments, statistics, affine, gradients, options_);
  });
}

TEST_P(DerivativeByTheOutput, OfWeights) {
  const Tensor weights(DType::float32, {6, 1, 1, 1}, {1, 2, 0.5, 0, 3, 1});
  const Statistics statistics = weighted_training(x(), weights.view(), y_.view(), affine(), options_);
  check([&](const Affine& affine, const Gradients& gradients) {
    weighted_backward(dy(), x(), weights.view(), statistics, affine, gradients, options_);
  });
}

TEST_P(DerivativeByTheOutput, OfRenormalization) {
  Tensor other = numbers(random_, GetParam());
  Tensor unused(GetParam(), shape);
  const Statistics reference = training(std::as_const(other).view(), unused.view());
  const Renormalized forward = renormalizing_training(x(), reference, {}, y_.view(), affine(), options_);
  check([&](const Affine& affine, const Gradients& gradients) {
    renormalizing_backward(dy(), x(), forward, affine, gradients, options_);
  });
}

TEST_P(DerivativeByTheOutput, OfPlansAndSums) {
  for (const Activation activation : {Activation::none, Activation::relu, Activation::relu6, Activation::leaky_relu}) {
    if (activation == Activation::relu6 && GetParam() != DType::float32) continue;  // may round to 6
    SCOPED_TRACE(static_cast<int>(activation));
    const Options options = {.activation = activation, .slope = 0};
    const Statistics statistics = training(x(), y_.view(), affine(), options);
    for (const BackwardKind kind : {BackwardKind::training, BackwardKind::frozen}) {
      check([&](const Affine& affine, const Gradients& gradients) {
        const BackwardPlan plan(dy(), x(), affine, gradients, options, kind);
        const bool by_output = affine.output.has_value();
        plan.run({.dy = dy().data,
                  .x = x().data,
                  .gamma = affine.gamma->data,
                  .dx = gradients.dx->data,
                  .dgamma = gradients.dgamma->data,
                  .dbeta = gradients.dbeta->data,
                  .beta = by_output ? nullptr : affine.beta->data,
                  .residual = by_output ? nullptr : affine.residual->data,
                  .d_residual = gradients.d_residual->data,
                  .output = by_output ? affine.output->data : nullptr},
                 view(statistics));
      });
    }
    check([&](const Affine& affine, const Gradients& gradients) {
      PartialSums sums(channels, PartialSums::Kind::gradients);
      accumulate_gradients(sums, dy(), x(), statistics, affine, options);
      backward_from_sums(dy(), x(), statistics, sums, affine, gradients, options);
    });
  }
}

TEST_P(DerivativeByTheOutput, InPlace) {
  const Statistics statistics = training(x(), y_.view(), affine(), options_);
  Results right(GetParam());
  backward(dy(), x(), statistics, affine(), right.gradients(), options_);
  for (const bool of_dx : {false, true}) {
    Tensor over = y_;
    Results found(GetParam());
    Gradients gradients = found.gradients();
    (of_dx ? gradients.dx : gradients.d_residual) = over.view();
    backward(dy(), x(), statistics, {.gamma = gamma_.view(), .output = std::as_const(over).view()}, gradients,
             options_);
    EXPECT_TRUE(same_bits((of_dx ? over : found.dx).values(), right.dx.values()));
    EXPECT_TRUE(same_bits((of_dx ? found.d_residual : over).values(), right.d_residual.values()));
  }
}

// A y of 16 bits is where the derivative is taken, as in frameworks: at 6, where v was a little less.
TEST(DerivativeByARoundedOutput, IsTheOneThere) {
  const IndexList pair = {2, 1};
  const Tensor x(DType::bfloat16, pair, {-1, 1});
  const Tensor dy(DType::bfloat16, pair, {3, 5});
  const Tensor beta(DType::float32, {1}, {5});
  const Options options = {.activation = Activation::relu6};
  Tensor y(DType::bfloat16, pair);
  const Statistics statistics = training(x.view(), y.view(), {.beta = beta.view()}, options);
  EXPECT_EQ(y.values(), (std::vector<double>{4, 6}));
  Tensor at_input(DType::bfloat16, pair);
  backward_frozen(dy.view(), x.view(), statistics, {.beta = beta.view()}, {.dx = at_input.view()}, options);
  EXPECT_EQ(at_input.values(), (std::vector<double>{3, 5}));
  Tensor at_output(DType::bfloat16, pair);
  backward_frozen(dy.view(), x.view(), statistics, {.output = std::as_const(y).view()}, {.dx = at_output.view()},
                  options);
  EXPECT_EQ(at_output.values(), (std::vector<double>{3, 0}));
}

TEST_P(DerivativeByTheOutput, IsRefused) {
  const Statistics statistics = training(x(), y_.view(), {}, options_);
  const TensorView y = std::as_const(y_).view();
  EXPECT_EQ(error_of([&] { static_cast<void>(training(x(), y_.view(), {.output = x()})); }),
            "output: was given; expected none, as it is of backward passes");
  const auto of_backward = [&](const TensorView& output, const Options& options) {
    Results results(GetParam());
    return error_of([&] { backward(dy(), x(), statistics, {.output = output}, results.gradients(), options); });
  };
  EXPECT_EQ(of_backward(y, {.activation = Activation::silu}),
            "output: was given; expected none, as it does not tell the derivative of silu");
  EXPECT_EQ(of_backward(y, {.activation = Activation::hard_swish}),
            "output: was given; expected none, as it does not tell the derivative of hard_swish");
  EXPECT_EQ(of_backward(y, {.activation = Activation::leaky_relu, .slope = -0.5}),
            "output: was given; expected none, as it does not tell the derivative of leaky_relu with a slope of -0.5");
  EXPECT_EQ(of_backward(gamma_.view(), options_), "output: has shape (5,); expected (6, 5, 7, 3), the shape of x");
  const Tensor wide(DType::float64, shape);
  EXPECT_EQ(of_backward(wide.view(), options_),
            "output: has dtype float64; expected one that float32 holds, as x and dy are of such ones");
  Results results(GetParam());
  const BackwardPlan plan(dy(), x(), {.output = y}, {.dx = results.dx.view()}, options_);
  EXPECT_EQ(
      error_of([&] { plan.run({.dy = dy().data, .x = x().data, .dx = results.dx.view().data}, view(statistics)); }),
      "output: is a null pointer; expected 630 elements");
}

INSTANTIATE_TEST_SUITE_P(DTypes, DerivativeByTheOutput,
                         ::testing::Values(DType::float32, DType::bfloat16, DType::float16),
                         [](const auto& of) { return std::string(name_of(of.param)); });

}  // namespace
}  // namespace exactnorm::testing

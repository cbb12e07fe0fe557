// The layer with state: its modes, and what a backward pass belongs to.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "exactnorm/exactnorm.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"
#include "support/thread_ranks.h"

namespace exactnorm::testing {
namespace {

TEST(Layer, TrainsThenEvaluates) {
  BatchNorm layer(1);
  layer.gamma = {2};
  layer.beta = {1};
  layer.options.epsilon = 0;
  layer.running.momentum = 1;
  const std::vector<double> x = {-1, 1};
  const std::vector<double> dy = {1, 0};
  std::vector<double> y(2);
  std::vector<double> dx(2);
  const IndexList shape = {2, 1};
  EXPECT_NE(error_of([&] { layer.backward(view(dy, shape), view(x, shape), {}); }), "no error");
  EXPECT_TRUE(layer.is_training());
  EXPECT_TRUE(layer.forward(view(x, shape), mutable_view(y, shape)).empty());
  EXPECT_EQ(y, (std::vector<double>{-1, 3}));
  EXPECT_EQ(layer.running.mean[0], 0);
  EXPECT_EQ(layer.running.variance[0], 2);
  layer.set_training(false);  // the backward pass belongs to the forward that was
  layer.backward(view(dy, shape), view(x, shape), mutable_view(dx, shape));
  EXPECT_EQ(layer.gamma_gradient[0], -1);
  EXPECT_EQ(layer.beta_gradient[0], 1);
  EXPECT_EQ(dx, (std::vector<double>{0, 0}));  // two values have but one normalized form

  layer.running.variance = {4};
  layer.running.mean = {3};
  EXPECT_TRUE(layer.forward(view(x, shape), mutable_view(y, shape)).empty());
  EXPECT_EQ(y, (std::vector<double>{-3, -1}));
  EXPECT_EQ(layer.running.batches_tracked, 1);
  layer.backward(view(dy, shape), view(x, shape), mutable_view(dx, shape));
  EXPECT_EQ(dx, (std::vector<double>{1, 0}));
  EXPECT_EQ(layer.gamma_gradient[0], -2);
}

TEST(Layer, ChangesNothingWhenItThrows) {
  BatchNorm layer(2);
  const std::vector<float> x = {1, 2, 3, 4};
  std::vector<float> y(4, 9);
  const auto refuses = [&](const IndexList& shape) {
    EXPECT_THROW((void)layer.forward(view(x.data(), shape), mutable_view(y.data(), shape)), Error) << to_string(shape);
    EXPECT_EQ(y, (std::vector<float>{9, 9, 9, 9}));
    EXPECT_EQ(layer.running.mean, (std::vector<double>{0, 0}));
    EXPECT_EQ(layer.running.batches_tracked, 0);
  };
  refuses({1, 2});
  refuses({2, 1});
  refuses({1, 4});
  layer.running.momentum = 2;
  refuses({2, 2});
  layer.running.momentum = 0.1;
  layer.gamma = {1, 2, 3};
  refuses({2, 2});
  layer.gamma = {1, 2};
  layer.options.epsilon = -1;
  refuses({2, 2});
  layer.options.epsilon = 1e-5;
  EXPECT_THROW((void)layer.forward(view(x, {2, 2}), mutable_view(y.data(), {4, 1})), Error);
  EXPECT_EQ(layer.running.batches_tracked, 0);
  EXPECT_EQ(layer.forward(view(x, {2, 2}), mutable_view(y, {2, 2})).size(), 0U);
  EXPECT_EQ(layer.running.batches_tracked, 1);
  EXPECT_TRUE(
      layer.forward({nullptr, DType::float32, {0, 2}, {2, 1}}, {nullptr, DType::float32, {0, 2}, {2, 1}}).empty());
  EXPECT_EQ(layer.running.batches_tracked, 1);
}

Tensor random_tensor(Random& random, DType dtype, const IndexList& shape) {
  Tensor tensor(dtype, shape);
  for (Index i = 0; i < tensor.count(); ++i) tensor.set(i, 3 + random.normal());
  return tensor;
}

// The functions, with what the forward pass had.
std::vector<double> expected_dx(const Tensor& dy, const Tensor& x, const std::vector<double>& gamma,
                                const Options& options) {
  Tensor y(x.view().dtype, x.shape());
  Tensor dx(x.view().dtype, x.shape());
  const TensorView gammas = view(gamma, {static_cast<Index>(gamma.size())});
  const Statistics statistics = training(x.view(), y.view(), {gammas, {}}, options);
  backward(dy.view(), x.view(), statistics, {gammas}, {dx.view(), {}, {}}, options);
  return dx.values();
}

TEST(Layer, BackwardRefusesAnotherX) {
  Random random(811);
  const IndexList shape = {5, 3, 7};
  for (const DType dtype : {DType::float32, DType::float64}) {
    const Tensor x = random_tensor(random, dtype, shape);
    const Tensor other = random_tensor(random, dtype, shape);
    const Tensor dy = random_tensor(random, dtype, shape);
    BatchNorm layer(3);
    Tensor y(dtype, shape);
    Tensor dx(dtype, shape);
    dx.fill(std::vector<double>(105, 7));
    (void)layer.forward(x.view(), y.view());
    const auto error_with = [&](const TensorView& given) {
      return error_of([&] { layer.backward(dy.view(), given, dx.view()); });
    };
    for (const Tensor* wrong : std::array<const Tensor*, 3>{&other, &y, &dy}) {
      const std::string error = error_with(wrong->view());
      EXPECT_EQ(error.rfind("x: has a mean of ", 0), 0U) << error;
      EXPECT_NE(error.find("as x had in the latest forward pass"), std::string::npos) << error;
    }
    Tensor nearly = x;  // of the same mean, to float64
    nearly.set(0, x.get(0) + 1);
    nearly.set(1, x.get(1) - 1);
    EXPECT_EQ(error_with(std::as_const(nearly).view()).rfind("x: has a ", 0), 0U);
    EXPECT_EQ(error_with(slice(x.view(), 0, 0, 4)),
              "x: has shape (4, 3, 7); expected (5, 3, 7), as in the latest forward pass");
    EXPECT_EQ(dx.values(), std::vector<double>(105, 7)) << "written to, and then refused";
    EXPECT_EQ(layer.gamma_gradient, (std::vector<double>{0, 0, 0}));
    const Tensor copy = x;
    EXPECT_EQ(error_with(copy.view()), "no error");
    EXPECT_TRUE(same_bits(dx.values(), expected_dx(dy, x, layer.gamma, {})));
  }
}

TEST(Layer, BackwardRefusesAnXThatWasOverwritten) {
  Random random(812);
  Tensor x = random_tensor(random, DType::float32, {6, 2});
  const Tensor dy = random_tensor(random, DType::float32, {6, 2});
  BatchNorm layer(2);
  (void)layer.forward(std::as_const(x).view(), x.view());  // in place
  EXPECT_NE(error_of([&] { layer.backward(dy.view(), std::as_const(x).view(), {}); }), "no error");
  (void)layer.forward(std::as_const(x).view(), Tensor(DType::float32, {6, 2}).view());
  x.set(11, 1e30);  // the buffer is filled with other data
  EXPECT_NE(error_of([&] { layer.backward(dy.view(), std::as_const(x).view(), {}); }), "no error");
}

TEST(Layer, BackwardAcceptsTheChannelsThatAreNotFinite) {
  BatchNorm layer(2);
  const std::vector<float> x = {1, NAN, 2, 3, 5, INFINITY};
  std::vector<float> y(6);
  std::vector<float> dx(6);
  const std::vector<float> dy = {1, 0, 0, 0, 0, 0};
  EXPECT_EQ(layer.forward(view(x, {3, 2}), mutable_view(y, {3, 2})), std::vector<Index>{1});
  layer.backward(view(dy, {3, 2}), view(x, {3, 2}), mutable_view(dx, {3, 2}));
  EXPECT_TRUE(std::isfinite(dx[0]));
  EXPECT_TRUE(std::isnan(dx[1]));
}

// An optimizer, or a user, may change everything between the two.
TEST(Layer, BackwardHasTheSettingsOfItsForward) {
  Random random(813);
  const IndexList shape = {4, 4, 4};
  const Tensor x = random_tensor(random, DType::float64, shape);
  const Tensor dy = random_tensor(random, DType::float64, shape);
  Options options{.channel_axes = {2}, .epsilon = 0.5, .epsilon_placement = EpsilonPlacement::deviation};
  BatchNorm layer(4, options);
  layer.gamma = {1, 2, 3, 4};
  Tensor y(DType::float64, shape);
  Tensor dx(DType::float64, shape);
  (void)layer.forward(x.view(), y.view());
  layer.gamma = {0, 0, 0, 0};
  layer.options = {};
  layer.running = RunningStatistics(4);
  layer.backward(dy.view(), x.view(), dx.view());
  EXPECT_TRUE(same_bits(dx.values(), expected_dx(dy, x, {1, 2, 3, 4}, options)));
}

TEST(Layer, KeepsTheBiasedVarianceOfOneValue) {
  BatchNorm layer(2);
  layer.running.variance_kind = VarianceKind::biased;
  layer.running.momentum = 1;
  const std::vector<double> x = {3, 4};
  std::vector<double> y(2, 9);
  EXPECT_TRUE(layer.forward(view(x, {1, 2}), mutable_view(y, {1, 2})).empty());
  EXPECT_EQ(y, (std::vector<double>{0, 0}));
  EXPECT_EQ(layer.running.mean, x);
  EXPECT_EQ(layer.running.variance, (std::vector<double>{0, 0}));
  layer.running.variance_kind = VarianceKind::unbiased;
  EXPECT_EQ(error_of([&] {
              (void)layer.forward(view(x, {1, 2}), mutable_view(y, {1, 2}));
            }),
            "x: has one value per channel; expected more in training mode, as one has no unbiased variance");
}

// Where one rank has another x, all ranks say so, and none waits.
TEST(Layer, BackwardRefusesAnotherXOfOneRank) {
  ThreadRanks::run(3, [](Communicator& communicator) {
    SumExchange exchange(communicator, 2);
    BatchNorm layer(2);
    Random random(820 + static_cast<std::uint64_t>(communicator.rank()));
    const Tensor x = random_tensor(random, DType::float32, {4, 2});
    const Tensor other = random_tensor(random, DType::float32, {4, 2});
    Tensor y(DType::float32, {4, 2});
    Tensor dx(DType::float32, {4, 2}, std::vector<double>(8, 0));
    (void)layer.forward(exchange, x.view(), y.view());
    const TensorView given = communicator.rank() == 1 ? other.view() : x.view();
    const std::string error = error_of([&] { layer.backward(exchange, x.view(), given, dx.view()); });
    EXPECT_EQ(error.rfind("x on rank 1: has a mean of ", 0), 0U) << error;
    EXPECT_EQ(dx.values(), std::vector<double>(8, 0));
    EXPECT_EQ(error_of([&] { layer.backward(exchange, x.view(), x.view(), dx.view()); }), "no error");
  });
}

}  // namespace
}  // namespace exactnorm::testing

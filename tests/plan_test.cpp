// Plans: the bits of the functions, on memory that comes later, from several threads, and errors before anything is
// written.
#include "exactnorm/plan.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

namespace exactnorm::testing {
namespace {

TensorView without_memory(TensorView view) {
  view.data = nullptr;
  return view;
}
MutableTensorView without_memory(MutableTensorView view) {
  view.data = nullptr;
  return view;
}

// Tensors of one layout, and random contents with one channel far from zero and one that is constant.
class Problem {
 public:
  explicit Problem(Random& random) : shape_(shapes()[static_cast<std::size_t>(random.between(0, 4))]) {
    const auto rank = static_cast<Index>(shape_.size());
    options_.channel_axes = {random.between(0, rank - 1)};
    options_.threads = static_cast<int>(random.between(1, 3));
    if (random.chance(0.3)) options_.epsilon_placement = EpsilonPlacement::deviation;
    channels_ = shape_[static_cast<std::size_t>(options_.channel_axes[0])];
    const DType x_dtype = random.chance(0.7) ? DType::float32 : (random.chance(0.5) ? DType::float64 : DType::int8);
    const DType dtype = random.chance(0.7) ? DType::float32 : DType::float64;
    x = make(random, x_dtype, shape_);
    y = make(random, dtype, shape_);
    dy = make(random, dtype, shape_);
    dx = make(random, dtype, shape_);
    for (std::optional<Tensor>* parameter : {&gamma, &beta, &dgamma, &dbeta}) {
      *parameter = make(random, random.chance(0.5) ? DType::float32 : DType::float64, {channels_});
    }
    has_gamma = random.chance(0.7);
    has_beta = random.chance(0.7);
    refill(random);
  }

  void refill(Random& random) {
    for (Index i = 0; i < x->count(); ++i) {
      const IndexList at = unravel(i, shape_);
      const Index channel = at[static_cast<std::size_t>(options_.channel_axes[0])];
      const double value = channel == 1 ? 3 : random.normal() * 10 + (channel == 2 ? 1000 : 0);
      x->set(i, x->view().dtype == DType::int8 ? std::clamp(std::round(value), -100.0, 100.0) : value);
      dy->set(i, random.normal());
    }
    for (Index i = 0; i < channels_; ++i) {
      gamma->set(i, random.normal());
      beta->set(i, random.normal());
    }
  }

  [[nodiscard]] const Options& options() const { return options_; }
  [[nodiscard]] Index channels() const { return channels_; }
  [[nodiscard]] Affine affine() const {
    Affine affine;
    if (has_gamma) affine.gamma = in(gamma);
    if (has_beta) affine.beta = in(beta);
    return affine;
  }
  [[nodiscard]] Affine affine_without_memory() const {
    Affine affine = this->affine();
    if (affine.gamma) affine.gamma = without_memory(*affine.gamma);
    if (affine.beta) affine.beta = without_memory(*affine.beta);
    return affine;
  }
  [[nodiscard]] Gradients gradients() { return {dx->view(), dgamma->view(), dbeta->view()}; }
  [[nodiscard]] Gradients gradients_without_memory() {
    return {without_memory(dx->view()), without_memory(dgamma->view()), without_memory(dbeta->view())};
  }
  [[nodiscard]] ForwardPointers forward_pointers() {
    return {in(x).data, y->view().data, has_gamma ? in(gamma).data : nullptr, has_beta ? in(beta).data : nullptr};
  }
  [[nodiscard]] BackwardPointers backward_pointers() {
    return {in(dy).data,         in(x).data,         has_gamma ? in(gamma).data : nullptr, dx->view().data,
            dgamma->view().data, dbeta->view().data, has_beta ? in(beta).data : nullptr};
  }

  static TensorView in(const std::optional<Tensor>& tensor) { return std::as_const(*tensor).view(); }

  std::optional<Tensor> x, y, dy, dx, gamma, beta, dgamma, dbeta;
  bool has_gamma = true;
  bool has_beta = true;

 private:
  static const std::array<IndexList, 5>& shapes() {
    static const std::array<IndexList, 5> all = {{{33, 7}, {4, 5, 6}, {3, 4, 5, 6}, {64, 40, 20}, {500, 130}}};
    return all;
  }
  static Tensor make(Random& random, DType dtype, const IndexList& shape) {
    return random.chance(0.6) ? Tensor(dtype, shape) : Tensor::strided(dtype, shape, random_strides(random, shape));
  }

  IndexList shape_;
  Options options_;
  Index channels_ = 0;
};

Statistics empty_statistics(Index channels) {
  Statistics statistics;
  for (std::vector<double>* column :
       {&statistics.mean, &statistics.mean_residual, &statistics.variance, &statistics.inverse_deviation}) {
    column->assign(static_cast<std::size_t>(channels), -7);
  }
  return statistics;
}

TEST(Plan, GivesTheBitsOfTheFunctions) {
  Random random(881);
  for (int i = 0; i < 120 && !HasFailure(); ++i) {
    SCOPED_TRACE(i);
    Problem p(random);
    const TensorView x = without_memory(p.in(p.x));
    const TensorView dy = without_memory(p.in(p.dy));
    const MutableTensorView y = without_memory(p.y->view());
    const Affine affine = p.affine_without_memory();
    const TrainingPlan forward(x, y, affine, p.options());
    const BackwardPlan backward_plan(dy, x, affine, p.gradients_without_memory(), p.options());
    const BackwardPlan frozen_plan(dy, x, affine, p.gradients_without_memory(), p.options(), BackwardKind::frozen);
    EXPECT_EQ(forward.channels(), p.channels());
    for (int run = 0; run < 3; ++run) {
      p.refill(random);
      const Statistics expected = training(p.in(p.x), p.y->view(), p.affine(), p.options());
      const std::vector<double> expected_y = p.y->values();
      Statistics found = empty_statistics(p.channels());
      found.count = forward.count();
      found.epsilon_placement = p.options().epsilon_placement;
      forward.run(p.forward_pointers(), mutable_view(found));
      EXPECT_TRUE(same_bits(found, expected));
      EXPECT_TRUE(same_bits(p.y->values(), expected_y));

      const InferencePlan by_statistics(x, y, expected, p.affine(), p.options());
      by_statistics.run(p.in(p.x).data, p.y->view().data);
      const std::vector<double> planned_y = p.y->values();
      inference(p.in(p.x), expected, p.y->view(), p.affine(), p.options());
      EXPECT_TRUE(same_bits(p.y->values(), planned_y));

      for (const bool frozen : {false, true}) {
        (frozen ? backward_frozen : backward)(p.in(p.dy), p.in(p.x), expected, p.affine(), p.gradients(), p.options());
        const std::array<std::vector<double>, 3> wanted = {p.dx->values(), p.dgamma->values(), p.dbeta->values()};
        for (Tensor* output : {&*p.dx, &*p.dgamma, &*p.dbeta}) {
          for (Index at = 0; at < output->count(); ++at) output->set(at, -7);
        }
        (frozen ? frozen_plan : backward_plan).run(p.backward_pointers(), view(expected));
        EXPECT_TRUE(same_bits(p.dx->values(), wanted[0]));
        EXPECT_TRUE(same_bits(p.dgamma->values(), wanted[1]));
        EXPECT_TRUE(same_bits(p.dbeta->values(), wanted[2]));
      }
    }
    for (Tensor* tensor : {&*p.y, &*p.dx, &*p.dgamma, &*p.dbeta}) EXPECT_TRUE(tensor->guards_intact());
  }
}

TEST(Plan, RunsInPlace) {
  std::vector<float> x = {1, 2, 3, 4, 5, 7};
  const std::vector<float> before = x;
  std::vector<float> y(6);
  const TrainingPlan plan(view(x, {3, 2}), mutable_view(x, {3, 2}));
  Statistics expected = training(view(before, {3, 2}), mutable_view(y, {3, 2}));
  Statistics found = empty_statistics(2);
  found.count = 3;
  plan.run({x.data(), x.data(), nullptr, nullptr}, mutable_view(found));
  EXPECT_EQ(x, y);
  EXPECT_TRUE(same_bits(found, expected));
}

TEST(Plan, OfAnEmptyBatchGivesNaN) {
  const TensorView x = {nullptr, DType::float32, {0, 3}, {3, 1}};
  const MutableTensorView y = {nullptr, DType::float32, {0, 3}, {3, 1}};
  const TrainingPlan plan(x, y);
  EXPECT_EQ(plan.count(), 0);
  Statistics found = empty_statistics(3);
  plan.run({}, mutable_view(found));
  for (const double mean : found.mean) EXPECT_TRUE(std::isnan(mean));
  InferencePlan(x, y, empty_statistics(3)).run(nullptr, nullptr);
  std::vector<double> dbeta(3, 5);
  const BackwardPlan backward_plan(x, x, {}, {y, std::nullopt, mutable_view(dbeta, {3})});
  BackwardPointers at;
  at.dbeta = dbeta.data();
  backward_plan.run(at, view(found));
  EXPECT_EQ(dbeta, std::vector<double>(3, 0));
}

// One plan, several threads, each with memory of its own.
TEST(Plan, IsForSeveralThreads) {
  Random random(882);
  const IndexList shape = {40, 30, 9};
  const Index count = product(shape);
  std::vector<std::vector<float>> x(4);
  std::vector<std::vector<float>> y(4);
  std::vector<std::vector<float>> expected(4);
  for (std::size_t i = 0; i < x.size(); ++i) {
    for (Index j = 0; j < count; ++j) x[i].push_back(static_cast<float>(random.normal()));
    expected[i].resize(x[i].size());
    y[i].resize(x[i].size());
    static_cast<void>(training(view(x[i], shape), mutable_view(expected[i], shape)));
  }
  const TrainingPlan plan(view(x[0], shape), mutable_view(y[0], shape), {}, {.threads = 2});
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < x.size(); ++i) {
    threads.emplace_back([&, i] {
      Statistics statistics = empty_statistics(30);
      const TrainingPlan copy = plan;
      for (int run = 0; run < 20; ++run)
        copy.run({x[i].data(), y[i].data(), nullptr, nullptr}, mutable_view(statistics));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(y, expected);
}

// OpenMP's threads are not copied: the child would wait for them.
TEST(Plan, RunsInAProcessThatForkMade) {
  const IndexList shape = {200, 30, 20};
  std::vector<float> x(static_cast<std::size_t>(product(shape)));
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 37);
  std::vector<float> y(x.size());
  std::vector<float> again(x.size());
  Statistics statistics = empty_statistics(30);
  const TrainingPlan plan(view(x, shape), mutable_view(y, shape), {}, {.threads = 2});
  plan.run({x.data(), y.data(), nullptr, nullptr}, mutable_view(statistics));
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(60);  // where it waits for ever
    plan.run({x.data(), again.data(), nullptr, nullptr}, mutable_view(statistics));
    _exit(again == y ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
}

TEST(Plan, RefusesWhatFunctionsRefuse) {
  const std::vector<float> x(6);
  std::vector<float> y(6);
  const TensorView x_view = view(x, {3, 2});
  const MutableTensorView y_view = mutable_view(y, {3, 2});
  const MutableTensorView other = mutable_view(y, {2, 3});
  EXPECT_EQ(error_of([&] { static_cast<void>(TrainingPlan(x_view, other)); }),
            error_of([&] { static_cast<void>(training(x_view, other)); }));
  const Affine wrong = {view(x, {6}), std::nullopt};
  EXPECT_EQ(error_of([&] { static_cast<void>(TrainingPlan(x_view, y_view, wrong)); }),
            "gamma: has shape (6,); expected one element for each of the 2 channels");
  EXPECT_EQ(error_of([&] { static_cast<void>(InferencePlan(x_view, y_view, empty_statistics(5))); }),
            "statistics: have vectors of 5, 5, 5 and 5 values; expected one for each of the 2 channels");
  EXPECT_EQ(error_of([&] {
              static_cast<void>(BackwardPlan(x_view, x_view, {}, {other, std::nullopt, std::nullopt}));
            }),
            "dx: has shape (2, 3); expected (3, 2), the shape of x");
}

TEST(Plan, RefusesWrongAddressesBeforeItWrites) {
  std::vector<float> memory(40, 5);
  float* const x = memory.data();
  float* const y = x + 10;
  float* const gamma = x + 20;
  const IndexList shape = {3, 2};
  Statistics statistics = empty_statistics(2);
  const MutableStatisticsView columns = mutable_view(statistics);
  const Affine affine = {view(gamma, {2}), std::nullopt};
  const TrainingPlan plan(view(x, shape), mutable_view(y, shape), affine);
  const auto refusal = [&](const ForwardPointers& at, const MutableStatisticsView& to) {
    std::string text = error_of([&] { plan.run(at, to); });
    EXPECT_EQ(memory, std::vector<float>(40, 5));
    EXPECT_EQ(statistics.mean, std::vector<double>(2, -7));
    return text;
  };
  EXPECT_EQ(refusal({nullptr, y, gamma, nullptr}, columns), "x: is a null pointer; expected 6 elements");
  EXPECT_EQ(refusal({x, y, nullptr, nullptr}, columns), "gamma: is a null pointer; expected 2 elements");
  EXPECT_EQ(refusal({x, y, gamma, x}, columns),
            "beta: was given; expected a null pointer, as it is not among the plan's tensors");
  EXPECT_EQ(refusal({x, reinterpret_cast<std::byte*>(y) + 1, gamma, nullptr}, columns),
            "y: is not aligned; expected an address that is a multiple of 4 for float32");
  EXPECT_EQ(refusal({x, x + 1, gamma, nullptr}, columns),
            "y: overlaps x; expected separate memory or the very same view (address, strides and dtype)");
  EXPECT_EQ(refusal({x, gamma - 1, gamma, nullptr}, columns), "y: overlaps gamma; expected separate memory");
  MutableStatisticsView wrong = columns;
  wrong.variance = nullptr;
  EXPECT_EQ(refusal({x, y, gamma, nullptr}, wrong), "statistics: is a null pointer; expected 2 elements");
  wrong.variance = columns.mean + 1;
  EXPECT_EQ(refusal({x, y, gamma, nullptr}, wrong), "statistics: overlaps statistics; expected separate memory");
  alignas(8) std::array<std::byte, 64> bytes{};
  float* const odd_y = reinterpret_cast<float*>(bytes.data());
  wrong.variance = reinterpret_cast<double*>(bytes.data() + 16);
  EXPECT_EQ(refusal({x, odd_y, gamma, nullptr}, wrong), "statistics: overlaps y; expected separate memory");

  const InferencePlan inference_plan(view(x, shape), mutable_view(y, shape), empty_statistics(2));
  EXPECT_EQ(error_of([&] { inference_plan.run(x, x + 1); }),
            "y: overlaps x; expected separate memory or the very same view (address, strides and dtype)");
  const BackwardPlan backward_plan(view(x, shape), view(x, shape), {},
                                   {mutable_view(y, shape), mutable_view(gamma, {2}), std::nullopt});
  const auto backward_refusal = [&](const BackwardPointers& at) {
    std::string text = error_of([&] { backward_plan.run(at, view(statistics)); });
    EXPECT_EQ(memory, std::vector<float>(40, 5));
    return text;
  };
  EXPECT_EQ(backward_refusal({x, x, nullptr, y, y + 5, nullptr}), "dgamma: overlaps dx; expected separate memory");
  EXPECT_EQ(backward_refusal({x, x, nullptr, y, nullptr, nullptr}), "dgamma: is a null pointer; expected 2 elements");
  EXPECT_EQ(backward_refusal({x, x, gamma, y, gamma, nullptr}),
            "gamma: was given; expected a null pointer, as it is not among the plan's tensors");
}

}  // namespace
}  // namespace exactnorm::testing

#include "torch_plans.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace exactnorm::python::torch {

namespace {

// All that a plan depends on, as numbers.
class CallKey {
 public:
  void add(std::uint64_t number) { words_[size_++] = number; }
  void add(const TensorView& view) {
    add(static_cast<std::uint64_t>(view.dtype) << 8 | view.shape.size());
    for (const Index size : view.shape) add(static_cast<std::uint64_t>(size));
    for (const Index stride : view.strides) add(static_cast<std::uint64_t>(stride));
  }
  void add(const std::optional<TensorView>& view) { view ? add(*view) : add(absent); }
  // With channels on axis 1.
  void add(const Options& options) {
    add(std::bit_cast<std::uint64_t>(options.epsilon));
    add(std::bit_cast<std::uint64_t>(options.slope));
    add(static_cast<std::uint64_t>(options.threads) << 8 | static_cast<std::uint64_t>(options.activation));
  }

  [[nodiscard]] std::uint64_t hash() const noexcept {
    std::uint64_t result = size_;
    for (std::size_t i = 0; i < size_; ++i) result = std::rotl((result ^ words_[i]) * 0x9e3779b97f4a7c15, 29);
    return result;
  }
  friend bool operator==(const CallKey& a, const CallKey& b) noexcept {
    return a.size_ == b.size_ && std::equal(a.words_.begin(), a.words_.begin() + a.size_, b.words_.begin());
  }

 private:
  static constexpr std::uint64_t absent = ~std::uint64_t{0};
  static constexpr std::size_t words_of_view = 1 + 2 * maximum_rank;
  // x, dy and dx; gamma, beta and their gradients, of one axis; options; and a number.
  static constexpr std::size_t most_words = 3 * words_of_view + std::size_t{4} * 3 + 4;
  std::array<std::uint64_t, most_words> words_{};
  std::size_t size_ = 0;
};

template <typename Plan>
class PlanCache {
 public:
  // The plan of a key, from make() where it is none of the latest.
  template <typename Make>
  const Plan& find(const CallKey& key, const Make& make) {
    Slot& slot = slots_[key.hash() % slots_.size()];
    if (!slot.plan || !(slot.key == key)) slot = {key, make()};
    return *slot.plan;
  }

 private:
  struct Slot {
    CallKey key;
    std::optional<Plan> plan;
  };
  static constexpr std::size_t most_plans = 251;
  std::vector<Slot> slots_ = std::vector<Slot>(most_plans);
};

const void* data_of(const std::optional<TensorView>& view) { return view ? view->data : nullptr; }
void* data_of(const std::optional<MutableTensorView>& view) { return view ? view->data : nullptr; }

}  // namespace

Index run_training(const TensorView& x, const MutableTensorView& y, const Affine& affine, const Options& options,
                   const MutableStatisticsView& statistics) {
  thread_local PlanCache<TrainingPlan> plans;
  CallKey key;
  key.add(x);
  key.add(TensorView(y));
  key.add(affine.gamma);
  key.add(affine.beta);
  key.add(options);
  const TrainingPlan& plan = plans.find(key, [&] { return TrainingPlan(x, y, affine, options); });
  return plan.run({.x = x.data, .y = y.data, .gamma = data_of(affine.gamma), .beta = data_of(affine.beta)}, statistics);
}

void run_backward(const TensorView& dy, const TensorView& x, const Saved& saved, const Affine& affine,
                  const Gradients& gradients, const Options& options, BackwardKind kind) {
  const Index count = element_count(x.shape) / x.shape[1];
  if (kind == BackwardKind::training && saved.count != count) {
    throw Error("statistics", "are of " + std::to_string(saved.count) + " elements per channel; expected " +
                                  std::to_string(count) + ", as in x");
  }
  thread_local PlanCache<BackwardPlan> plans;
  CallKey key;
  key.add(dy);
  key.add(x);
  for (const std::optional<TensorView>& parameter : {affine.gamma, affine.beta}) key.add(parameter);
  for (const std::optional<MutableTensorView>& output : {gradients.dx, gradients.dgamma, gradients.dbeta}) {
    key.add(std::optional<TensorView>(output));
  }
  key.add(options);
  key.add(static_cast<std::uint64_t>(kind));
  const BackwardPlan& plan = plans.find(key, [&] { return BackwardPlan(dy, x, affine, gradients, options, kind); });
  plan.run({.dy = dy.data,
            .x = x.data,
            .gamma = data_of(affine.gamma),
            .dx = data_of(gradients.dx),
            .dgamma = data_of(gradients.dgamma),
            .dbeta = data_of(gradients.dbeta),
            .beta = data_of(affine.beta)},
           saved.statistics);
}

}  // namespace exactnorm::python::torch

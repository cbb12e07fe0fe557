#pragma once

#include <optional>

#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "torch_abi.h"

// Between a forward and a backward pass PyTorch keeps save_mean and save_invstd, one value per channel in the
// parameters' dtype. The statistics in float64 travel in front of them, in the same memory, and the bias behind them,
// where an activation's derivative depends on it.

namespace exactnorm::python::torch {

/// What a converted module's call asks for that PyTorch's operator has no arguments for.
struct ModuleStep {
  bool keeps_layout = false;  // whether y and dx are laid out as x is
  Activation activation = Activation::none;
  double slope = 0;
};

struct SavedStatistics {
  Tensor mean;               // of `dtype`, as PyTorch's operator returns it
  Tensor inverse_deviation;  // the same
};

/// The memory of both tensors, into which a forward pass writes its statistics.
class StatisticsMemory {
 public:
  /// `bias` is of `dtype`, or undefined. With an activation the tensors have one element more than channels: PyTorch's
  /// own formulas (batching rules, forward mode) know of no activation, and are to fail rather than to leave it out.
  StatisticsMemory(Index channels, DType dtype, const ModuleStep& step, const Tensor& bias);

  [[nodiscard]] MutableStatisticsView rows() const noexcept { return rows_; }
  [[nodiscard]] Index channels() const noexcept { return channels_; }
  /// Of statistics over `count` elements per channel, which the rows hold now.
  [[nodiscard]] SavedStatistics finish(Index count);

 private:
  [[nodiscard]] MutableTensorView part(Index row, Index size) const;

  Index channels_;
  DType dtype_;
  Index more_;
  Index front_ = 0;
  Tensor whole_;
  double* numbers_ = nullptr;
  MutableStatisticsView rows_;
};

struct Saved {
  StatisticsView statistics;  // in the memory of the tensor that was loaded from
  Index count = 0;
  ModuleStep step;
  std::optional<TensorView> bias;  // in the same memory; none without an activation
};

/// What is around a tensor that `finish` has made; none where it is another, a copy for example.
[[nodiscard]] std::optional<Saved> load(const Tensor& saved_mean, Index channels);

}  // namespace exactnorm::python::torch

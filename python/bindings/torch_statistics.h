#pragma once

#include <optional>

#include "exactnorm/statistics.h"
#include "torch_abi.h"

// Between a forward and a backward pass PyTorch keeps save_mean and save_invstd, one value per channel in the
// parameters' dtype. The statistics in float64 travel in front of them, in the same memory.

namespace exactnorm::python::torch {

struct SavedStatistics {
  Tensor mean;               // of `dtype`, as PyTorch's operator returns it
  Tensor inverse_deviation;  // the same
};

/// `keeps_layout` is for the backward pass: whether dx is laid out as x is.
[[nodiscard]] SavedStatistics save(const Statistics& statistics, DType dtype, bool keeps_layout);

struct Saved {
  Statistics statistics;
  bool keeps_layout;
};

/// What is in front of a tensor that `save` has made; none where it is another, a copy for example.
[[nodiscard]] std::optional<Saved> load(const Tensor& saved_mean, double epsilon);

}  // namespace exactnorm::python::torch

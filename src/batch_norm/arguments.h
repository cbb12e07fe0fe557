#pragma once

#include <optional>
#include <string>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/layer.h"
#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/tensor.h"

// What the operations ask of their arguments before anything is written.

namespace exactnorm {

struct Parameters {
  std::vector<double> gamma;
  std::vector<double> beta;
};

/// The values of a parameter, or `value` for each channel where there is none.
[[nodiscard]] std::vector<double> parameter_or(const std::string& name, const std::optional<TensorView>& parameter,
                                               double value, const IndexList& axes, const TensorView& x);
[[nodiscard]] Parameters read_affine(const Affine& affine, const IndexList& axes, const TensorView& x);

/// x, y and the parameters of the forward operations; returns the resolved channel axes.
[[nodiscard]] IndexList check_forward(const TensorView& x, const MutableTensorView& y, const Affine& affine,
                                      const Options& options);

/// One value for each channel in each vector, and an epsilon that can be.
void check_statistics(const Statistics& statistics, Index channels);

/// What an update of running statistics refuses whatever the batch.
void check_running(const RunningStatistics& running);

struct BackwardArguments {
  const TensorView& dy;
  const TensorView& x;
  const Statistics& statistics;
  const std::optional<TensorView>& gamma;
  const Gradients& gradients;
  const Options& options;
};

/// All arguments of a backward pass; returns the resolved channel axes.
[[nodiscard]] IndexList check_backward(const BackwardArguments& a, bool frozen);

}  // namespace exactnorm

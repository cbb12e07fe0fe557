#pragma once

#include <optional>
#include <vector>

#include "affine/apply.h"
#include "batch_norm/arguments.h"
#include "batch_norm/operation.h"
#include "exactnorm/options.h"
#include "exactnorm/plan.h"
#include "exactnorm/statistics.h"
#include "exactnorm/sums.h"

// The operations: what they need of their tensors' layouts, made once, and what they do with checked addresses.

namespace exactnorm {

class TrainingPass {
 public:
  /// Throws Error as ForwardArguments does.
  TrainingPass(const TensorView& x, const MutableTensorView& y, const Affine& affine, const Options& options);

  [[nodiscard]] const ForwardArguments& arguments() const noexcept { return arguments_; }
  /// Returns the elements per channel behind the statistics. Addresses are checked. With a reference, which has as many
  /// channels, the coefficients are those of batch renormalization.
  Index run(const ForwardPointers& at, const MutableStatisticsView& statistics,
            const std::optional<Reference>& reference = std::nullopt) const;

 private:
  ForwardArguments arguments_;
  Options options_;
  std::optional<OperationSchedule> schedule_;  // where there are elements
};

class InferencePass {
 public:
  /// Throws Error as ForwardArguments does.
  InferencePass(const TensorView& x, const MutableTensorView& y, const Affine& affine, const Options& options);

  [[nodiscard]] const ForwardArguments& arguments() const noexcept { return arguments_; }
  [[nodiscard]] CoefficientTable coefficients(const StatisticsView& statistics, const ForwardPointers& at) const;
  /// Addresses are checked; those of parameters are not looked at.
  void run(const ForwardPointers& at, const Coefficients& coefficients) const;

 private:
  ForwardArguments arguments_;
  ActivationFunction function_;
  std::optional<Schedule> schedule_;  // where there are elements
};

class BackwardPass {
 public:
  /// Throws Error as BackwardArguments does. Epsilon and its placement are those of the forward pass.
  BackwardPass(const TensorView& dy, const TensorView& x, const Affine& affine, const Gradients& gradients,
               const Options& options, BackwardKind kind, bool sums_are_given = false);

  [[nodiscard]] const BackwardArguments& arguments() const noexcept { return arguments_; }
  /// What the mask selects, or all elements.
  [[nodiscard]] Selection select(const BackwardPointers& at) const;
  /// Addresses are checked. `selection` is that of this call; `sums`, where they are given, are those of a whole batch
  /// of which x is a part, and the selection's count is that of the batch then.
  void run(const BackwardPointers& at, const StatisticsView& statistics, Selection selection,
           const PartialSums* sums = nullptr) const;

  /// Adds the sums that a later run takes as given to `sums`, which have the channels and the range of dy and x, and
  /// leaves their count alone. Returns the elements of each channel that were added. Addresses are checked.
  Index accumulate(const BackwardPointers& at, const StatisticsView& statistics, PartialSums& sums) const;

 private:
  // Whether dy goes through an activation; the step of a residual's gradient alone is a copy.
  [[nodiscard]] bool has_step() const noexcept {
    return options_.activation != Activation::none || arguments_.d_residual();
  }
  // Where there is an activation, what its derivative is taken of: the output, or, beside x, the residual.
  [[nodiscard]] const OptionalArgument& source() const noexcept;
  [[nodiscard]] bool takes_output() const noexcept { return source() && &source() == &arguments_.output(); }
  // The layouts of dy, x and the source.
  [[nodiscard]] std::vector<TensorView> inputs() const;
  [[nodiscard]] bool may_have_windows() const noexcept;
  // Whether the mask's other elements have a dx of their own, that of frozen statistics.
  [[nodiscard]] bool has_masked_dx() const noexcept {
    return arguments_.dx() && arguments_.mask() && !arguments_.mask()->leaves_out_gradients() && !is_frozen_;
  }
  // Whether outputs have only what the mask selects, and whether sums do.
  [[nodiscard]] bool selects_outputs() const noexcept { return selects_sums() || has_masked_dx(); }
  [[nodiscard]] bool selects_sums() const noexcept {
    return arguments_.mask() && arguments_.mask()->leaves_out_gradients();
  }
  // The layouts of what apply takes, for dx.
  [[nodiscard]] std::vector<TensorView> dx_views(bool is_frozen) const;
  class Inputs;
  [[nodiscard]] ApplyOperands apply_operands(const BackwardPointers& at, const Inputs& inputs, bool is_frozen) const;
  void write_masked_dx(const BackwardPointers& at, const StatisticsView& statistics, const Inputs& inputs,
                       const double* gamma, Selection selection) const;

  BackwardArguments arguments_;
  Options options_;
  bool is_frozen_;
  // Where there are elements: of all stages, or, where nothing is summed, of apply alone.
  std::optional<OperationSchedule> schedule_;
  std::optional<Schedule> gradient_alone_;  // of d_residual
  std::optional<Schedule> apply_alone_;
  std::optional<Schedule> masked_dx_;
};

}  // namespace exactnorm

#pragma once

#include <array>
#include <cstddef>
#include <optional>
#include <span>

#include "affine/activated_gradient.h"
#include "affine/activation_kernels.h"
#include "affine/activation_window.h"
#include "affine/apply_kernels.h"
#include "affine/coefficients.h"
#include "exactnorm/tensor.h"
#include "tensor/element_type.h"
#include "tensor/operand.h"
#include "tensor/scratch.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"
#include "traverse/selection.h"
#include "traverse/traversal.h"

namespace exactnorm {

/// Coefficients per channel, side by side as the kernels load them.
class CoefficientTable {
 public:
  explicit CoefficientTable(Index channels);
  /// The coefficients of slots that the formula looks at. `channels` are the channels of the slots' box.
  CoefficientTable(const Coefficients& coefficients, std::span<const Index> channels, const SlotMap& slots,
                   Formula formula);

  /// Columns of float64 coefficients from channel `first` on, of one direction, to be set.
  [[nodiscard]] ForwardColumns forward(Index first) noexcept {
    return {column(0) + first, column(1) + first, column(2) + first, column(3) + first};
  }
  [[nodiscard]] BackwardColumns backward(Index first) noexcept {
    return {column(0) + first, column(1) + first, column(2) + first, column(3) + first, column(4) + first};
  }
  /// To be called when the columns of `count` channels from `first` on have been set, and before they are used. Other
  /// threads may set other channels meanwhile.
  void finish_forward(Index first, Index count) { set_single(forward(first), count, single_targets(first)); }
  void finish_backward(Index first, Index count) { set_single(backward(first), count, single_targets(first)); }

  /// Windows, to be set.
  [[nodiscard]] WindowTargets windows() noexcept { return {single_column(5), single_column(6)}; }

  /// As the kernels take them, from channel 0 on.
  [[nodiscard]] Coefficients view() const noexcept;

 private:
  [[nodiscard]] double* column(Index which) const noexcept { return values_ + which * stride_; }
  [[nodiscard]] float* single_column(Index which) const noexcept { return single_values_ + which * stride_; }
  [[nodiscard]] SingleTargets single_targets(Index first) const noexcept {
    return {single_column(0) + first, single_column(1) + first, single_column(2) + first, single_column(3) + first,
            single_column(4) + first};
  }

  // From column to column. Not a power of two, as many numbers of channels are: the columns' entries for one channel
  // would compete for few places in the cache.
  Index stride_;
  // Five columns of float64 and seven of float32, of which only what is set is initialized. They start with cache
  // lines: vectors across two lines take longer to load.
  Scratch memory_;
  double* values_;
  float* single_values_;
};

/// The coefficients of a box's slots.
class SlotCoefficients {
 public:
  /// `coefficients` are of all channels, by their numbers, and outlive this.
  SlotCoefficients(const LoopNest& nest, const Box& box, const SlotMap& slots, const Coefficients& coefficients,
                   Formula formula);

  [[nodiscard]] const Coefficients& view() const noexcept { return view_; }

 private:
  std::optional<CoefficientTable> table_;  // where they do not follow each other as the slots do
  Coefficients view_;
};

/// Those of bn(x) in a step; none where that is not computed.
class StepCoefficients {
 public:
  StepCoefficients(const LoopNest& nest, const Box& box, const SlotMap& slots, const ActivationStep& step) {
    if (step.computes_input()) of_slots_.emplace(nest, box, slots, step.forward, Formula::forward);
  }

  [[nodiscard]] Coefficients view() const noexcept { return of_slots_ ? of_slots_->view() : Coefficients{}; }

 private:
  std::optional<SlotCoefficients> of_slots_;
};

/// What apply goes through, and what it computes.
class ApplyOperands {
 public:
  /// y of x.
  ApplyOperands(const Operand& x, const OutputOperand& out, Store store)
      : list_{x, {out.data, out.dtype}}, size_(2), out_(out), store_(store) {}
  /// dx of frozen statistics: dy stands in the place of x, whose dtype has a say in the type of the arithmetic.
  ApplyOperands(const Operand& dy, DType x, const OutputOperand& out, Store store) : ApplyOperands(dy, out, store) {
    is_wide_ = !dtype_fits_float32(x);
  }
  /// y of x, an activation and, where it has an address, the residual.
  ApplyOperands(const Operand& x, ActivationFunction function, const Operand& residual, const OutputOperand& out,
                Store store);
  /// dx of dy and x, by one of the gradients' formulas.
  ApplyOperands(const Operand& dy, const Operand& x, Formula formula, const OutputOperand& out, Store store)
      : list_{dy, x, {out.data, out.dtype}}, size_(3), out_(out), store_(store), formula_(formula) {}
  /// Of dy, x and, where the step has one, its source: dx through an activation. Its gradient takes the place of dy
  /// in the formula `gradient`, and that of x in `forward`; without a formula it is what is written. The step outlives
  /// this.
  ApplyOperands(const Operand& dy, const Operand& x, const Operand& source, const ActivationStep& step,
                std::optional<Formula> formula, const OutputOperand& out, Store store);

  /// What is written alone; it outlives this. Its bytes are the nest's operand after all others.
  void set_selection(const Selection* selection) noexcept { selection_ = selection; }
  [[nodiscard]] const Selection* selection() const noexcept { return selection_; }

  /// In the order of the constructors.
  [[nodiscard]] std::span<const Operand> all() const noexcept { return {list_.data(), size_}; }
  /// Of the elements that kernels take.
  [[nodiscard]] DType type() const noexcept;
  [[nodiscard]] const OutputOperand& out() const noexcept { return out_; }
  [[nodiscard]] Store store() const noexcept { return store_; }
  [[nodiscard]] Formula formula() const noexcept { return formula_; }

  /// What the formula takes: elements as they are; x, and an activation follows; the gradient of an activation. Or
  /// there is no formula.
  enum class Takes { elements, with_activation, activated_gradient, gradient_alone };
  [[nodiscard]] Takes takes() const noexcept { return takes_; }
  [[nodiscard]] ActivationFunction function() const noexcept { return function_; }
  [[nodiscard]] const ActivationStep& step() const noexcept { return *step_; }

 private:
  void add(const Operand& operand) noexcept { list_[size_++] = operand; }

  std::array<Operand, maximum_operands> list_;
  std::size_t size_ = 0;
  OutputOperand out_;
  Store store_;
  Formula formula_ = Formula::forward;
  Takes takes_ = Takes::elements;
  ActivationFunction function_;
  const ActivationStep* step_ = nullptr;
  const Selection* selection_ = nullptr;
  bool is_wide_ = false;
};

/// Writes one box of the output, from its end backwards. The nest is that of `operands.all()` and the selection;
/// `coefficients` are of all channels, by their numbers.
void apply_box(const LoopNest& nest, const Box& box, const ApplyOperands& operands, const Coefficients& coefficients);

}  // namespace exactnorm

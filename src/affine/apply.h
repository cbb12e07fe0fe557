#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "affine/apply_kernels.h"
#include "affine/coefficients.h"
#include "exactnorm/tensor.h"
#include "tensor/operand.h"
#include "tensor/scratch.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"
#include "traverse/traversal.h"

namespace exactnorm {

/// Coefficients per channel, side by side as the kernels load them.
class CoefficientTable {
 public:
  explicit CoefficientTable(Index channels);
  /// The coefficients of slots. `channels` are the channels of the slots' box.
  CoefficientTable(const Coefficients& coefficients, std::span<const Index> channels, const SlotMap& slots,
                   bool with_gradient);

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
  // Five columns each, of which only what is set is initialized. They start with cache lines: vectors across two lines
  // take longer to load.
  Scratch memory_;
  double* values_;
  float* single_values_;
};

/// What apply goes through.
class ApplyOperands {
 public:
  /// y of x, or, where dy is frozen statistics' gradient, dx of dy.
  ApplyOperands(const Operand& x, const OutputOperand& out, Store store)
      : list_{x, {out.data, out.dtype}}, size_(2), out_(out), store_(store) {}
  /// dx of x and dy.
  ApplyOperands(const Operand& x, const Operand& dy, const OutputOperand& out, Store store)
      : list_{x, dy, {out.data, out.dtype}}, size_(3), out_(out), store_(store) {}

  /// x, dy where given, out.
  [[nodiscard]] std::span<const Operand> all() const noexcept { return {list_.data(), size_}; }
  [[nodiscard]] bool has_dy() const noexcept { return size_ == 3; }
  [[nodiscard]] const OutputOperand& out() const noexcept { return out_; }
  [[nodiscard]] Store store() const noexcept { return store_; }

 private:
  std::array<Operand, maximum_operands> list_;
  std::size_t size_;
  OutputOperand out_;
  Store store_;
};

/// Writes one box of the output, from its end backwards. The nest is that of `operands.all()`; `coefficients` are of
/// all channels, by their numbers.
void apply_box(const LoopNest& nest, const Box& box, const ApplyOperands& operands, const Coefficients& coefficients);

}  // namespace exactnorm

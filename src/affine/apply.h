#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "affine/apply_kernels.h"
#include "exactnorm/tensor.h"
#include "sums/exact_finalize.h"
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
  void set(Index channel, const ForwardCoefficients& coefficients) noexcept {
    column(0)[channel] = coefficients.mean;
    column(1)[channel] = coefficients.scale;
    column(2)[channel] = coefficients.shift;
    column(3)[channel] = coefficients.variance;  // which only finish() reads
  }
  void set(Index channel, const BackwardCoefficients& coefficients) noexcept {
    column(0)[channel] = coefficients.mean;
    column(1)[channel] = coefficients.x_scale;
    column(2)[channel] = coefficients.shift;
    column(3)[channel] = coefficients.normalized_scale;
    column(4)[channel] = coefficients.dy_scale;
  }
  /// To be called when `channels` have been set, all in the same way, and before they are used. Other threads may
  /// set other channels meanwhile.
  void finish_forward(std::span<const Index> channels) { finish(channels, false); }
  void finish_backward(std::span<const Index> channels) { finish(channels, true); }

  /// As the kernels take them, from channel 0 on.
  [[nodiscard]] Coefficients view() const noexcept;

 private:
  [[nodiscard]] double* column(Index which) const noexcept { return values_ + which * stride_; }
  [[nodiscard]] float* single_column(Index which) const noexcept { return single_values_ + which * stride_; }
  void finish(std::span<const Index> channels, bool with_gradient);
  void finish(Index first, Index count, bool with_gradient);

  // From column to column. Not a power of two, as many numbers of channels are: the columns' entries for one channel
  // would compete for few places in the cache.
  Index stride_;
  // Five columns each, of which only what is set is initialized. They start with cache lines: vectors across two lines
  // take longer to load.
  std::unique_ptr<std::byte[]> memory_;
  double* values_;
  float* single_values_;
};

/// What apply goes through. Without dy it computes y of x.
struct ApplyOperands {
  std::vector<TensorView> views;  // x, dy where given, out
  MutableTensorView out;
  Store store = Store::cached;
};

/// Writes one box of `out`, from its end backwards. The nest is that of `operands.views`; `coefficients` are of all
/// channels, by their numbers.
void apply_box(const LoopNest& nest, const Box& box, const ApplyOperands& operands, const Coefficients& coefficients);

}  // namespace exactnorm

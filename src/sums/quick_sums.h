#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "exactnorm/tensor.h"
#include "sums/quick_kernels.h"
#include "sums/sum_operands.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"

namespace exactnorm {

/// The quick sums of some channels: of moments (x) or of gradients (dy, x), all of which float32 holds.
class QuickSums {
 public:
  /// Sums of nothing, with the memory kept.
  void reset(Index channels, std::size_t sums);

  [[nodiscard]] Index channels() const noexcept { return channels_; }
  [[nodiscard]] std::size_t sums() const noexcept { return sums_; }
  [[nodiscard]] QuickColumns columns() noexcept;

  /// Adds one box of a nest over `operands`, whose channels these are, in the order of channels_of. Moments are about
  /// `centres`, one for each channel, with room for a vector beyond the last; empty for zeros. Gradients are about the
  /// means that `centres` are.
  void add_box(const LoopNest& nest, const Box& box, const SumOperands& operands, std::span<const double> centres);

  /// Adds the sums of the same channels over other elements.
  void merge(QuickSums& other);

 private:
  void add_slot(Index channel, const QuickColumns& slots, Index slot);

  Index channels_ = 0;
  std::size_t sums_ = 0;
  Index stride_ = 0;            // from column to column
  std::vector<double> values_;  // the high column of each sum, then the low ones
};

/// Numbers that an array of channels has beyond the last one, for vectors.
inline constexpr Index quick_padding = 8;

}  // namespace exactnorm

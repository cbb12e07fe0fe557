#pragma once

#include <optional>
#include <span>
#include <vector>

#include "affine/apply.h"
#include "batch_norm/finalizers.h"
#include "batch_norm/reduction.h"
#include "exactnorm/options.h"
#include "exactnorm/sums.h"
#include "exactnorm/tensor.h"
#include "tensor/operand.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"

// How the stages are joined: accumulate, finalize, apply.

namespace exactnorm {

/// A stage's way through its tensors, made once for their shape, strides and dtypes: the loops, and how they are cut.
struct Schedule {
  LoopNest nest;
  Partition partition;
};
/// For sums of x, or of dy and x.
[[nodiscard]] Schedule accumulate_schedule(std::span<const TensorView> operands, const IndexList& channel_axes,
                                           const ChannelMap& channels, int threads);
/// For apply alone, whose operands are x, dy where there is one, and the output. The cut is that of memory.
[[nodiscard]] Schedule apply_schedule(std::span<const TensorView> operands, const IndexList& channel_axes,
                                      const ChannelMap& channels, int threads);

/// The way of accumulate, finalize and apply through whole tensors with elements.
struct OperationSchedule {
  /// `apply` are the operands of apply; none where nothing is written.
  OperationSchedule(std::span<const TensorView> operands, std::span<const TensorView> apply,
                    const IndexList& channel_axes, int threads);

  Schedule accumulate;
  std::optional<Schedule> apply_after;  // where all sums come before apply
  std::optional<LoopNest> apply_nest;   // where each group is applied right after it is finalized
};

/// Adds all of the operands to `sums`, by the channel numbers of the schedule: accumulate and combine alone. `sums` has
/// the range that the operands need, and its count is left alone.
void reduce_all(const Schedule& schedule, const SumOperands& operands, PartialSums& sums);

/// How the output of apply is stored, whose operands have `elements` elements each: past the caches where it will not
/// stay there, unless it is written over an input, whose lines are in cache already.
[[nodiscard]] Store store_of(std::span<const Operand> inputs, const OutputOperand& out, Index elements) noexcept;

/// Sets the coefficients of y for `count` channels from `first` on.
void set_forward(CoefficientTable& table, Index first, Index count, const StatisticsView& statistics,
                 const ParameterValues& parameters);

/// Applies the coefficients of all channels, by their numbers: apply alone.
void apply_all(const Schedule& schedule, const ApplyOperands& operands, const Coefficients& coefficients);

/// The same by the way of all stages, where nothing is summed.
void apply_alone(const OperationSchedule& schedule, const ApplyOperands& operands, const Coefficients& coefficients);

/// All stages: accumulates and finalizes each group of channels and, where `apply` is given, applies the coefficients
/// that `finalizer` has set.
void accumulate_finalize_apply(const OperationSchedule& schedule, const SumOperands& operands,
                               const ApplyOperands* apply, Finalizer& finalizer, const Coefficients& coefficients);

}  // namespace exactnorm

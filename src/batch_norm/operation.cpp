#include "batch_norm/operation.h"

#include <vector>

#include "batch_norm/reduction.h"
#include "sums/superaccumulator.h"
#include "traverse/cache_size.h"
#include "traverse/parallel.h"

namespace exactnorm {

Schedule accumulate_schedule(std::span<const TensorView> operands, const IndexList& channel_axes,
                             const ChannelMap& channels, int threads) {
  const LoopNest nest = make_loop_nest(operands, channel_axes, channels);
  return {nest, Partition(nest, size_of(operands.front().dtype), operands.size(), resolve_threads(threads))};
}

Schedule apply_schedule(std::span<const TensorView> operands, const IndexList& channel_axes, const ChannelMap& channels,
                        int threads) {
  const LoopNest nest = make_loop_nest(operands, channel_axes, channels);
  return {nest, Partition::in_memory_order(nest, resolve_threads(threads))};
}

OperationSchedule::OperationSchedule(std::span<const TensorView> operands, std::span<const TensorView> apply,
                                     const IndexList& channel_axes, int threads)
    : accumulate(
          accumulate_schedule(operands, channel_axes, number_channels(channel_axes, operands.front().shape), threads)) {
  if (apply.empty()) return;
  const LoopNest nest = make_loop_nest(apply, channel_axes, number_channels(channel_axes, operands.front().shape));
  const Partition& partition = accumulate.partition;
  // Apply can follow right after a group is finalized where both walks cut the tensor alike, and where no two threads
  // write neighbouring parts of rows: the hardware's prefetchers would fetch what the other one is about to write.
  const bool parts_of_rows = nest.channels_innermost() && partition.groups() > 1 && partition.threads() > 1;
  if (partition.pieces() == 1 && !parts_of_rows && same_loops(accumulate.nest, nest)) {
    apply_nest = nest;
  } else {
    apply_after = Schedule{nest, Partition::in_memory_order(nest, resolve_threads(threads))};
  }
}

void reduce_all(const Schedule& schedule, const SumOperands& operands, PartialSums& sums) {
  // Groups own their channels, so that threads never meet in one.
  reduce_groups_exactly(schedule.nest, schedule.partition, operands,
                        [&](Index, std::span<const Index> numbers, const PartialSums& group) {
                          for (std::size_t at = 0; at < numbers.size(); ++at) {
                            PartialSumsAccess::add_channel(sums, numbers[at], group, static_cast<Index>(at));
                          }
                        });
}

Store store_of(std::span<const Operand> inputs, const OutputOperand& out, Index elements) noexcept {
  auto bytes = static_cast<Index>(size_of(out.dtype));
  bool in_place = false;
  for (const Operand& input : inputs) {
    bytes += static_cast<Index>(size_of(input.dtype));
    in_place = in_place || input.data == out.data;
  }
  return !in_place && elements * bytes > last_level_cache_size() ? Store::streamed : Store::cached;
}

void set_forward(CoefficientTable& table, Index first, Index count, const StatisticsView& statistics,
                 const ParameterValues& parameters) {
  set_forward_columns(from_channel(statistics, first), parameters.gamma + first, parameters.beta + first, count,
                      table.forward(first));
  table.finish_forward(first, count);
}

void apply_all(const Schedule& schedule, const ApplyOperands& operands, const Coefficients& coefficients) {
  const Partition& partition = schedule.partition;
  // Backwards: what was read last, in a walk over the sums, is in cache still.
  parallel_for(partition.groups(), partition.threads(), Order::backwards,
               [&](Index group, int) { apply_box(schedule.nest, partition.box(group, 0), operands, coefficients); });
}

void apply_alone(const OperationSchedule& schedule, const ApplyOperands& operands, const Coefficients& coefficients) {
  apply_all(
      schedule.apply_after ? *schedule.apply_after : Schedule{*schedule.apply_nest, schedule.accumulate.partition},
      operands, coefficients);
}

void accumulate_finalize_apply(const OperationSchedule& schedule, const SumOperands& operands,
                               const ApplyOperands* apply, Finalizer& finalizer, const Coefficients& coefficients) {
  const auto& [nest, partition] = schedule.accumulate;
  reduce_groups(nest, partition, operands, finalizer, [&](Index group) {
    if (schedule.apply_nest) {
      apply_box(*schedule.apply_nest, schedule.accumulate.partition.box(group, 0), *apply, coefficients);
    }
  });
  if (schedule.apply_after) apply_all(*schedule.apply_after, *apply, coefficients);
}

}  // namespace exactnorm

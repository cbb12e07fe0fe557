#include "batch_norm/operation.h"

#include <utility>
#include <vector>

#include "batch_norm/reduction.h"
#include "sums/superaccumulator.h"
#include "tensor/checks.h"
#include "traverse/cache_size.h"
#include "traverse/parallel.h"

namespace exactnorm {

namespace {

Partition partition_of(const LoopNest& nest, std::span<const TensorView> operands, int threads) {
  return {nest, size_of(operands.front().dtype), resolve_threads(threads)};
}

}  // namespace

void reduce_all(std::span<const TensorView> operands, const IndexList& channel_axes, const ChannelMap& channels,
                int threads, PartialSums& sums) {
  const LoopNest nest = make_loop_nest(operands, channel_axes, channels);
  const Partition partition = partition_of(nest, operands, threads);
  // Groups own their channels, so that threads never meet in one.
  reduce_groups_exactly(nest, partition, operands, sums.kind(),
                        [&](Index, std::span<const Index> numbers, const PartialSums& group) {
                          for (std::size_t at = 0; at < numbers.size(); ++at) {
                            PartialSumsAccess::add_channel(sums, numbers[at], group, static_cast<Index>(at));
                          }
                        });
}

ApplyOperands apply_operands(const TensorView& x, const std::optional<TensorView>& dy, const MutableTensorView& out) {
  const auto bytes = [&](DType dtype) { return element_count(x.shape) * static_cast<Index>(size_of(dtype)); };
  const Index all = bytes(x.dtype) + bytes(out.dtype) + (dy ? bytes(dy->dtype) : 0);
  const bool in_place = out.data == x.data || (dy && out.data == dy->data);
  std::vector<TensorView> views;
  views.reserve(maximum_operands);
  views.push_back(x);
  if (dy) views.push_back(*dy);
  views.push_back(out);
  return {std::move(views), out, !in_place && all > last_level_cache_size() ? Store::streamed : Store::cached};
}

void set_forward(CoefficientTable& table, std::span<const Index> channels, const Statistics& statistics,
                 const std::vector<double>& gamma, const std::vector<double>& beta) {
  for (const Index channel : channels) {
    const auto at = static_cast<std::size_t>(channel);
    table.set(channel, forward_coefficients(channel_of(statistics, channel), gamma[at], beta[at]));
  }
  table.finish_forward(channels);
}

void apply_all(const ApplyOperands& operands, const IndexList& channel_axes, const ChannelMap& channels, int threads,
               const Coefficients& coefficients) {
  const LoopNest nest = make_loop_nest(operands.views, channel_axes, channels);
  const Partition partition = Partition::in_memory_order(nest, resolve_threads(threads));
  // Backwards: what was read last, in a walk over the sums, is in cache still.
  parallel_for(partition.groups(), partition.threads(), Order::backwards,
               [&](Index group, int) { apply_box(nest, partition.box(group, 0), operands, coefficients); });
}

void accumulate_finalize_apply(std::span<const TensorView> operands, const ApplyOperands* apply,
                               const IndexList& channel_axes, PartialSums::Kind kind, int threads, Finalizer& finalizer,
                               const Coefficients& coefficients) {
  const ChannelMap channels = number_channels(channel_axes, operands.front().shape);
  const LoopNest nest = make_loop_nest(operands, channel_axes, channels);
  const LoopNest apply_nest = apply != nullptr ? make_loop_nest(apply->views, channel_axes, channels) : nest;
  const Partition partition = partition_of(nest, operands, threads);
  // Apply can follow right after a group is finalized where both walks cut the tensor alike, and where no two threads
  // write neighbouring parts of rows: the hardware's prefetchers would fetch what the other one is about to write.
  const bool parts_of_rows = nest.channels_innermost() && partition.groups() > 1 && partition.threads() > 1;
  const bool together = apply != nullptr && partition.pieces() == 1 && !parts_of_rows && same_loops(nest, apply_nest);
  reduce_groups(nest, partition, operands, kind, finalizer, [&](Index group) {
    if (together) apply_box(apply_nest, partition.box(group, 0), *apply, coefficients);
  });
  if (apply != nullptr && !together) apply_all(*apply, channel_axes, channels, threads, coefficients);
}

}  // namespace exactnorm

#include "batch_norm/operation.h"

#include <algorithm>
#include <vector>

#include "combine/accumulator.h"
#include "plan/cache_size.h"
#include "plan/parallel.h"
#include "reduce/reduce.h"
#include "tensor/checks.h"

namespace exactnorm {

namespace {

Partition partition_of(const LoopNest& nest, const TensorView& x, int threads) {
  return {nest, size_of(x.dtype), resolve_threads(threads)};
}

// Reduces every group, in as many pieces as the partition says, and calls consume(group, channels, sums)
// once for each group with its merged sums.
template <typename Consume>
void reduce_groups(const LoopNest& nest, const Partition& partition, std::span<const TensorView> operands,
                   PartialSums::Kind kind, const Consume& consume) {
  const PartialSums::Range range = range_for(operands);
  const auto reduce_piece = [&](Index group, Index piece, std::vector<Index>& channels) {
    const Box box = partition.box(group, piece);
    channels = channels_of(nest, box);
    PartialSums sums(static_cast<Index>(channels.size()), kind, range);
    reduce_box(nest, box, operands, sums);
    return sums;
  };
  if (partition.pieces() == 1) {
    parallel_for(partition.groups(), partition.threads(), [&](Index group) {
      std::vector<Index> channels;
      const PartialSums sums = reduce_piece(group, 0, channels);
      consume(group, channels, sums);
    });
    return;
  }
  const Index pieces = partition.pieces();
  std::vector<PartialSums> parts(static_cast<std::size_t>(partition.groups() * pieces), PartialSums(0, kind, range));
  parallel_for(partition.groups() * pieces, partition.threads(), [&](Index task) {
    std::vector<Index> channels;
    parts[static_cast<std::size_t>(task)] = reduce_piece(task / pieces, task % pieces, channels);
  });
  parallel_for(partition.groups(), partition.threads(), [&](Index group) {
    PartialSums& sums = parts[static_cast<std::size_t>(group * pieces)];
    for (Index piece = 1; piece < pieces; ++piece) sums.merge(parts[static_cast<std::size_t>(group * pieces + piece)]);
    consume(group, channels_of(nest, partition.box(group, 0)), sums);
  });
}

void map_piece(const LoopNest& nest, const Box& box, const MapOperands& operands,
               const MapCoefficients& coefficients) {
  const std::vector<Index> channels = channels_of(nest, box);
  const bool consecutive = std::adjacent_find(channels.begin(), channels.end(),
                                              [](Index a, Index b) { return b != a + 1; }) == channels.end();
  if (consecutive) {
    map_box(nest, box, operands, coefficients.from(channels.front()));
  } else {
    map_box(nest, box, operands, gather(coefficients, channels).view());
  }
}

}  // namespace

void reduce_all(std::span<const TensorView> operands, const IndexList& channel_axes, const ChannelMap& channels,
                int threads, PartialSums& sums) {
  const LoopNest nest = make_loop_nest(operands, channel_axes, channels);
  const Partition partition = partition_of(nest, operands.front(), threads);
  // Groups own their channels, so that threads never meet in one.
  reduce_groups(nest, partition, operands, sums.kind(),
                [&](Index, const std::vector<Index>& numbers, const PartialSums& group) {
                  for (std::size_t slot = 0; slot < numbers.size(); ++slot) {
                    PartialSumsAccess::add_channel(sums, numbers[slot], group, static_cast<Index>(slot));
                  }
                });
}

MapOperands map_operands(const TensorView& x, const std::optional<TensorView>& dy, const MutableTensorView& out) {
  const auto bytes = [&](DType dtype) { return element_count(x.shape) * static_cast<Index>(size_of(dtype)); };
  const Index all = bytes(x.dtype) + bytes(out.dtype) + (dy ? bytes(dy->dtype) : 0);
  const bool in_place = out.data == x.data || (dy && out.data == dy->data);
  return {x, dy, out, !in_place && all > last_level_cache_size() ? Store::streamed : Store::cached};
}

void map_all(const MapOperands& operands, const IndexList& channel_axes, const ChannelMap& channels, int threads,
             const MapCoefficients& coefficients) {
  const LoopNest nest = make_map_nest(operands, channel_axes, channels);
  const Partition partition = Partition::in_memory_order(nest, resolve_threads(threads));
  const Index groups = partition.groups();
  // Backwards: what was read last, in a walk over the sums, is in cache still.
  parallel_for(groups, partition.threads(),
               [&](Index group) { map_piece(nest, partition.box(groups - 1 - group, 0), operands, coefficients); });
}

void reduce_solve_map(std::span<const TensorView> operands, const MapOperands* map, const IndexList& channel_axes,
                      PartialSums::Kind kind, int threads, const SolveChannel& solve,
                      const MapCoefficients& coefficients) {
  const ChannelMap channels = number_channels(channel_axes, operands.front().shape);
  const LoopNest nest = make_loop_nest(operands, channel_axes, channels);
  const Partition partition = partition_of(nest, operands.front(), threads);
  const auto solve_group = [&](const std::vector<Index>& numbers, const PartialSums& sums) {
    for (std::size_t slot = 0; slot < numbers.size(); ++slot) solve(sums, static_cast<Index>(slot), numbers[slot]);
  };
  const LoopNest map_nest = map != nullptr ? make_map_nest(*map, channel_axes, channels) : nest;
  // A group can be mapped right after its reduction where both walks cut the tensor alike.
  const bool together = map != nullptr && partition.pieces() == 1 && same_loops(nest, map_nest);
  reduce_groups(nest, partition, operands, kind,
                [&](Index group, const std::vector<Index>& numbers, const PartialSums& sums) {
                  solve_group(numbers, sums);
                  if (together) map_piece(map_nest, partition.box(group, 0), *map, coefficients);
                });
  if (map != nullptr && !together) map_all(*map, channel_axes, channels, threads, coefficients);
}

}  // namespace exactnorm

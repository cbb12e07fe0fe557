#include "batch_norm/operation.h"

#include <vector>

#include "combine/accumulator.h"
#include "plan/parallel.h"
#include "reduce/reduce.h"

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

void map_piece(const LoopNest& nest, const Box& box, const MapOperands& operands, const FillCoefficients& fill) {
  const std::vector<Index> channels = channels_of(nest, box);
  CoefficientTable table(static_cast<Index>(channels.size()));
  for (std::size_t slot = 0; slot < channels.size(); ++slot) fill(table, static_cast<Index>(slot), channels[slot]);
  map_box(nest, box, operands, table);
}

void map_partition(const LoopNest& nest, const Partition& partition, const MapOperands& operands,
                   const FillCoefficients& fill) {
  const Index pieces = partition.pieces();
  parallel_for(partition.groups() * pieces, partition.threads(),
               [&](Index task) { map_piece(nest, partition.box(task / pieces, task % pieces), operands, fill); });
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

void map_all(const MapOperands& operands, const IndexList& channel_axes, const ChannelMap& channels, int threads,
             const FillCoefficients& fill) {
  const LoopNest nest = make_map_nest(operands, channel_axes, channels);
  map_partition(nest, partition_of(nest, operands.x, threads), operands, fill);
}

void reduce_solve_map(std::span<const TensorView> operands, const MapOperands* map, const IndexList& channel_axes,
                      PartialSums::Kind kind, int threads, const SolveChannel& solve, const FillCoefficients& fill) {
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
                  if (together) map_piece(map_nest, partition.box(group, 0), *map, fill);
                });
  if (map != nullptr && !together) map_partition(map_nest, partition_of(map_nest, map->x, threads), *map, fill);
}

}  // namespace exactnorm

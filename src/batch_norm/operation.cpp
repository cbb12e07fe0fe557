#include "batch_norm/operation.h"

#include <algorithm>
#include <iterator>
#include <memory>
#include <numeric>
#include <vector>

#include "reduce/reduce.h"
#include "tensor/checks.h"
#include "traverse/cache_size.h"
#include "traverse/parallel.h"

namespace exactnorm {

namespace {

Partition partition_of(const LoopNest& nest, std::span<const TensorView> operands, int threads) {
  return {nest, size_of(operands.front().dtype), resolve_threads(threads), most_channels(nest, operands)};
}

// Reduces every group, in as many pieces as the partition says, and calls consume(group, channels, sums)
// once for each group with its sums.
template <typename Consume>
void reduce_groups(const LoopNest& nest, const Partition& partition, std::span<const TensorView> operands,
                   PartialSums::Kind kind, const Consume& consume) {
  const PartialSums::Range range = range_for(operands);
  if (partition.pieces() == 1) {
    parallel_for(partition.groups(), partition.threads(), Order::forwards, [&](Index group, int) {
      const Box box = partition.box(group, 0);
      const std::vector<Index> channels = channels_of(nest, box);
      // One for each thread, whose memory is kept from call to call.
      thread_local ChannelSums sums(0, kind, range);
      sums.reset(static_cast<Index>(channels.size()), kind, range);
      reduce_box(nest, box, operands, sums);
      consume(group, channels, sums);
    });
    return;
  }
  // Each thread has sums of its own for each group of which it gets a piece, to which it adds all that it gets.
  const Index groups = partition.groups();
  std::vector<std::vector<std::unique_ptr<ChannelSums>>> parts(static_cast<std::size_t>(groups));
  for (auto& part : parts) part.resize(static_cast<std::size_t>(partition.threads()));
  std::vector<std::vector<Index>> channels;
  for (Index group = 0; group < groups; ++group) channels.push_back(channels_of(nest, partition.box(group, 0)));
  parallel_for(groups * partition.pieces(), partition.threads(), Order::forwards, [&](Index task, int thread) {
    const auto group = static_cast<std::size_t>(task / partition.pieces());
    std::unique_ptr<ChannelSums>& sums = parts[group][static_cast<std::size_t>(thread)];
    if (!sums) sums = std::make_unique<ChannelSums>(static_cast<Index>(channels[group].size()), kind, range);
    reduce_box(nest, partition.box(task / partition.pieces(), task % partition.pieces()), operands, *sums);
  });
  parallel_for(groups, partition.threads(), Order::forwards, [&](Index group, int) {
    std::vector<std::unique_ptr<ChannelSums>>& part = parts[static_cast<std::size_t>(group)];
    // Every group has a piece, and so a thread that had one.
    const auto merged = std::find_if(part.begin(), part.end(), [](const auto& sums) { return sums != nullptr; });
    for (auto other = std::next(merged); other != part.end(); ++other) {
      if (*other) (*merged)->merge(**other);
    }
    consume(group, channels[static_cast<std::size_t>(group)], **merged);
  });
}

void map_piece(const LoopNest& nest, const Box& box, const MapOperands& operands, const MapCoefficients& coefficients) {
  if (const std::optional<Index> first = first_of_consecutive(nest, box)) {
    map_box(nest, box, operands, coefficients.from(*first));
  } else {
    map_box(nest, box, operands, gather(coefficients, channels_of(nest, box)).view());
  }
}

// A group whose sums have just been taken: from its end backwards, as that is what is nearest in cache.
void map_group(const LoopNest& nest, const Box& box, const MapOperands& operands, const MapCoefficients& coefficients) {
  constexpr Index part_elements = 32768;
  Index elements = 1;
  std::size_t cut = box.size();
  for (std::size_t i = box.size(); i-- > 0;) {
    elements *= box[i].size;
    if (!nest.loops[i].is_channel) cut = i;
  }
  const Index parts = cut == box.size() ? 1 : std::clamp<Index>(elements / part_elements, 1, box[cut].size);
  for (Index part = parts; part-- > 0;) {
    Box piece = box;
    if (parts > 1) {
      const Index first = box[cut].size * part / parts;
      piece[cut] = {box[cut].begin + first, box[cut].size * (part + 1) / parts - first};
    }
    map_piece(nest, piece, operands, coefficients);
  }
}

}  // namespace

void reduce_all(std::span<const TensorView> operands, const IndexList& channel_axes, const ChannelMap& channels,
                int threads, PartialSums& sums) {
  const LoopNest nest = make_loop_nest(operands, channel_axes, channels);
  const Partition partition = partition_of(nest, operands, threads);
  // Groups own their channels, so that threads never meet in one.
  reduce_groups(nest, partition, operands, sums.kind(),
                [&](Index, const std::vector<Index>& numbers, const ChannelSums& group) {
                  for (std::size_t slot = 0; slot < numbers.size(); ++slot) {
                    group.add_to(sums, numbers[slot], static_cast<Index>(slot));
                  }
                });
}

MapOperands map_operands(const TensorView& x, const std::optional<TensorView>& dy, const MutableTensorView& out) {
  const auto bytes = [&](DType dtype) { return element_count(x.shape) * static_cast<Index>(size_of(dtype)); };
  const Index all = bytes(x.dtype) + bytes(out.dtype) + (dy ? bytes(dy->dtype) : 0);
  const bool in_place = out.data == x.data || (dy && out.data == dy->data);
  return {x, dy, out, !in_place && all > last_level_cache_size() ? Store::streamed : Store::cached};
}

std::vector<Index> all_channels(Index count) {
  std::vector<Index> channels(static_cast<std::size_t>(count));
  std::iota(channels.begin(), channels.end(), 0);
  return channels;
}

void set_forward(CoefficientTable& table, std::span<const Index> channels, const Statistics& statistics,
                 const std::vector<double>& gamma, const std::vector<double>& beta) {
  for (const Index channel : channels) {
    const auto at = static_cast<std::size_t>(channel);
    table.set(channel, solve_forward(channel_of(statistics, channel), gamma[at], beta[at]));
  }
  table.finish_forward(channels);
}

void map_all(const MapOperands& operands, const IndexList& channel_axes, const ChannelMap& channels, int threads,
             const MapCoefficients& coefficients) {
  const LoopNest nest = make_map_nest(operands, channel_axes, channels);
  const Partition partition = Partition::in_memory_order(nest, resolve_threads(threads));
  // Backwards: what was read last, in a walk over the sums, is in cache still.
  parallel_for(partition.groups(), partition.threads(), Order::backwards,
               [&](Index group, int) { map_piece(nest, partition.box(group, 0), operands, coefficients); });
}

void reduce_solve_map(std::span<const TensorView> operands, const MapOperands* map, const IndexList& channel_axes,
                      PartialSums::Kind kind, int threads, SolveChannels solve, const MapCoefficients& coefficients) {
  const ChannelMap channels = number_channels(channel_axes, operands.front().shape);
  const LoopNest nest = make_loop_nest(operands, channel_axes, channels);
  const Partition partition = partition_of(nest, operands, threads);
  const LoopNest map_nest = map != nullptr ? make_map_nest(*map, channel_axes, channels) : nest;
  // A group can be mapped right after its reduction where both walks cut the tensor alike.
  const bool together = map != nullptr && partition.pieces() == 1 && same_loops(nest, map_nest);
  reduce_groups(nest, partition, operands, kind,
                [&](Index group, const std::vector<Index>& numbers, ChannelSums& sums) {
                  solve(sums, numbers);
                  if (together) map_group(map_nest, partition.box(group, 0), *map, coefficients);
                });
  if (map != nullptr && !together) map_all(*map, channel_axes, channels, threads, coefficients);
}

}  // namespace exactnorm

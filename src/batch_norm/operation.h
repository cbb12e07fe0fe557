#pragma once

#include <functional>
#include <span>

#include "exactnorm/options.h"
#include "exactnorm/partial_sums.h"
#include "exactnorm/tensor.h"
#include "map/map.h"
#include "plan/loop_nest.h"
#include "plan/partition.h"
#include "solve/solve.h"

// How the rooms are joined: plan, reduce, combine, solve, map.

namespace exactnorm {

/// Adds all of x, or of dy and x, to `sums`, which number their channels as `channels` says: the reduce
/// and combine rooms alone. `sums` has the range that the operands need, and its count is left alone.
void reduce_all(std::span<const TensorView> operands, const IndexList& channel_axes, const ChannelMap& channels,
                int threads, PartialSums& sums);

/// Maps all channels: the map room alone. coefficients(table, slot, channel) fills in one channel.
using FillCoefficients = std::function<void(CoefficientTable& table, Index slot, Index channel)>;
void map_all(const MapOperands& operands, const IndexList& channel_axes, const ChannelMap& channels, int threads,
             const FillCoefficients& fill);

/// The whole walk. For each group of channels: reduces it, calls solve(sums, slot, channel) for each of its
/// channels, and, if `map` is given, fills coefficients and maps it, while the group is in cache.
using SolveChannel = std::function<void(const PartialSums& sums, Index slot, Index channel)>;
void reduce_solve_map(std::span<const TensorView> operands, const MapOperands* map, const IndexList& channel_axes,
                      PartialSums::Kind kind, int threads, const SolveChannel& solve, const FillCoefficients& fill);

}  // namespace exactnorm

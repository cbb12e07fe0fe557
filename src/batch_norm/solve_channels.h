#pragma once

#include <span>
#include <vector>

#include "combine/channel_sums.h"
#include "exactnorm/options.h"
#include "exactnorm/partial_sums.h"
#include "exactnorm/statistics.h"
#include "solve/solve.h"

// From exact sums to statistics and gradients of a group of channels: many at a time where their sums are short, each
// by itself where not.

namespace exactnorm {

/// Sets the statistics of `channels`, whose sums over `count` elements each are those of `sums`, in that order.
void solve_channels(ChannelSums& sums, const std::vector<Index>& channels, Index count, const Options& options,
                    Statistics& statistics);

/// What a backward pass needs of the sums of `channels`, in that order.
[[nodiscard]] std::vector<GradientSums> gradient_sums_of(ChannelSums& sums, const std::vector<Index>& channels,
                                                         const Statistics& statistics);

/// The same of all channels of long sums.
void solve_channels(const PartialSums& sums, const Options& options, Statistics& statistics);
[[nodiscard]] std::vector<GradientSums> gradient_sums_of(const PartialSums& sums, const Statistics& statistics);

/// Rounds the statistics of `channels` to the grid of sums/grid.h.
void put_on_grid(Statistics& statistics, std::span<const Index> channels, const Options& options);

}  // namespace exactnorm

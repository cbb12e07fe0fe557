#pragma once

#include <algorithm>

#include "placement.h"

namespace exactnorm::bench {

/// The most channels of a group.
inline constexpr Index group_size = 16;

/// Calls `visit(first, count)` for groups of channels that lie side by side in memory, which are single channels
/// where none do, with several threads.
template <typename Visit>
void for_channel_groups(const Placement& at, int threads, const Visit& visit) {
  const Index adjacent = at.block > 1 ? at.block : group_size;
  const Index step = at.channels_are_adjacent() ? std::min(adjacent, group_size) : 1;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (Index first = 0; first < at.channels; first += step) visit(first, std::min(step, at.channels - first));
}

/// Calls `visit(n, h, w, offset)` for every pixel; `offset` is that of the channel `first` there.
template <typename Visit>
void for_pixels(const Placement& at, Index first, const Visit& visit) {
  for (Index n = 0; n < at.batch; ++n) {
    for (Index h = 0; h < at.height; ++h) {
      const Index row = n * at.batch_stride + at.channel_offset(first) + h * at.height_stride;
      for (Index w = 0; w < at.width; ++w) visit(n, h, w, row + w * at.width_stride);
    }
  }
}

}  // namespace exactnorm::bench

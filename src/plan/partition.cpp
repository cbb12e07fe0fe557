#include "plan/partition.h"

#include <algorithm>

namespace exactnorm {

namespace {

// Bytes that the neighbouring channels of a group should span at least: a page. With less, several groups
// would fetch the same cache lines, or step from page to page for a few lines each.
constexpr Index group_bytes = 4096;
// The most channels of a group whose elements are gathered in a tile for each: these have to share a cache.
constexpr Index gathered_channels = 64;
// Work below this many elements is not worth waking another thread for.
constexpr Index elements_per_thread = 16384;

// Elements of a stretch of memory that a thread takes at a time.
constexpr Index memory_piece = 65536;

Index ceil_divide(Index a, Index b) { return (a + b - 1) / b; }

}  // namespace

Partition::Partition(const LoopNest& nest, std::size_t element_size, int threads) {
  Index elements = 1;
  for (const Loop& loop : nest.loops) {
    sizes_.push_back(loop.size);
    elements *= loop.size;
  }
  threads_ = static_cast<int>(std::clamp<Index>(elements / elements_per_thread, 1, threads));

  // One channel at a time, except where a step of a loop spans less than group_bytes.
  Index span = static_cast<Index>(element_size);
  Index group_channels = 1;
  group_steps_ = sizes_;
  std::size_t longest_reduced = sizes_.size();
  for (std::size_t i = sizes_.size(); i-- > 0;) {
    const Loop& loop = nest.loops[i];
    if (loop.is_channel) {
      const Index most = nest.channels_innermost() ? loop.size : std::max<Index>(gathered_channels / group_channels, 1);
      group_steps_[i] = std::min({ceil_divide(group_bytes, span), most, loop.size});
      group_channels *= group_steps_[i];
      groups_ *= ceil_divide(loop.size, group_steps_[i]);
    } else if (longest_reduced == sizes_.size() || loop.size > sizes_[longest_reduced]) {
      longest_reduced = i;
    }
    span = std::min<Index>(span * loop.size, group_bytes);
  }
  if (groups_ < 2 * threads_ && longest_reduced < sizes_.size()) {
    piece_loop_ = longest_reduced;
    pieces_ = std::min(ceil_divide(2 * threads_, groups_), sizes_[longest_reduced]);
  }
}

Partition Partition::in_memory_order(const LoopNest& nest, int threads) {
  Partition partition;
  Index elements = 1;
  for (const Loop& loop : nest.loops) {
    partition.sizes_.push_back(loop.size);
    elements *= loop.size;
  }
  partition.threads_ = static_cast<int>(std::clamp<Index>(elements / elements_per_thread, 1, threads));
  // Not more than it takes for all threads to end at about the same time, and not more than a part of a cache.
  const Index wanted = std::clamp<Index>(elements / (4 * partition.threads_), elements_per_thread, memory_piece);
  Index inner = 1;
  partition.group_steps_ = partition.sizes_;
  for (std::size_t i = partition.sizes_.size(); i-- > 0;) {
    const Index size = partition.sizes_[i];
    partition.group_steps_[i] = std::clamp<Index>(wanted / inner, 1, size);
    partition.groups_ *= ceil_divide(size, partition.group_steps_[i]);
    inner *= size;
  }
  return partition;
}

Box Partition::box(Index group, Index piece) const {
  Box box(sizes_.size());
  for (std::size_t i = sizes_.size(); i-- > 0;) {
    const Index parts = ceil_divide(sizes_[i], group_steps_[i]);
    box[i].begin = group % parts * group_steps_[i];
    box[i].size = std::min(group_steps_[i], sizes_[i] - box[i].begin);
    group /= parts;
  }
  if (pieces_ > 1) {
    const Index size = sizes_[piece_loop_];
    const Index begin = size * piece / pieces_;
    box[piece_loop_] = {begin, size * (piece + 1) / pieces_ - begin};
  }
  return box;
}

std::vector<Index> channels_of(const LoopNest& nest, const Box& box) {
  std::vector<Index> channels = {nest.channel_offset};
  for (std::size_t i = 0; i < nest.loops.size(); ++i) {
    const Loop& loop = nest.loops[i];
    if (!loop.is_channel) continue;
    std::vector<Index> next;
    next.reserve(channels.size() * static_cast<std::size_t>(box[i].size));
    for (const Index channel : channels) {
      for (Index step = 0; step < box[i].size; ++step) {
        next.push_back(channel + (box[i].begin + step) * loop.channel_stride);
      }
    }
    channels = std::move(next);
  }
  return channels;
}

}  // namespace exactnorm

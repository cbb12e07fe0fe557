#include "traverse/partition.h"

#include <algorithm>
#include <numeric>

#include "simd/cache_line.h"
#include "traverse/tuning.h"

namespace exactnorm {

namespace {

Index ceil_divide(Index a, Index b) { return (a + b - 1) / b; }

}  // namespace

Partition::Partition(const LoopNest& nest, std::size_t element_size, std::size_t operands, int threads) {
  Index elements = 1;
  for (const Loop& loop : nest.loops) {
    sizes_.push_back(loop.size);
    elements *= loop.size;
  }
  threads_ = static_cast<int>(std::clamp<Index>(elements / elements_per_thread, 1, threads));
  const bool is_cached = elements * static_cast<Index>(operands) <= cached_elements;

  // One channel at a time, except where a step of a loop spans less than group_bytes.
  Index span = static_cast<Index>(element_size);
  Index group_channels = 1;
  Index group_elements = elements;
  for (const Loop& loop : nest.loops) {
    if (loop.is_channel) group_elements /= loop.size;
  }
  const Index worthwhile = std::min(group_worth, elements / (8 * threads_));
  group_steps_ = sizes_;
  std::size_t longest_reduced = sizes_.size();
  for (std::size_t i = sizes_.size(); i-- > 0;) {
    const Loop& loop = nest.loops[i];
    if (loop.is_channel) {
      const Index most =
          nest.channels_innermost() ? loop.size : std::max<Index>(most_group_channels / group_channels, 1);
      // As many as span a page, or as make the group worth its overhead.
      Index wanted = std::max(ceil_divide(group_bytes, span), ceil_divide(worthwhile, group_elements));
      if (i + 1 == sizes_.size() && group_elements > few_rows) wanted = std::max(wanted, longest_row);
      if (i + 1 == sizes_.size() && is_cached) {
        const Index share = ceil_divide(loop.size, threads_);
        if (share >= narrowest_part) wanted = ceil_divide(share, line_size<float>) * line_size<float>;
      }
      group_steps_[i] = std::min({wanted, most, loop.size});
      group_channels *= group_steps_[i];
      group_elements *= group_steps_[i];
      groups_ *= ceil_divide(loop.size, group_steps_[i]);
    } else if (longest_reduced == sizes_.size() || loop.size > sizes_[longest_reduced]) {
      longest_reduced = i;
    }
    span = std::min<Index>(span * loop.size, group_bytes);
  }
  const Index enough_groups = is_cached ? threads_ : 2 * threads_;
  if (groups_ < enough_groups && longest_reduced < sizes_.size()) {
    piece_loop_ = longest_reduced;
    // Some for each thread, so that one that is held up can be helped out; small enough that the last of
    // them are in cache when apply comes back to them.
    const Index wanted = std::max(ceil_divide(2 * threads_, groups_), ceil_divide(elements, groups_ * memory_piece));
    pieces_ = threads_ == 1 ? 1 : std::min(wanted, sizes_[longest_reduced]);
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

Box Partition::whole_box(Index group) const {
  Box box(sizes_.size());
  for (std::size_t i = sizes_.size(); i-- > 0;) {
    const Index parts = ceil_divide(sizes_[i], group_steps_[i]);
    box[i].begin = group % parts * group_steps_[i];
    box[i].size = std::min(group_steps_[i], sizes_[i] - box[i].begin);
    group /= parts;
  }
  return box;
}

Box Partition::box(Index group, Index piece) const {
  Box box = whole_box(group);
  if (pieces_ > 1) {
    const Index size = sizes_[piece_loop_];
    const Index begin = size * piece / pieces_;
    box[piece_loop_] = {begin, size * (piece + 1) / pieces_ - begin};
  }
  return box;
}

std::array<Index, maximum_operands> offsets_of(const LoopNest& nest, const Box& box) noexcept {
  std::array<Index, maximum_operands> offsets = nest.offsets;
  for (std::size_t i = 0; i < nest.loops.size(); ++i) {
    for (std::size_t j = 0; j < maximum_operands; ++j) offsets[j] += box[i].begin * nest.loops[i].strides[j];
  }
  return offsets;
}

std::vector<Index> channels_of(const LoopNest& nest, const Box& box) {
  std::vector<Index> channels;
  list_channels(nest, box, channels);
  return channels;
}

void list_channels(const LoopNest& nest, const Box& box, std::vector<Index>& channels) {
  Index count = 1;
  for (std::size_t i = 0; i < nest.loops.size(); ++i) {
    if (nest.loops[i].is_channel) count *= box[i].size;
  }
  if (const std::optional<Index> first = first_of_consecutive(nest, box)) {
    channels.resize(static_cast<std::size_t>(count));
    std::iota(channels.begin(), channels.end(), *first);
    return;
  }
  channels.assign(static_cast<std::size_t>(count), nest.channel_offset);
  Index inner = 1;
  for (std::size_t i = nest.loops.size(); i-- > 0;) {
    const Loop& loop = nest.loops[i];
    if (!loop.is_channel) continue;
    // Each step of this loop stands for `inner` channels in a row, again and again.
    for (std::size_t at = 0; at < channels.size();) {
      for (Index step = 0; step < box[i].size; ++step) {
        const Index number = (box[i].begin + step) * loop.channel_stride;
        for (Index j = 0; j < inner; ++j) channels[at++] += number;
      }
    }
    inner *= box[i].size;
  }
}

std::optional<Index> first_of_consecutive(const LoopNest& nest, const Box& box) {
  Index first = nest.channel_offset;
  Index count = 1;
  for (std::size_t i = nest.loops.size(); i-- > 0;) {
    const Loop& loop = nest.loops[i];
    if (!loop.is_channel) continue;
    if (box[i].size > 1 && loop.channel_stride != count) return std::nullopt;
    first += box[i].begin * loop.channel_stride;
    count *= box[i].size;
  }
  return first;
}

}  // namespace exactnorm

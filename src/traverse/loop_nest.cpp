#include "traverse/loop_nest.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

namespace exactnorm {

ChannelMap number_channels(const IndexList& channel_axes, const IndexList& shape) {
  ChannelMap map;
  for (std::size_t i = 0; i < shape.size(); ++i) map.strides.push_back(0);
  Index stride = 1;
  for (std::size_t i = channel_axes.size(); i-- > 0;) {
    const auto axis = static_cast<std::size_t>(channel_axes[i]);
    map.strides[axis] = stride;
    stride *= shape[axis];
  }
  return map;
}

namespace {

// How far a loop moves in the operand that it moves furthest in: a broadcast operand has no say.
Index reach(const Loop& loop) {
  Index furthest = 0;
  for (const Index stride : loop.strides) furthest = std::max(furthest, std::abs(stride));
  return furthest;
}

bool can_merge(const Loop& outer, const Loop& inner) {
  if (outer.is_channel != inner.is_channel) return false;
  if (outer.channel_stride != inner.channel_stride * inner.size) return false;
  for (std::size_t i = 0; i < maximum_operands; ++i) {
    if (outer.strides[i] != inner.strides[i] * inner.size) return false;
  }
  return true;
}

}  // namespace

LoopNest make_loop_nest(std::span<const TensorView> operands, const IndexList& channel_axes,
                        const ChannelMap& channels) {
  LoopNest nest;
  nest.channel_offset = channels.offset;
  const TensorView& first = operands.front();
  ShortList<Loop> loops;
  for (std::size_t axis = 0; axis < first.rank(); ++axis) {
    Loop loop;
    loop.size = first.shape[axis];
    loop.is_channel =
        std::find(channel_axes.begin(), channel_axes.end(), static_cast<Index>(axis)) != channel_axes.end();
    if (loop.size == 1) continue;
    if (loop.is_channel) loop.channel_stride = channels.strides[axis];
    for (std::size_t i = 0; i < operands.size(); ++i) loop.strides[i] = operands[i].strides[axis];
    // A reduced axis may be walked from either end; upwards merges with its neighbours.
    if (!loop.is_channel && loop.strides[0] < 0) {
      for (std::size_t i = 0; i < operands.size(); ++i) {
        nest.offsets[i] += (loop.size - 1) * loop.strides[i];
        loop.strides[i] = -loop.strides[i];
      }
    }
    loops.push_back(loop);
    // Sorted by insertion; those that reach equally far stay in the order of axes.
    for (std::size_t i = loops.size() - 1; i > 0 && reach(loops[i]) > reach(loops[i - 1]); --i) {
      std::swap(loops[i], loops[i - 1]);
    }
  }
  for (const Loop& loop : loops) {
    if (!nest.loops.empty() && can_merge(nest.loops.back(), loop)) {
      Loop& outer = nest.loops.back();
      outer.size *= loop.size;
      outer.strides = loop.strides;
      outer.channel_stride = loop.channel_stride;
    } else {
      nest.loops.push_back(loop);
    }
  }
  if (nest.loops.empty()) nest.loops.push_back({.size = 1});
  return nest;
}

bool same_loops(const LoopNest& a, const LoopNest& b) {
  return a.channel_offset == b.channel_offset &&
         std::equal(a.loops.begin(), a.loops.end(), b.loops.begin(), b.loops.end(), [](const Loop& x, const Loop& y) {
           return x.size == y.size && x.is_channel == y.is_channel && x.channel_stride == y.channel_stride;
         });
}

}  // namespace exactnorm

#pragma once

#include <array>
#include <cstddef>
#include <span>

#include "exactnorm/tensor.h"
#include "traverse/short_list.h"

namespace exactnorm {

/// The most tensors that one walk goes through together: dy, x, a residual, an output and a mask.
inline constexpr std::size_t maximum_operands = 5;

/// One loop of the nest: how far each tensor, and the channel number, move from one step to the next.
struct Loop {
  Index size = 0;
  std::array<Index, maximum_operands> strides{};  // elements
  Index channel_stride = 0;                       // 0 where is_channel is false
  bool is_channel = false;
};

/// Where the channels of a view are numbered: channel = offset + sum of index * stride over its axes,
/// with a stride of 0 on the reduced ones. A whole tensor numbers its own channels from 0; a piece of a
/// larger tensor numbers them as the whole does.
struct ChannelMap {
  Index offset = 0;
  IndexList strides;  // one per axis of the view
};

/// Row-major numbering of the (resolved) channel axes in the order in which they are listed.
[[nodiscard]] ChannelMap number_channels(const IndexList& channel_axes, const IndexList& shape);

/// A walk over one or more tensors of one shape, in canonical form: loops sorted by how far they move in
/// memory, slowest first, axes that are adjacent in memory and of one kind merged, sizes of one dropped.
/// Most dense layouts become [outer][channel][inner] or less; other strides are the same with more loops. There is
/// always one loop at least.
struct LoopNest {
  ShortList<Loop> loops;
  std::array<Index, maximum_operands> offsets{};  // elements, from each tensor's address to its first step
  Index channel_offset = 0;

  /// Whether neighbours in memory belong to different channels, so that vectors go across channels.
  [[nodiscard]] bool channels_innermost() const noexcept { return loops.back().is_channel; }
};

/// All operands have the shape of the first. `channel_axes` are resolved.
[[nodiscard]] LoopNest make_loop_nest(std::span<const TensorView> operands, const IndexList& channel_axes,
                                      const ChannelMap& channels);

/// Whether two nests over different operands have the same loops, so that boxes of one fit the other.
[[nodiscard]] bool same_loops(const LoopNest& a, const LoopNest& b);

}  // namespace exactnorm

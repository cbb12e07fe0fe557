#pragma once

#include <algorithm>
#include <array>
#include <span>

#include "combine/channel_sums.h"
#include "reduce/tile_adder.h"
#include "tensor/packed_tile.h"
#include "traverse/walk.h"

namespace exactnorm {

/// The most rows of lanes that are summed in place before their sums are stored: as many as fit in L1 cache.
inline constexpr Index direct_rows = 128;
static_assert(direct_rows <= maximum_tile_rows && direct_rows <= guarded_rows);

/// What the two ways through a box share: bringing its elements to the TileAdder as tiles, in place where they
/// lie as the kernels need them, else packed. kOperands is 1 for moments (x) and 2 for gradients (dy, x).
template <typename T, std::size_t kOperands>
class BoxReducer {
 public:
  BoxReducer(const LoopNest& nest, const Box& box, std::span<const TensorView> operands, ChannelSums& sums)
      : nest_(nest), box_(box), operands_(operands), sums_(sums), adder_(sums) {}

 protected:
  using Tiles = std::array<Tile<T>, kOperands>;
  using PackedTiles = std::array<PackedTile<T>, kOperands>;

  // Whether a loop steps through all operands by one element of type T.
  [[nodiscard]] bool is_direct(const Loop& loop) const {
    for (std::size_t j = 0; j < kOperands; ++j) {
      if (operands_[j].dtype != dtype_of<T>() || loop.strides[j] != 1) return false;
    }
    return true;
  }

  [[nodiscard]] Tile<T> in_place(std::size_t operand, Index offset, Index rows, Index stride) const {
    const T* data = static_cast<const T*>(operands_[operand].data) + offset;
    return {data, rows, stride, data};
  }

  void add_to_channel(const Tiles& tiles, Index channel) {
    if constexpr (kOperands == 1) {
      adder_.add_to_channel(tiles[0], channel);
    } else {
      adder_.add_to_channel(tiles[0], tiles[1], channel);
    }
  }
  void add_to_channels(const Tiles& tiles, int first_lane, int lanes, int period, Index first_channel) {
    if constexpr (kOperands == 1) {
      adder_.add_to_channels(tiles[0], first_channel, first_lane, lanes, period);
    } else {
      adder_.add_to_channels(tiles[0], tiles[1], first_channel, first_lane, lanes, period);
    }
  }

  const LoopNest& nest_;
  const Box& box_;
  std::span<const TensorView> operands_;
  ChannelSums& sums_;
  TileAdder<T> adder_;
  PackedTiles packed_;
  Index packed_count_ = 0;  // elements of a channel, or rows of lanes
};

}  // namespace exactnorm

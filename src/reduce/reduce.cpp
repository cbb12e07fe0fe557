#include "reduce/reduce.h"

#include <algorithm>
#include <array>
#include <vector>

#include "plan/walk.h"
#include "reduce/tile_adder.h"
#include "tensor/packed_tile.h"

namespace exactnorm {

namespace {

// The most rows that are summed in place before their sums are stored: as many as fit in L1 cache where that
// is done once, more where it is done for each lane.
constexpr Index direct_rows = 128;
constexpr Index direct_lines = 256;
static_assert(direct_lines <= maximum_tile_rows);

// Runs of a channel that are shorter than this are gathered: several make a tile.
constexpr Index long_run = 2048;

// Walks a box and brings its elements to the TileAdder as tiles: in place where they lie as the kernels
// need them, else packed. kOperands is 1 for moments (x) and 2 for gradients (dy, x).
template <typename T, std::size_t kOperands>
class BoxReducer {
 public:
  BoxReducer(const LoopNest& nest, const Box& box, std::span<const TensorView> operands, PartialSums& sums)
      : nest_(nest), box_(box), operands_(operands), adder_(sums) {}

  void run() {
    if (nest_.channels_innermost()) {
      across_channels();
    } else {
      along_channels();
    }
  }

 private:
  static constexpr Index packed_rows = PackedTile<T>::capacity / tile_lanes;
  static_assert(packed_rows <= maximum_tile_rows);
  static constexpr Index gathered_capacity = PackedTile<T>::capacity / 2;  // many tiles, one L2 cache
  static_assert(long_run <= PackedTile<T>::capacity);
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
    return {static_cast<const T*>(operands_[operand].data) + offset, rows, stride};
  }

  // Vectors run along the elements of one channel.
  void along_channels() {
    if (box_.back().size < long_run) {
      gathered_runs();
      return;
    }
    const std::size_t inner = nest_.loops.size() - 1;
    Index number = 0;
    walk(nest_, box_, 0, inner, is_channel_loop, start_of(nest_, box_), [&](const Position& position) {
      walk(nest_, box_, 0, inner, is_reduced_loop, position, [&](const Position& run) { long_run_of(run, number); });
      flush_channel(packed_, packed_count_, number);
      packed_count_ = 0;
      ++number;
    });
  }

  // Many elements of one channel, the innermost loop: whole rows of lanes in place, the rest packed.
  void long_run_of(const Position& position, Index channel) {
    const Loop& loop = nest_.loops.back();
    const Index size = box_.back().size;
    Index done = 0;
    if (is_direct(loop)) {
      while (size - done >= tile_lanes) {
        const Index rows = std::min(direct_rows, (size - done) / tile_lanes);
        Tiles tiles;
        for (std::size_t j = 0; j < kOperands; ++j) {
          tiles[j] = in_place(j, position.offsets[j] + done, rows, tile_lanes);
        }
        add_to_channel(tiles, channel);
        done += rows * tile_lanes;
      }
    }
    while (done < size) {
      const Index count = std::min(size - done, PackedTile<T>::capacity - packed_count_);
      for (std::size_t j = 0; j < kOperands; ++j) {
        const Index offset = position.offsets[j] + done * loop.strides[j];
        packed_[j].put(operands_[j], offset, count, loop.strides[j], packed_count_);
      }
      packed_count_ += count;
      done += count;
      if (packed_count_ == PackedTile<T>::capacity) {
        flush_channel(packed_, packed_count_, channel);
        packed_count_ = 0;
      }
    }
  }

  // Few elements of one channel at a time: memory is read in its own order, each channel's elements going to
  // a tile of its own, and all tiles are summed when they are full.
  void gathered_runs() {
    const std::size_t inner = nest_.loops.size() - 1;
    const Loop& loop = nest_.loops[inner];
    const Index size = box_[inner].size;
    const Position start = start_of(nest_, box_);
    Index channels = 0;
    walk(nest_, box_, 0, inner, is_channel_loop, start, [&](const Position&) { ++channels; });
    std::vector<PackedTiles> tiles(static_cast<std::size_t>(channels));
    Index count = 0;
    const auto flush = [&] {
      for (Index channel = 0; channel < channels; ++channel) {
        flush_channel(tiles[static_cast<std::size_t>(channel)], count, channel);
      }
      count = 0;
    };
    walk(nest_, box_, 0, inner, is_reduced_loop, start, [&](const Position& step) {
      if (count + size > gathered_capacity) flush();
      std::size_t channel = 0;
      walk(nest_, box_, 0, inner, is_channel_loop, step, [&](const Position& run) {
        for (std::size_t j = 0; j < kOperands; ++j) {
          tiles[channel][j].put(operands_[j], run.offsets[j], size, loop.strides[j], count);
        }
        ++channel;
      });
      count += size;
    });
    flush();
  }

  void flush_channel(PackedTiles& packed, Index count, Index channel) {
    if (count == 0) return;
    const Index rows = (count + tile_lanes - 1) / tile_lanes;
    Tiles tiles;
    for (std::size_t j = 0; j < kOperands; ++j) {
      packed[j].put_zeros(rows * tile_lanes - count, count);
      tiles[j] = {packed[j].data(), rows, tile_lanes};
    }
    add_to_channel(tiles, channel);
  }

  // Vectors run across neighbouring channels: the innermost loop, cut into groups of lanes.
  void across_channels() {
    const std::size_t inner = nest_.loops.size() - 1;
    const Index channels = box_[inner].size;
    Index number = 0;
    walk(nest_, box_, 0, inner, is_channel_loop, start_of(nest_, box_), [&](const Position& position) {
      for (Index first = 0; first < channels; first += tile_lanes) {
        Position group = position;
        for (std::size_t j = 0; j < kOperands; ++j) group.offsets[j] += first * nest_.loops[inner].strides[j];
        group_of_channels(group, static_cast<int>(std::min<Index>(tile_lanes, channels - first)), number + first);
      }
      number += channels;
    });
  }

  void group_of_channels(const Position& position, int lanes, Index first_channel) {
    const std::size_t inner = nest_.loops.size() - 1;
    // The fastest reduced loop gives the rows of a tile.
    std::size_t rows_loop = inner;
    while (rows_loop > 0 && nest_.loops[rows_loop].is_channel) --rows_loop;
    const bool has_rows = !nest_.loops[rows_loop].is_channel;
    const Loop row_loop = has_rows ? nest_.loops[rows_loop] : Loop{.size = 1};
    const Index rows = has_rows ? box_[rows_loop].size : 1;
    const bool direct = lanes == tile_lanes && is_direct(nest_.loops[inner]) && rows >= packed_rows;
    const bool joined = has_rows && 2 * lanes <= tile_lanes && is_joined(row_loop, lanes);
    walk(nest_, box_, 0, has_rows ? rows_loop : 0, is_reduced_loop, position, [&](const Position& start) {
      if (direct) {
        rows_in_place(start, row_loop, rows, first_channel);
      } else if (joined) {
        rows_joined(start, rows, lanes, first_channel);
      } else {
        rows_packed(start, row_loop, rows, lanes, first_channel);
      }
    });
    flush_channels(lanes, first_channel);
  }

  void rows_in_place(const Position& start, const Loop& loop, Index size, Index first_channel) {
    for (Index done = 0; done < size; done += direct_lines) {
      const Index rows = std::min(direct_lines, size - done);
      Tiles tiles;
      for (std::size_t j = 0; j < kOperands; ++j) {
        tiles[j] = in_place(j, start.offsets[j] + done * loop.strides[j], rows, loop.strides[j]);
      }
      add_to_channels(tiles, tile_lanes, tile_lanes, first_channel);
    }
  }

  // Whether rows of a few channels follow each other without a gap, so that several make a line of lanes.
  [[nodiscard]] bool is_joined(const Loop& row_loop, int channels) const {
    for (std::size_t j = 0; j < kOperands; ++j) {
      if (row_loop.strides[j] != nest_.loops.back().strides[j] * channels) return false;
    }
    return true;
  }

  void rows_joined(const Position& start, Index size, int channels, Index first_channel) {
    const Loop& across = nest_.loops.back();
    const int line = tile_lanes / channels * channels;
    // A line is read as 32 lanes, the last ones of the next line, so the last line needs some room behind it.
    const Index most = (PackedTile<T>::capacity - tile_lanes) / line * line;
    Index left = size * channels;
    for (Position from = start; left > 0;) {
      const Index count = std::min(left, most);
      const Index rows = (count + line - 1) / line;
      Tiles tiles;
      for (std::size_t j = 0; j < kOperands; ++j) {
        packed_[j].put(operands_[j], from.offsets[j], count, across.strides[j], 0);
        packed_[j].put_zeros((rows - 1) * line + tile_lanes - count, count);
        tiles[j] = {packed_[j].data(), rows, line};
        from.offsets[j] += count * across.strides[j];
      }
      add_to_channels(tiles, line, channels, first_channel);
      left -= count;
    }
  }

  void rows_packed(const Position& start, const Loop& loop, Index size, int lanes, Index first_channel) {
    const Loop& across = nest_.loops.back();
    for (Index row = 0; row < size; ++row) {
      for (std::size_t j = 0; j < kOperands; ++j) {
        const Index offset = start.offsets[j] + row * loop.strides[j];
        packed_[j].put(operands_[j], offset, lanes, across.strides[j], packed_count_ * tile_lanes);
        packed_[j].put_zeros(tile_lanes - lanes, packed_count_ * tile_lanes + lanes);
      }
      if (++packed_count_ == packed_rows) flush_channels(lanes, first_channel);
    }
  }

  void flush_channels(int lanes, Index first_channel) {
    if (packed_count_ == 0) return;
    Tiles tiles;
    for (std::size_t j = 0; j < kOperands; ++j) tiles[j] = {packed_[j].data(), packed_count_, tile_lanes};
    add_to_channels(tiles, lanes, lanes, first_channel);
    packed_count_ = 0;
  }

  void add_to_channel(const Tiles& tiles, Index channel) {
    if constexpr (kOperands == 1) {
      adder_.add_to_channel(tiles[0], channel);
    } else {
      adder_.add_to_channel(tiles[0], tiles[1], channel);
    }
  }
  void add_to_channels(const Tiles& tiles, int lanes, int period, Index first_channel) {
    if constexpr (kOperands == 1) {
      adder_.add_to_channels(tiles[0], first_channel, lanes, period);
    } else {
      adder_.add_to_channels(tiles[0], tiles[1], first_channel, lanes, period);
    }
  }

  const LoopNest& nest_;
  const Box& box_;
  std::span<const TensorView> operands_;
  TileAdder<T> adder_;
  PackedTiles packed_;
  Index packed_count_ = 0;  // elements of a channel, or rows of lanes
};

template <typename T>
void reduce_as(const LoopNest& nest, const Box& box, std::span<const TensorView> operands, PartialSums& sums) {
  if (sums.kind() == PartialSums::Kind::moments) {
    BoxReducer<T, 1>(nest, box, operands, sums).run();
  } else {
    BoxReducer<T, 2>(nest, box, operands, sums).run();
  }
}

}  // namespace

PartialSums::Range range_for(std::span<const TensorView> operands) noexcept {
  const bool fits =
      std::all_of(operands.begin(), operands.end(), [](const TensorView& x) { return dtype_fits_float32(x.dtype); });
  return fits ? PartialSums::Range::single : PartialSums::Range::extended;
}

void reduce_box(const LoopNest& nest, const Box& box, std::span<const TensorView> operands, PartialSums& sums) {
  if (range_for(operands) == PartialSums::Range::single) {
    reduce_as<float>(nest, box, operands, sums);
  } else {
    reduce_as<double>(nest, box, operands, sums);
  }
}

}  // namespace exactnorm

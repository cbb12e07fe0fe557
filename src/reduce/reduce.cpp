#include "reduce/reduce.h"

#include <algorithm>
#include <array>
#include <type_traits>
#include <vector>

#include "plan/walk.h"
#include "reduce/tile_adder.h"
#include "tensor/packed_tile.h"

namespace exactnorm {

namespace {

// The most rows that are summed in place before their sums are stored: as many as fit in L1 cache.
constexpr Index direct_rows = 128;
static_assert(direct_rows <= maximum_tile_rows && direct_rows <= guarded_rows);

// Elements of one channel that the kernels take at a time, and that are looked at again where a guess was wrong.
constexpr Index run_elements = direct_rows * tile_lanes;
// Rows that go across all channels are taken some at a time, so many elements that they and the next ones fit in L2.
constexpr Index chunk_elements = 65536;
// Shorter runs are not worth a call.
constexpr Index shortest_run = 16;

// Runs of a channel that are shorter than this are gathered: several make a tile.
constexpr Index long_run = 2048;

// Walks a box and brings its elements to the TileAdder as tiles: in place where they lie as the kernels
// need them, else packed. kOperands is 1 for moments (x) and 2 for gradients (dy, x).
template <typename T, std::size_t kOperands>
class BoxReducer {
 public:
  BoxReducer(const LoopNest& nest, const Box& box, std::span<const TensorView> operands, ChannelSums& sums)
      : nest_(nest), box_(box), operands_(operands), sums_(sums), adder_(sums) {}

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

  [[nodiscard]] static bool same_strides(const Loop& loop) {
    return std::all_of(loop.strides.begin(), loop.strides.begin() + kOperands,
                       [&](Index stride) { return stride == loop.strides[0]; });
  }

  [[nodiscard]] Tile<T> in_place(std::size_t operand, Index offset, Index rows, Index stride) const {
    const T* data = static_cast<const T*>(operands_[operand].data) + offset;
    return {data, rows, stride, data};
  }

  // Vectors run along the elements of one channel.
  void along_channels() {
    if constexpr (std::is_same_v<T, float>) {
      if (is_direct(nest_.loops.back()) && box_.back().size >= shortest_run) {
        direct_runs();
        return;
      }
    }
    if (box_.back().size < long_run) {
      gathered_runs();
      return;
    }
    const std::size_t inner = nest_.loops.size() - 1;
    Index number = 0;
    walk(nest_, box_, 0, inner, is_channel_loop, start_of(nest_, box_), [&](const Position& position) {
      walk(nest_, box_, 0, inner, is_reduced_loop, position, [&](const Position& run) { long_run_of(run, number); });
      sums_.make_room(packed_count_);
      flush_channel(packed_, packed_count_, number);
      packed_count_ = 0;
      ++number;
    });
  }

  [[nodiscard]] Index channel_steps() const {
    Index steps = 1;
    for (std::size_t i = 0; i < box_.size(); ++i) {
      if (nest_.loops[i].is_channel) steps *= box_[i].size;
    }
    return steps;
  }

  [[nodiscard]] Runs runs_of(std::size_t operand, Index offset, Index stride) const {
    return {static_cast<const float*>(operands_[operand].data) + offset, stride};
  }

  // Runs in place: some of one channel, then the same of the next, so that memory is read nearly in its own order.
  void direct_runs() {
    const std::size_t inner = nest_.loops.size() - 1;
    const Index size = box_[inner].size;
    // The fastest of the other reduced loops gives the runs that one call takes.
    std::size_t runs_loop = inner;
    for (std::size_t i = 0; i < inner; ++i) {
      if (!nest_.loops[i].is_channel) runs_loop = i;
    }
    const bool has_runs = runs_loop != inner;
    const Loop run_loop = has_runs ? nest_.loops[runs_loop] : Loop{.size = 1};
    const Index runs = has_runs ? box_[runs_loop].size : 1;
    const Index runs_at_once = std::max<Index>(run_elements / size, 1);
    const Index part = std::min(size, run_elements);
    // Runs that lie apart are strangers to the hardware's prefetchers: the one that comes next is asked for. Long ones
    // are asked for some lines ahead.
    const bool one_channel = channel_steps() == 1;
    const Loop& next = one_channel ? run_loop : nest_.loops[inner - 1];
    Index ahead = far_enough;
    if (size <= run_elements && (one_channel ? has_runs : next.is_channel) && same_strides(next))
      ahead = next.strides[0];
    const auto is_outer = [&](const Loop& loop) { return !loop.is_channel && &loop != &nest_.loops[runs_loop]; };
    walk(nest_, box_, 0, inner, is_outer, start_of(nest_, box_), [&](const Position& outer) {
      for (Index run = 0; run < runs; run += runs_at_once) {
        const Index some = std::min(runs_at_once, runs - run);
        for (Index done = 0; done < size; done += part) {
          const Index count = std::min(part, size - done);
          sums_.make_room(some * count);
          Index number = 0;
          walk(nest_, box_, 0, inner, is_channel_loop, outer, [&](const Position& position) {
            std::array<Index, kOperands> offsets;
            for (std::size_t j = 0; j < kOperands; ++j)
              offsets[j] = position.offsets[j] + run * run_loop.strides[j] + done;
            runs_of_channel(offsets, run_loop, some, count, ahead, number++);
          });
        }
      }
    });
  }

  void runs_of_channel(const std::array<Index, kOperands>& offsets, const Loop& run_loop, Index runs, Index count,
                       Index ahead, Index channel) {
    bool added = false;
    if constexpr (kOperands == 1) {
      added = adder_.add_runs(runs_of(0, offsets[0], run_loop.strides[0]), runs, count, ahead, channel);
    } else {
      added = adder_.add_runs(runs_of(0, offsets[0], run_loop.strides[0]), runs_of(1, offsets[1], run_loop.strides[1]),
                              runs, count, ahead, channel);
    }
    if (added) return;
    for (Index run = 0; run < runs; ++run) {
      for (std::size_t j = 0; j < kOperands; ++j) {
        packed_[j].put(operands_[j], offsets[j] + run * run_loop.strides[j], count, 1, run * count);
      }
    }
    flush_channel(packed_, runs * count, channel);
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
        sums_.make_room(rows * tile_lanes);
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
        sums_.make_room(packed_count_);
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
      sums_.make_room(count);
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
      tiles[j] = {packed[j].data(), rows, tile_lanes, packed[j].data()};
    }
    add_to_channel(tiles, channel);
  }

  // Vectors run across neighbouring channels, the innermost loop.
  void across_channels() {
    const std::size_t inner = nest_.loops.size() - 1;
    const Index channels = box_[inner].size;
    const bool direct = is_direct(nest_.loops[inner]) && channels >= tile_lanes;
    Index number = 0;
    walk(nest_, box_, 0, inner, is_channel_loop, start_of(nest_, box_), [&](const Position& position) {
      if (direct) {
        direct_rows_of(position, channels, number);
      } else {
        for (Index first = 0; first < channels; first += tile_lanes) {
          Position group = position;
          for (std::size_t j = 0; j < kOperands; ++j) group.offsets[j] += first * nest_.loops[inner].strides[j];
          group_of_channels(group, static_cast<int>(std::min<Index>(tile_lanes, channels - first)), number + first);
        }
      }
      number += channels;
    });
  }

  // The loop whose steps are the rows of a tile: the fastest reduced one, or one of a single step.
  struct Rows {
    Loop loop = {.size = 1};
    Index size = 1;
    std::size_t outer_loops = 0;
  };
  [[nodiscard]] Rows find_rows() const {
    std::size_t at = nest_.loops.size() - 1;
    while (at > 0 && nest_.loops[at].is_channel) --at;
    if (nest_.loops[at].is_channel) return {};
    return {nest_.loops[at], box_[at].size, at};
  }

  // Some rows of all channels, then the next rows: memory's own order.
  void direct_rows_of(const Position& position, Index channels, Index number) {
    const Rows rows = find_rows();
    const Index rows_at_once = std::clamp<Index>(chunk_elements / channels, 16, direct_rows);
    walk(nest_, box_, 0, rows.outer_loops, is_reduced_loop, position, [&](const Position& start) {
      for (Index done = 0; done < rows.size; done += rows_at_once) {
        const Index size = std::min(rows_at_once, rows.size - done);
        sums_.make_room(size);
        for (Index first = 0; first < channels; first += tile_lanes) {
          // The last lanes may be some of those before once more, which do not count again.
          const Index base = std::min(first, channels - tile_lanes);
          Tiles tiles;
          for (std::size_t j = 0; j < kOperands; ++j) {
            const Index stride = rows.loop.strides[j];
            tiles[j] = in_place(j, start.offsets[j] + done * stride + base, size, stride);
            // The rows that come next, in the order of memory.
            tiles[j].next = tiles[j].data - base + rows_at_once * stride + first * size;
          }
          add_to_channels(tiles, static_cast<int>(first - base), tile_lanes, tile_lanes, number + base);
        }
      }
    });
  }

  void group_of_channels(const Position& position, int lanes, Index first_channel) {
    const Rows rows = find_rows();
    const bool joined = 2 * lanes <= tile_lanes && is_joined(rows.loop, lanes);
    walk(nest_, box_, 0, rows.outer_loops, is_reduced_loop, position, [&](const Position& start) {
      if (joined) {
        rows_joined(start, rows.size, lanes, first_channel);
      } else {
        rows_packed(start, rows.loop, rows.size, lanes, first_channel);
      }
    });
    if (joined) {
      flush_joined(lanes, first_channel);
    } else {
      flush_channels(lanes, first_channel);
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
    Position from = start;
    Index left = size * channels;
    const auto add = [&](const Tiles& tiles) {
      sums_.make_room(tiles[0].rows * (line / channels));
      add_to_channels(tiles, 0, line, channels, first_channel);
    };
    // A line is read as 32 lanes, the last ones of the next line.
    while (is_direct(across) && left >= line + (tile_lanes - line)) {
      const Index whole_lines = (left - (tile_lanes - line)) / line;
      Tiles tiles;
      const Index rows = std::min(direct_rows, whole_lines);
      for (std::size_t j = 0; j < kOperands; ++j) {
        tiles[j] = in_place(j, from.offsets[j], rows, line);
        tiles[j].next = tiles[j].data + rows * line;
        from.offsets[j] += rows * line;
      }
      add(tiles);
      left -= rows * line;
    }
    // What is left, or all where it has to be converted, waits in the buffer for more of its kind.
    const Index most = buffered_lines(line) * line;
    while (left > 0) {
      const Index count = std::min(left, most - packed_count_);
      for (std::size_t j = 0; j < kOperands; ++j) {
        packed_[j].put(operands_[j], from.offsets[j], count, across.strides[j], packed_count_);
        from.offsets[j] += count * across.strides[j];
      }
      packed_count_ += count;
      left -= count;
      if (packed_count_ == most) flush_joined(channels, first_channel);
    }
  }

  // Lines of the buffer that are summed together, with room for 32 lanes at the last of them.
  static Index buffered_lines(Index line) {
    return std::min((PackedTile<T>::capacity - tile_lanes) / line, direct_rows);
  }

  void flush_joined(int channels, Index first_channel) {
    if (packed_count_ == 0) return;
    const int line = tile_lanes / channels * channels;
    const Index rows = (packed_count_ + line - 1) / line;
    Tiles tiles;
    for (std::size_t j = 0; j < kOperands; ++j) {
      packed_[j].put_zeros((rows - 1) * line + tile_lanes - packed_count_, packed_count_);
      tiles[j] = {packed_[j].data(), rows, line, packed_[j].data()};
    }
    sums_.make_room(rows * (line / channels));
    add_to_channels(tiles, 0, line, channels, first_channel);
    packed_count_ = 0;
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
    for (std::size_t j = 0; j < kOperands; ++j)
      tiles[j] = {packed_[j].data(), packed_count_, tile_lanes, packed_[j].data()};
    sums_.make_room(packed_count_);
    add_to_channels(tiles, 0, lanes, lanes, first_channel);
    packed_count_ = 0;
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

template <typename T>
void reduce_as(const LoopNest& nest, const Box& box, std::span<const TensorView> operands, ChannelSums& sums) {
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

Index most_channels(const LoopNest& nest, std::span<const TensorView> operands) noexcept {
  // Each has a tile to itself: together they have to share a cache.
  constexpr Index gathered = 64;
  constexpr Index in_place = 1024;
  const Loop& inner = nest.loops.back();
  bool direct = inner.size >= shortest_run;
  for (std::size_t j = 0; j < operands.size(); ++j) {
    direct = direct && operands[j].dtype == DType::float32 && inner.strides[j] == 1;
  }
  return direct ? in_place : gathered;
}

void reduce_box(const LoopNest& nest, const Box& box, std::span<const TensorView> operands, ChannelSums& sums) {
  if (range_for(operands) == PartialSums::Range::single) {
    reduce_as<float>(nest, box, operands, sums);
  } else {
    reduce_as<double>(nest, box, operands, sums);
  }
}

}  // namespace exactnorm

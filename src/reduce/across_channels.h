#pragma once

#include <algorithm>

#include "reduce/box_reducer.h"

namespace exactnorm {

/// A box in which neighbours in memory belong to different channels: vectors run across them.
template <typename T, std::size_t kOperands>
class AcrossChannels : private BoxReducer<T, kOperands> {
 public:
  using BoxReducer<T, kOperands>::BoxReducer;

  void run() {
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

 private:
  using Base = BoxReducer<T, kOperands>;
  using Base::add_to_channels;
  using Base::box_;
  using Base::in_place;
  using Base::is_direct;
  using Base::nest_;
  using Base::operands_;
  using Base::packed_;
  using Base::packed_count_;
  using Base::sums_;
  using typename Base::Tiles;

  // Rows are taken some at a time: so many elements that they and the next ones fit in L2 cache.
  static constexpr Index chunk_elements = 65536 / static_cast<Index>(kOperands);
  static constexpr Index packed_rows = PackedTile<T>::capacity / tile_lanes;
  static_assert(packed_rows <= maximum_tile_rows);

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
            // The rows that come next: in the order of memory, if they are whole, else those of these channels.
            if (stride == channels) {
              tiles[j].next = tiles[j].data - base + rows_at_once * stride + first * size;
            } else {
              tiles[j].next = tiles[j].data + rows_at_once * stride;
              tiles[j].next_stride = stride;
            }
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
};

}  // namespace exactnorm

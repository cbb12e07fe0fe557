#pragma once

#include <algorithm>
#include <array>
#include <type_traits>
#include <vector>

#include "reduce/box_reducer.h"
#include "traverse/short_runs.h"

namespace exactnorm {

static_assert(run_elements <= direct_rows * tile_lanes);

/// A box in which neighbours in memory belong to one channel: vectors run along it.
template <typename T, std::size_t kOperands>
class AlongChannels : private BoxReducer<T, kOperands> {
 public:
  using BoxReducer<T, kOperands>::BoxReducer;

  void run() {
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

 private:
  using Base = BoxReducer<T, kOperands>;
  using Base::add_to_channel;
  using Base::adder_;
  using Base::box_;
  using Base::in_place;
  using Base::is_direct;
  using Base::nest_;
  using Base::operands_;
  using Base::packed_;
  using Base::packed_count_;
  using Base::sums_;
  using typename Base::PackedTiles;
  using typename Base::Tiles;

  // Runs of a channel that are shorter than this are gathered: several make a tile.
  static constexpr Index long_run = 2048;
  static constexpr Index gathered_capacity = PackedTile<T>::capacity / 2;  // many tiles, one L2 cache
  static_assert(long_run <= PackedTile<T>::capacity);

  [[nodiscard]] static bool same_strides(const Loop& loop) {
    return std::all_of(loop.strides.begin(), loop.strides.begin() + kOperands,
                       [&](Index stride) { return stride == loop.strides[0]; });
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
};

}  // namespace exactnorm

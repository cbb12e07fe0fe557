#include "reduce/value_range.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "tensor/packed_tile.h"
#include "traverse/parallel.h"
#include "traverse/partition.h"
#include "traverse/walk.h"

namespace exactnorm {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double largest = std::numeric_limits<double>::max();
// Neighbours that are compared side by side; a multiple of every vector's size.
constexpr Index least_lanes = 64;

// The least and the greatest value that each of some lanes has met.
struct LaneRanges {
  explicit LaneRanges(Index lanes)
      : low(static_cast<std::size_t>(lanes), infinity), high(static_cast<std::size_t>(lanes), -infinity) {}

  std::vector<double> low;
  std::vector<double> high;
};

// Goes through `rows` rows of values, one value per lane. What is not finite changes nothing.
void scan_rows(const double* values, Index rows, LaneRanges& ranges) {
  const auto lanes = static_cast<Index>(ranges.low.size());
  double* low = ranges.low.data();
  double* high = ranges.high.data();
  for (Index row = 0; row < rows; ++row, values += lanes) {
    // Simple enough for compilers to make vector code without branches of it.
    for (Index lane = 0; lane < lanes; ++lane) {
      const double value = values[lane];
      const bool finite = std::abs(value) <= largest;
      double for_low = infinity;
      double for_high = -infinity;
      if (finite) for_low = for_high = value;
      low[lane] = for_low < low[lane] ? for_low : low[lane];
      high[lane] = for_high > high[lane] ? for_high : high[lane];
    }
  }
}

// Walks a box and keeps the ranges of its channels, in the order of channels_of.
class BoxScanner {
 public:
  BoxScanner(const LoopNest& nest, const Box& box, const TensorView& x, Index channels)
      : nest_(nest), box_(box), x_(x), ranges_(channels) {}

  [[nodiscard]] LaneRanges run() {
    if (nest_.channels_innermost()) {
      across_channels();
    } else {
      along_channels();
    }
    return std::move(ranges_);
  }

 private:
  static constexpr Index capacity = PackedTile<double>::capacity;

  // Neighbours belong to one channel, and lanes are as many as vectors like.
  void along_channels() {
    const std::size_t inner = nest_.loops.size() - 1;
    const Index size = box_[inner].size;
    const Index stride = nest_.loops[inner].strides[0];
    Index channel = 0;
    walk(nest_, box_, 0, nest_.loops.size(), is_channel_loop, start_of(nest_, box_), [&](const Position& position) {
      LaneRanges lanes(least_lanes);
      walk(nest_, box_, 0, inner, is_reduced_loop, position,
           [&](const Position& run) { add_run(run.offsets[0], size, stride, lanes); });
      flush(lanes);
      fold(lanes, channel++, 1);
    });
  }

  // Neighbours belong to neighbouring channels. Rows that follow each other without a gap are one long run,
  // several of which make a row of lanes.
  void across_channels() {
    const std::size_t inner = nest_.loops.size() - 1;
    const Index stride = nest_.loops[inner].strides[0];
    Index first_channel = 0;
    walk(nest_, box_, 0, inner, is_channel_loop, start_of(nest_, box_), [&](const Position& position) {
      for (Index done = 0; done < box_[inner].size; done += capacity) {
        const Index channels = std::min(capacity, box_[inner].size - done);
        const bool joined = inner > 0 && is_reduced_loop(nest_.loops[inner - 1]) &&
                            nest_.loops[inner - 1].strides[0] == stride * channels;
        const Index rows = joined ? box_[inner - 1].size : 1;
        LaneRanges lanes(channels * std::max<Index>(1, least_lanes / channels));
        walk(nest_, box_, 0, joined ? inner - 1 : inner, is_reduced_loop, position, [&](const Position& run) {
          add_run(run.offsets[0] + done * stride, channels * rows, stride, lanes);
          // The next run starts at the first channel again.
          flush(lanes);
        });
        fold(lanes, first_channel + done, channels);
      }
      first_channel += box_[inner].size;
    });
  }

  void add_run(Index offset, Index count, Index stride, LaneRanges& lanes) {
    const auto width = static_cast<Index>(lanes.low.size());
    const Index usable = capacity / width * width;
    while (count > 0) {
      const Index size = std::min(count, usable - packed_);
      tile_.put(x_, offset, size, stride, packed_);
      packed_ += size;
      if (packed_ == usable) flush(lanes);
      offset += size * stride;
      count -= size;
    }
  }

  void flush(LaneRanges& lanes) {
    const auto width = static_cast<Index>(lanes.low.size());
    const Index rows = (packed_ + width - 1) / width;
    std::fill(tile_.data() + packed_, tile_.data() + rows * width, infinity);
    scan_rows(tile_.data(), rows, lanes);
    packed_ = 0;
  }

  // Lane i belongs to channel first + i % channels.
  void fold(const LaneRanges& lanes, Index first, Index channels) {
    for (std::size_t lane = 0; lane < lanes.low.size(); ++lane) {
      const auto channel = static_cast<std::size_t>(first + static_cast<Index>(lane) % channels);
      ranges_.low[channel] = std::min(ranges_.low[channel], lanes.low[lane]);
      ranges_.high[channel] = std::max(ranges_.high[channel], lanes.high[lane]);
    }
  }

  const LoopNest& nest_;
  const Box& box_;
  const TensorView& x_;
  LaneRanges ranges_;
  PackedTile<double> tile_;
  Index packed_ = 0;
};

}  // namespace

void widen_value_ranges(const TensorView& x, const IndexList& channel_axes, const ChannelMap& channels, int threads,
                        std::span<double> minimum, std::span<double> maximum) {
  if (element_count(x.shape) == 0) return;
  const std::array operands = {x};
  const LoopNest nest = make_loop_nest(operands, channel_axes, channels);
  const Partition partition(nest, size_of(x.dtype), threads);
  const Index pieces = partition.pieces();
  const Index tasks = partition.groups() * pieces;
  std::vector<LaneRanges> ranges(static_cast<std::size_t>(tasks), LaneRanges(0));
  parallel_for(tasks, partition.threads(), Order::forwards, [&](Index task, int) {
    const Box box = partition.box(task / pieces, task % pieces);
    const auto count = static_cast<Index>(channels_of(nest, box).size());
    ranges[static_cast<std::size_t>(task)] = BoxScanner(nest, box, x, count).run();
  });
  for (Index task = 0; task < tasks; ++task) {
    const LaneRanges& range = ranges[static_cast<std::size_t>(task)];
    const std::vector<Index> numbers = channels_of(nest, partition.box(task / pieces, task % pieces));
    for (std::size_t slot = 0; slot < numbers.size(); ++slot) {
      const auto channel = static_cast<std::size_t>(numbers[slot]);
      // -0 + 0 is +0.
      minimum[channel] = std::min(minimum[channel], range.low[slot]) + 0.0;
      maximum[channel] = std::max(maximum[channel], range.high[slot]) + 0.0;
    }
  }
}

}  // namespace exactnorm

#include "sums/value_range.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "tensor/element_type.h"
#include "traverse/block_reader.h"
#include "traverse/parallel.h"
#include "traverse/partition.h"
#include "traverse/traversal.h"

namespace exactnorm {

namespace {

// The least and the greatest value that each of some slots or channels has met.
struct Ranges {
  static constexpr double infinity = std::numeric_limits<double>::infinity();

  explicit Ranges(Index size)
      : low(static_cast<std::size_t>(size), infinity), high(static_cast<std::size_t>(size), -infinity) {}

  void widen(std::size_t at, double with_low, double with_high) {
    low[at] = std::min(low[at], with_low);
    high[at] = std::max(high[at], with_high);
  }

  std::vector<double> low;
  std::vector<double> high;
};

// low[i] and high[i] take in values[i], unless that is not finite; simple enough for compilers to make vector code of
// it.
template <typename T>
void widen(const T* values, Index count, T* low, T* high) {
  for (Index i = 0; i < count; ++i) {
    const T value = values[i];
    const bool finite = std::abs(value) <= std::numeric_limits<T>::max();
    const T for_low = finite ? value : std::numeric_limits<T>::infinity();
    const T for_high = finite ? value : -std::numeric_limits<T>::infinity();
    low[i] = for_low < low[i] ? for_low : low[i];
    high[i] = for_high > high[i] ? for_high : high[i];
  }
}

constexpr Index lanes = 64;  // neighbours of a run that are compared side by side

template <typename T>
void widen_slots(const Block<T, 1>& block, bool is_lanes, Ranges& slots) {
  constexpr T infinity = std::numeric_limits<T>::infinity();
  std::array<T, lanes> low;
  std::array<T, lanes> high;
  // Some columns at a time: every row's in lanes, a whole run's otherwise.
  const auto start = [&] {
    low.fill(infinity);
    high.fill(-infinity);
  };
  if (is_lanes) {
    for (Index first = 0; first < block.count; first += lanes) {
      const Index count = std::min(lanes, block.count - first);
      start();
      for (Index row = 0; row < block.rows; ++row) {
        widen(block.data[0] + row * block.strides[0] + first, count, low.data(), high.data());
      }
      for (Index i = 0; i < count; ++i) {
        const auto at = static_cast<std::size_t>(i);
        slots.widen(static_cast<std::size_t>(block.slot + first + i), static_cast<double>(low[at]),
                    static_cast<double>(high[at]));
      }
    }
    return;
  }
  for (Index channel = 0; channel < block.channels; ++channel) {
    start();
    for (Index row = 0; row < block.rows; ++row) {
      const T* const run = block.data[0] + channel * block.channel_strides[0] + row * block.strides[0];
      for (Index done = 0; done < block.count; done += lanes) {
        widen(run + done, std::min(lanes, block.count - done), low.data(), high.data());
      }
    }
    slots.widen(static_cast<std::size_t>(block.slot + channel),
                static_cast<double>(*std::min_element(low.begin(), low.end())),
                static_cast<double>(*std::max_element(high.begin(), high.end())));
  }
}

template <typename T>
void visit_box(const Traversal& traversal, const TensorView& x, const SelectedView* selected, Ranges& slots) {
  const Operand operand = x;
  BlockReader<T, 1> reader(traversal, {&operand, 1}, selected != nullptr ? &selected->selection : nullptr);
  traversal.visit([&](const Region& region) {
    reader.read(region, [&](const Block<T, 1>& block) { widen_slots(block, traversal.is_lanes(), slots); });
  });
}

// Of the channels of a box, in the order of channels_of.
Ranges ranges_of(const LoopNest& nest, const Box& box, const TensorView& x, const SelectedView* selected) {
  const Traversal traversal(nest, box, selected != nullptr ? 2 : 1);
  const SlotMap& map = traversal.slots();
  Ranges slots(map.slots());
  dtype_fits_float32(x.dtype) ? visit_box<float>(traversal, x, selected, slots)
                              : visit_box<double>(traversal, x, selected, slots);
  if (map.is_identity()) return slots;
  Ranges channels(map.channels);
  for (Index slot = 0; slot < map.slots(); ++slot) {
    const auto at = static_cast<std::size_t>(slot);
    channels.widen(static_cast<std::size_t>(map.channel(slot)), slots.low[at], slots.high[at]);
  }
  return channels;
}

}  // namespace

void widen_value_ranges(const TensorView& x, const SelectedView* selected, const IndexList& channel_axes,
                        const ChannelMap& channels, int threads, std::span<double> minimum, std::span<double> maximum) {
  if (element_count(x.shape) == 0) return;
  std::vector<TensorView> operands = {x};
  if (selected != nullptr) operands.push_back(selected->bytes);
  const LoopNest nest = make_loop_nest(operands, channel_axes, channels);
  const Partition partition(nest, size_of(x.dtype), 1, threads);
  const Index pieces = partition.pieces();
  const Index tasks = partition.groups() * pieces;
  std::vector<Ranges> ranges(static_cast<std::size_t>(tasks), Ranges(0));
  parallel_for(tasks, partition.threads(), Order::forwards, [&](Index task, int) {
    ranges[static_cast<std::size_t>(task)] = ranges_of(nest, partition.box(task / pieces, task % pieces), x, selected);
  });
  for (Index task = 0; task < tasks; ++task) {
    const Ranges& range = ranges[static_cast<std::size_t>(task)];
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

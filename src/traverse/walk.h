#pragma once

#include <array>
#include <cstddef>

#include "traverse/loop_nest.h"
#include "traverse/partition.h"

namespace exactnorm {

/// Where a walk stands: an element of each operand, and its channel.
struct Position {
  std::array<Index, maximum_operands> offsets{};
  Index channel = 0;
};

/// The first position of a box.
[[nodiscard]] inline Position start_of(const LoopNest& nest, const Box& box) {
  Position position{nest.offsets, nest.channel_offset};
  for (std::size_t i = 0; i < nest.loops.size(); ++i) {
    const Loop& loop = nest.loops[i];
    for (std::size_t j = 0; j < maximum_operands; ++j) position.offsets[j] += box[i].begin * loop.strides[j];
    position.channel += box[i].begin * loop.channel_stride;
  }
  return position;
}

/// Calls visit(position) for each step of the loops from `first` to `last` (exclusive) for which
/// include(loop) holds, the last of them fastest; the other loops stay where `position` has them.
template <typename Include, typename Visit>
void walk(const LoopNest& nest, const Box& box, std::size_t first, std::size_t last, const Include& include,
          Position position, const Visit& visit) {
  while (first < last && !include(nest.loops[first])) ++first;
  if (first == last) {
    visit(position);
    return;
  }
  const Loop& loop = nest.loops[first];
  for (Index step = 0; step < box[first].size; ++step) {
    walk(nest, box, first + 1, last, include, position, visit);
    for (std::size_t j = 0; j < maximum_operands; ++j) position.offsets[j] += loop.strides[j];
    position.channel += loop.channel_stride;
  }
}

[[nodiscard]] inline bool is_channel_loop(const Loop& loop) { return loop.is_channel; }
[[nodiscard]] inline bool is_reduced_loop(const Loop& loop) { return !loop.is_channel; }

}  // namespace exactnorm

#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "exactnorm/channels.h"
#include "support/random.h"
#include "support/tensor.h"

// Tensors of random shapes, which values belong to which channel, and cuts into boxes: from the definitions.

namespace exactnorm::testing {

/// The number of the channel that element `position` (in row-major order) belongs to; `axes` are from 0.
inline Index channel_of_element(Index position, const IndexList& shape, const IndexList& axes) {
  const IndexList index = unravel(position, shape);
  Index channel = 0;
  for (const Index axis : axes) {
    const auto at = static_cast<std::size_t>(axis);
    channel = channel * shape[at] + index[at];
  }
  return channel;
}

/// The values of each channel.
inline std::vector<std::vector<double>> values_by_channel(const std::vector<double>& values, const IndexList& shape,
                                                          const IndexList& axes) {
  Index channels = 1;
  for (const Index axis : axes) channels *= shape[static_cast<std::size_t>(axis)];
  std::vector<std::vector<double>> by_channel(static_cast<std::size_t>(channels));
  for (std::size_t i = 0; i < values.size(); ++i) {
    by_channel[static_cast<std::size_t>(channel_of_element(static_cast<Index>(i), shape, axes))].push_back(values[i]);
  }
  return by_channel;
}

inline IndexList random_shape(Random& random, Index largest) {
  IndexList shape;
  for (Index i = random.between(1, 4); i > 0; --i) shape.push_back(random.between(1, largest));
  return shape;
}

/// Some of the axes, in any order.
inline IndexList random_axes(Random& random, const IndexList& shape) {
  std::vector<Index> all;
  for (std::size_t i = 0; i < shape.size(); ++i) all.push_back(static_cast<Index>(i));
  random.shuffle(all);
  IndexList axes;
  for (Index i = random.between(0, static_cast<Index>(shape.size())); i > 0; --i) {
    axes.push_back(all[static_cast<std::size_t>(i - 1)]);
  }
  return axes;
}

/// A box of a tensor.
struct Box {
  IndexList begin;
  IndexList size;

  template <typename View>
  [[nodiscard]] View of(View whole) const {
    for (std::size_t axis = 0; axis < begin.size(); ++axis) whole = slice(whole, axis, begin[axis], size[axis]);
    return whole;
  }
};

/// Boxes, in a random order, that together are the whole tensor: each axis is cut at two random places.
inline std::vector<Box> random_boxes(Random& random, const IndexList& shape) {
  std::vector<Box> boxes = {{}};
  for (const Index size : shape) {
    Index cuts[] = {0, random.between(0, size), random.between(0, size), size};
    std::sort(std::begin(cuts), std::end(cuts));
    std::vector<Box> finer;
    for (const Box& box : boxes) {
      for (std::size_t i = 0; i < 3; ++i) {
        finer.push_back(box);
        finer.back().begin.push_back(cuts[i]);
        finer.back().size.push_back(cuts[i + 1] - cuts[i]);
      }
    }
    boxes = finer;
  }
  random.shuffle(boxes);
  return boxes;
}

}  // namespace exactnorm::testing

#include "torch_layout.h"

#include <algorithm>
#include <cstddef>
#include <vector>

namespace exactnorm::python::torch {

namespace {

// From the fastest axis to the slowest: channels, the last one, those before it, samples.
std::vector<std::size_t> channels_last_order(std::size_t rank) {
  std::vector<std::size_t> order = {1};
  for (std::size_t axis = rank; --axis > 1;) order.push_back(axis);
  order.push_back(0);
  return order;
}

IndexList strides_in_order(const IndexList& sizes, const std::vector<std::size_t>& order) {
  IndexList strides = sizes;
  Index stride = 1;
  for (const std::size_t axis : order) {
    strides[axis] = stride;
    stride *= std::max<Index>(sizes[axis], 1);
  }
  return strides;
}

bool is_contiguous(const IndexList& sizes, const IndexList& strides) {
  Index expected = 1;
  for (std::size_t axis = sizes.size(); axis-- > 0;) {
    if (sizes[axis] == 1) continue;
    if (strides[axis] != expected) return false;
    expected *= sizes[axis];
  }
  return true;
}

// As is_channels_last_strides_2d and _3d: strides that do not fall along the order, but where sizes of 1 leave them
// open.
bool has_channels_last_strides(const IndexList& sizes, const IndexList& strides) {
  if ((sizes.size() != 4 && sizes.size() != 5) || strides[1] == 0) return false;
  Index least = 0;
  for (const std::size_t axis : channels_last_order(sizes.size())) {
    if (sizes[axis] == 0 || strides[axis] < least) return false;
    if (axis == 0 && least == strides[1]) return false;
    least = strides[axis] * std::max<Index>(sizes[axis], 1);
  }
  return true;
}

}  // namespace

IndexList output_strides(const IndexList& sizes, const IndexList& strides) {
  if (!is_contiguous(sizes, strides) && has_channels_last_strides(sizes, strides)) {
    return strides_in_order(sizes, channels_last_order(sizes.size()));
  }
  return contiguous_strides(sizes);
}

IndexList kept_strides(const IndexList& sizes, const IndexList& strides) {
  std::vector<std::size_t> order;
  for (std::size_t axis = 0; axis < sizes.size(); ++axis) order.push_back(axis);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return strides[a] < strides[b]; });
  Index expected = 1;
  for (const std::size_t axis : order) {
    if (sizes[axis] == 1) continue;
    if (strides[axis] != expected) return output_strides(sizes, strides);
    expected *= sizes[axis];
  }
  return strides;
}

}  // namespace exactnorm::python::torch

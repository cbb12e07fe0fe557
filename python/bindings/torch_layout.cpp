#include "torch_layout.h"

#include <algorithm>
#include <cstddef>
#include <optional>
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

std::vector<std::size_t> contiguous_order(std::size_t rank) {
  std::vector<std::size_t> order;
  for (std::size_t axis = rank; axis-- > 0;) order.push_back(axis);
  return order;
}

bool has_channels_last(const IndexList& sizes) { return sizes.size() == 4 || sizes.size() == 5; }

// Whether elements follow each other in this order, whatever the strides of axes of size 1.
bool is_dense(const TensorView& x, const std::vector<std::size_t>& order) {
  Index expected = 1;
  for (const std::size_t axis : order) {
    if (x.shape[axis] == 1) continue;
    if (x.strides[axis] != expected) return false;
    expected *= x.shape[axis];
  }
  return true;
}

enum class Format { contiguous, channels_last };

IndexList strides_of(Format format, const IndexList& sizes) {
  return format == Format::channels_last ? strides_in_order(sizes, channels_last_order(sizes.size()))
                                         : contiguous_strides(sizes);
}

// As Tensor::suggest_memory_format, by is_channels_last_strides_2d and _3d: strides that do not fall along the order,
// but where sizes of 1 leave them open.
Format suggested(const TensorView& x) {
  if (!has_channels_last(x.shape) || x.strides[1] == 0) return Format::contiguous;
  Index least = 0;
  for (const std::size_t axis : channels_last_order(x.shape.size())) {
    if (x.shape[axis] == 0 || x.strides[axis] < least) return Format::contiguous;
    if (axis == 0 && least == x.strides[1]) return Format::contiguous;
    least = x.strides[axis] * std::max<Index>(x.shape[axis], 1);
  }
  return Format::channels_last;
}

// The format that x is dense in, contiguous before channels last. It may be another than the suggested one.
std::optional<Format> dense_format(const TensorView& x) {
  if (is_dense(x, contiguous_order(x.shape.size()))) return Format::contiguous;
  const bool is_last = has_channels_last(x.shape) && is_dense(x, channels_last_order(x.shape.size()));
  return is_last ? std::optional(Format::channels_last) : std::nullopt;
}

}  // namespace

IndexList output_strides(const TensorView& x, bool are_parameters_contiguous) {
  const std::optional<Format> dense = are_parameters_contiguous ? dense_format(x) : std::nullopt;
  return strides_of(dense.value_or(suggested(x)), x.shape);
}

IndexList gradient_strides(const TensorView& x, const TensorView& dy) {
  const bool agree = dense_format(dy).has_value() && suggested(dy) == suggested(x);
  const std::optional<Format> dense = agree ? dense_format(x) : std::nullopt;
  return strides_of(dense.value_or(suggested(x)), x.shape);
}

IndexList kept_strides(const TensorView& x) {
  std::vector<std::size_t> order = contiguous_order(x.shape.size());
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return x.strides[a] < x.strides[b]; });
  return is_dense(x, order) ? x.strides : strides_of(suggested(x), x.shape);
}

}  // namespace exactnorm::python::torch

#include "placement.h"

#include <charconv>

#include "exactnorm/error.h"

namespace exactnorm::bench {
namespace {

// What a slice leaves out at the end of every row.
constexpr Index slice_gap = 3;

Index& size_at(Placement& placement, char letter) {
  switch (letter) {
    case 'n':
      return placement.batch;
    case 'c':
      return placement.channels;
    case 'h':
      return placement.height;
    default:
      return placement.width;
  }
}

Index& stride_at(Placement& placement, char letter) {
  switch (letter) {
    case 'n':
      return placement.batch_stride;
    case 'c':
      return placement.channel_stride;
    case 'h':
      return placement.height_stride;
    default:
      return placement.width_stride;
  }
}

void place_densely(Placement& placement, std::string_view order) {
  Index stride = placement.block;
  for (std::size_t i = order.size(); i-- > 0;) {
    stride_at(placement, order[i]) = stride;
    stride *= order[i] == 'c' ? placement.channels / placement.block : size_at(placement, order[i]);
  }
  placement.span = stride;
}

// The channels of a block of a layout such as nChw16c; 1 for all others.
Index block_of(std::string_view layout) {
  Index block = 1;
  constexpr std::string_view outer = "nChw";
  if (layout.starts_with(outer)) std::from_chars(layout.data() + outer.size(), layout.data() + layout.size(), block);
  return block;
}

// The axes of a layout's name, slowest first.
std::string axes_of(std::string_view layout) {
  if (layout == "sliced") return "nchw";
  if (block_of(layout) > 1) return "nchw";
  return std::string(layout);
}

}  // namespace

const std::vector<std::string>& layout_names() {
  static const std::vector<std::string> names = {"nchw", "nhwc", "nChw8c", "nChw16c", "hwcn", "sliced", "nc", "cn"};
  return names;
}

std::size_t rank_of(std::string_view layout) { return axes_of(layout).size(); }

Placement place(const std::string& layout, const IndexList& shape) {
  const std::string axes = axes_of(layout);
  if (shape.size() != axes.size()) {
    throw Error("--shape", "is " + to_string(shape) + "; expected " + (axes.size() == 2 ? "N,C" : "N,C,H,W") +
                               " with layout " + layout);
  }
  Placement placement;
  placement.layout = layout;
  placement.batch = shape[0];
  placement.channels = shape[1];
  if (shape.size() == 4) {
    placement.height = shape[2];
    placement.width = shape[3];
  }
  placement.block = block_of(layout);
  if (placement.channels % placement.block != 0) {
    throw Error("--shape", "is " + to_string(shape) + "; expected channels in multiples of " +
                               std::to_string(placement.block) + " with layout " + layout);
  }
  if (layout == "sliced") {
    Placement whole = placement;
    whole.width += slice_gap;
    place_densely(whole, axes);
    whole.width = placement.width;
    return whole;
  }
  place_densely(placement, axes);
  return placement;
}

MutableLayoutView library_view(const Placement& placement, void* data, DType dtype) {
  if (placement.layout == "sliced") {
    const IndexList shape = {placement.batch, placement.channels, placement.height, placement.width};
    const IndexList strides = {placement.batch_stride, placement.channel_stride, placement.height_stride,
                               placement.width_stride};
    return {{data, dtype, shape, strides}, {1}};
  }
  Placement sizes_by_letter = placement;
  IndexList sizes;
  for (const char letter : axes_of(placement.layout)) sizes.push_back(size_at(sizes_by_letter, letter));
  return layout_view(data, dtype, placement.layout, sizes);
}

}  // namespace exactnorm::bench

#include <string>

#include "exactnorm/tensor.h"

namespace exactnorm {

namespace {

[[noreturn]] void reject(std::string_view layout, const IndexList& sizes, const std::string& expected) {
  throw Error("layout", "is \"" + std::string(layout) + "\" with sizes " + to_string(sizes) + "; expected " + expected);
}

struct Axes {
  IndexList shape;
  IndexList channel_axes;
};

Axes parse(std::string_view layout, const IndexList& sizes) {
  Axes axes;
  std::string seen;
  Index block = 0;
  std::size_t position = 0;
  Index block_axis_size = 0;
  for (; position < layout.size(); ++position) {
    const char letter = layout[position];
    if (letter >= '1' && letter <= '9') break;
    if (std::string_view("ncdhwlm").find(letter) == std::string_view::npos && letter != 'C') {
      reject(layout, sizes, "the letters n, c, d, h, w, l, m, each at most once, as in \"nchw\" or \"nChw16c\"");
    }
    const char lower = letter == 'C' ? 'c' : letter;
    if (seen.find(lower) != std::string::npos) reject(layout, sizes, "each letter at most once");
    seen += lower;
    if (axes.shape.size() == sizes.size()) reject(layout, sizes, "one size per letter");
    const Index size = sizes[axes.shape.size()];
    if (lower == 'c') axes.channel_axes.push_back(static_cast<Index>(axes.shape.size()));
    if (letter == 'C') block_axis_size = size;
    axes.shape.push_back(size);
  }
  if (axes.shape.size() != sizes.size()) reject(layout, sizes, "one size per letter");
  if (axes.channel_axes.empty()) reject(layout, sizes, "one letter c for the channels");
  const bool blocked = seen.size() > 0 && layout.find('C') != std::string_view::npos;
  for (; position < layout.size() && layout[position] >= '0' && layout[position] <= '9' && block < 100000; ++position) {
    block = block * 10 + (layout[position] - '0');
  }
  if (!blocked && position != layout.size()) reject(layout, sizes, "a block such as 16c only after a capital C");
  if (blocked) {
    if (block == 0 || layout.substr(position) != "c")
      reject(layout, sizes, "a block of channels at the end, such as 16c");
    if (block_axis_size % block != 0) {
      reject(layout, sizes, "a number of channels that is a multiple of " + std::to_string(block));
    }
    axes.shape[static_cast<std::size_t>(axes.channel_axes[0])] = block_axis_size / block;
    axes.channel_axes.push_back(static_cast<Index>(axes.shape.size()));
    axes.shape.push_back(block);
  }
  return axes;
}

}  // namespace

LayoutView layout_view(const void* data, DType dtype, std::string_view layout, const IndexList& sizes) {
  const Axes axes = parse(layout, sizes);
  return {{data, dtype, axes.shape, contiguous_strides(axes.shape)}, axes.channel_axes};
}

MutableLayoutView layout_view(void* data, DType dtype, std::string_view layout, const IndexList& sizes) {
  const Axes axes = parse(layout, sizes);
  return {{data, dtype, axes.shape, contiguous_strides(axes.shape)}, axes.channel_axes};
}

}  // namespace exactnorm

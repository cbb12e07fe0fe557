#include "batch_norm/mask_argument.h"

#include <algorithm>
#include <string>

#include "tensor/checks.h"
#include "traverse/loop_nest.h"

namespace exactnorm {

namespace {

bool is_listed(const IndexList& axes, std::size_t axis) {
  return std::find(axes.begin(), axes.end(), static_cast<Index>(axis)) != axes.end();
}

Index count_selected(const LoopNest& nest, std::size_t at, const std::uint8_t* bytes) {
  const Loop& loop = nest.loops[at];
  const Index stride = loop.strides[0];
  Index count = 0;
  for (Index i = 0; i < loop.size; ++i) {
    count +=
        at + 1 == nest.loops.size() ? Index{bytes[i * stride] != 0} : count_selected(nest, at + 1, bytes + i * stride);
  }
  return count;
}

}  // namespace

TensorView spread_over_channels(const char* name, const TensorView& reduced, const IndexList& axes,
                                const TensorView& x) {
  IndexList reduced_shape;
  for (std::size_t axis = 0; axis < x.rank(); ++axis) {
    if (!is_listed(axes, axis)) reduced_shape.push_back(x.shape[axis]);
  }
  const auto refuse = [&] {
    IndexList kept = x.shape;
    for (const Index axis : axes) kept[static_cast<std::size_t>(axis)] = 1;
    throw Error(name, "has shape " + to_string(reduced.shape) + "; expected " + to_string(kept) + " or " +
                          to_string(reduced_shape) + ", or 1 on some of these axes");
  };
  const bool has_all_axes = reduced.rank() == x.rank();
  if (!has_all_axes && reduced.rank() != reduced_shape.size()) refuse();
  TensorView layout = {nullptr, reduced.dtype, x.shape, {}};
  std::size_t at = 0;
  for (std::size_t axis = 0; axis < x.rank(); ++axis) {
    const bool is_channel = is_listed(axes, axis);
    Index stride = 0;
    if (has_all_axes || !is_channel) {
      const Index size = reduced.shape[at];
      if (size != 1 && (is_channel || size != x.shape[axis])) refuse();
      if (size != 1) stride = reduced.strides[at];
      ++at;
    }
    layout.strides.push_back(stride);
  }
  return layout;
}

MaskArgument::MaskArgument(const Mask& mask, const IndexList& axes, const TensorView& x)
    : argument_(Argument::input("mask", mask.selected)), masked_(mask.masked) {
  if (mask.selected.dtype != DType::boolean) {
    throw Error("mask", "has dtype " + std::string(name_of(mask.selected.dtype)) + "; expected bool");
  }
  layout_ = spread_over_channels("mask", mask.selected, axes, x);
  const Index elements = element_count(x.shape);
  if (elements > 0) repeats_ = elements / channel_count(axes, x) / element_count(mask.selected.shape);
}

Selection MaskArgument::select(const void* address) const {
  const auto* const bytes = static_cast<const std::uint8_t*>(address);
  Selection selection = {.bytes = bytes, .masked = masked_};
  if (repeats_ == 0) return selection;
  const LoopNest nest = make_loop_nest({&argument_.layout(), 1}, {}, {0, {}});
  selection.count = repeats_ * count_selected(nest, 0, bytes + nest.offsets[0]);
  return selection;
}

SelectedView selected_view(const Mask& mask, const IndexList& axes, const TensorView& x) {
  const MaskArgument argument(mask, axes, x);
  argument.argument().check_address(mask.selected.data);
  return {argument.layout(), argument.select(mask.selected.data)};
}

}  // namespace exactnorm

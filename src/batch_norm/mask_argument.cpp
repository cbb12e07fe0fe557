#include "batch_norm/mask_argument.h"

#include <string>

#include "tensor/checks.h"
#include "traverse/loop_nest.h"

namespace exactnorm {

namespace {

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

MaskArgument::MaskArgument(const Mask& mask, const IndexList& axes, const TensorView& x)
    : argument_(Argument::input("mask", mask.selected)), masked_(mask.masked) {
  if (mask.selected.dtype != DType::boolean) {
    throw Error("mask", "has dtype " + std::string(name_of(mask.selected.dtype)) + "; expected bool");
  }
  layout_ = spread_reduced("mask", mask.selected, axes, x);
  layout_.data = nullptr;
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

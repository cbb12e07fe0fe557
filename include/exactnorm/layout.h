#pragma once

#include <string_view>

#include "exactnorm/export.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// A view together with the axes that are its channels.
struct EXACTNORM_EXPORT LayoutView {
  TensorView view;
  IndexList channel_axes;
};
struct EXACTNORM_EXPORT MutableLayoutView {
  MutableTensorView view;
  IndexList channel_axes;
};

/// Dense memory described by the order of its axes, slowest first, as in "nchw", "nhwc", "nc", "cn",
/// "ncdhw" or "hwcn": letters out of n, c, d, h, w, l and m, each at most once, with one c for the channels.
/// A blocked layout is written as oneDNN does: "nChw16c" has C for the blocks and 16c for the channels
/// in a block, and `sizes` then gives the number of all channels, a multiple of 16, at the C.
///
/// `sizes` has one size per letter, in the order of the letters (the block's own size left out).
/// Throws Error when the layout is not of that form or does not fit `sizes`.
[[nodiscard]] EXACTNORM_EXPORT LayoutView layout_view(const void* data, DType dtype, std::string_view layout,
                                                      const IndexList& sizes);
[[nodiscard]] EXACTNORM_EXPORT MutableLayoutView layout_view(void* data, DType dtype, std::string_view layout,
                                                             const IndexList& sizes);

template <typename T>
[[nodiscard]] LayoutView layout_view(const T* data, std::string_view layout, const IndexList& sizes) {
  return layout_view(static_cast<const void*>(data), dtype_of<T>(), layout, sizes);
}
template <typename T>
[[nodiscard]] MutableLayoutView layout_view(T* data, std::string_view layout, const IndexList& sizes) {
  return layout_view(static_cast<void*>(data), dtype_of<T>(), layout, sizes);
}

}  // namespace exactnorm

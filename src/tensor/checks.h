#pragma once

#include <string>

#include "exactnorm/options.h"
#include "exactnorm/tensor.h"

// What every public function asks of its arguments before it starts.

namespace exactnorm {

/// The channel axes with negative ones resolved. Throws Error naming channel_axes.
[[nodiscard]] IndexList resolve_channel_axes(const IndexList& channel_axes, const TensorView& x);

/// A dense tensor of this shape, without data.
[[nodiscard]] TensorView without_data(const IndexList& shape);

/// Number of channels: the product of the sizes of the (resolved) channel axes.
[[nodiscard]] Index channel_count(const IndexList& resolved_axes, const TensorView& x);

/// A number as an error message shows it: short, but exact enough to be found again.
[[nodiscard]] std::string to_text(double value);

/// All of a view but its address: rank, strides, sizes.
void check_layout(const std::string& name, const TensorView& x);
/// The address, which is not looked at where there are no elements.
void check_address(const std::string& name, const TensorView& x);
/// Both.
void check_view(const std::string& name, const TensorView& x);

/// check_layout, float dtype, and no two elements at one address.
void check_output_layout(const std::string& name, const TensorView& y);
/// And the address.
void check_output(const std::string& name, const TensorView& y);

void check_same_shape(const std::string& name, const TensorView& y, const std::string& reference_name,
                      const TensorView& reference);

/// dy beside a checked x, but for its address: a float dtype and the same shape.
void check_gradient(const TensorView& dy, const TensorView& x);

/// Epsilon and threads.
void check_options(const Options& options);

/// The bytes that a view with elements spans, from its address on: from `begin` to before `end`.
struct Extent {
  Index begin = 0;
  Index end = 0;
};
[[nodiscard]] Extent extent_of(const TensorView& x) noexcept;

/// Whether any element of `a` shares a byte with any element of `b`.
[[nodiscard]] bool views_overlap(const TensorView& a, const TensorView& b);

/// Refuses an output that overlaps `other`, unless the two are the very same view and `may_be_same`.
void check_overlap(const std::string& output_name, const TensorView& output, const std::string& other_name,
                   const TensorView& other, bool may_be_same);

/// A view of a per-channel parameter, whose layout is checked, with the sizes of the channel axes. Throws Error unless
/// its shape is (channels,), the sizes of the channel axes, or x's shape with 1 on the reduced axes. x needs no data.
[[nodiscard]] TensorView view_parameter(const std::string& name, const TensorView& parameter,
                                        const IndexList& resolved_axes, const TensorView& x);

/// A mask, or weights, whose layout is checked, with x's rank and 1 on the channel axes. Throws Error that names it
/// where its shape is neither x's with 1 on the channel axes nor that of the other axes, but for sizes of 1.
[[nodiscard]] TensorView view_reduced(const std::string& name, const TensorView& reduced,
                                      const IndexList& resolved_axes, const TensorView& x);
/// The same spread over x's shape, with strides of 0 along axes of size 1.
[[nodiscard]] TensorView spread_reduced(const std::string& name, const TensorView& reduced,
                                        const IndexList& resolved_axes, const TensorView& x);

}  // namespace exactnorm

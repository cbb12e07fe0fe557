#pragma once

#include <string>
#include <vector>

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

/// Rank, strides, sizes, pointer and its alignment.
void check_view(const std::string& name, const TensorView& x);

/// check_view, float dtype, and no two elements at one address.
void check_output(const std::string& name, const TensorView& y);

void check_same_shape(const std::string& name, const TensorView& y, const std::string& reference_name,
                      const TensorView& reference);

/// dy beside a checked x: a float dtype and the same shape.
void check_gradient(const TensorView& dy, const TensorView& x);

/// Epsilon and threads.
void check_options(const Options& options);

/// Whether any element of `a` shares a byte with any element of `b`.
[[nodiscard]] bool views_overlap(const TensorView& a, const TensorView& b);

/// Refuses an output that overlaps `other`, unless the two are the very same view and `may_be_same`.
void check_overlap(const std::string& output_name, const TensorView& output, const std::string& other_name,
                   const TensorView& other, bool may_be_same);

/// A view of a per-channel parameter with the sizes of the channel axes. Throws Error unless its shape is
/// (channels,), the sizes of the channel axes, or x's shape with 1 on the reduced axes. x needs no data.
[[nodiscard]] TensorView view_parameter(const std::string& name, const TensorView& parameter,
                                        const IndexList& resolved_axes, const TensorView& x);

/// The values of such a parameter as float64, in the order of channels. Throws Error as view_parameter does.
[[nodiscard]] std::vector<double> read_parameter(const std::string& name, const TensorView& parameter,
                                                 const IndexList& resolved_axes, const TensorView& x);

/// The same check, and that of an output, for a parameter that will be written; and the write.
void check_output_parameter(const std::string& name, const TensorView& parameter, const IndexList& resolved_axes,
                            const TensorView& x);
void write_parameter(const std::string& name, const MutableTensorView& parameter, const IndexList& resolved_axes,
                     const TensorView& x, const std::vector<double>& values);

}  // namespace exactnorm

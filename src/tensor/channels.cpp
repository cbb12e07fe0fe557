#include "exactnorm/channels.h"

#include <algorithm>
#include <optional>
#include <string>

#include "tensor/checks.h"

namespace exactnorm {

IndexList resolve_channel_axes(const IndexList& channel_axes, const TensorView& x) {
  const auto rank = static_cast<Index>(x.rank());
  IndexList resolved;
  for (const Index axis : channel_axes) {
    const Index positive = axis < 0 ? axis + rank : axis;
    if (positive < 0 || positive >= rank) {
      throw Error("channel_axes",
                  "has " + std::to_string(axis) + "; expected axes of a tensor of shape " + to_string(x.shape));
    }
    if (std::find(resolved.begin(), resolved.end(), positive) != resolved.end()) {
      throw Error("channel_axes", "is " + to_string(channel_axes) + "; expected each axis at most once");
    }
    resolved.push_back(positive);
  }
  return resolved;
}

namespace {

IndexList channel_sizes(const IndexList& resolved_axes, const TensorView& x) {
  IndexList sizes;
  for (const Index axis : resolved_axes) sizes.push_back(x.shape[static_cast<std::size_t>(axis)]);
  return sizes;
}

bool is_listed(const IndexList& axes, std::size_t axis) {
  return std::find(axes.begin(), axes.end(), static_cast<Index>(axis)) != axes.end();
}

// The strides that walk a parameter in channel order, one per channel axis, if it fits.
std::optional<IndexList> parameter_strides(const TensorView& parameter, const IndexList& axes, const TensorView& x) {
  const IndexList sizes = channel_sizes(axes, x);
  if (parameter.shape == sizes) return parameter.strides;
  IndexList strides;
  if (parameter.rank() == 1 && parameter.shape[0] == element_count(sizes)) {  // (channels,)
    strides = sizes;
    Index stride = parameter.strides[0];
    for (std::size_t i = axes.size(); i-- > 0;) {
      strides[i] = stride;
      stride *= sizes[i];
    }
    return strides;
  }
  if (parameter.rank() != x.rank()) return std::nullopt;
  for (std::size_t i = 0; i < x.rank(); ++i) {  // as keepdims leaves it
    if (parameter.shape[i] != (is_listed(axes, i) ? x.shape[i] : 1)) return std::nullopt;
  }
  for (const Index axis : axes) strides.push_back(parameter.strides[static_cast<std::size_t>(axis)]);
  return strides;
}

}  // namespace

TensorView without_data(const IndexList& shape) { return {nullptr, DType::float32, shape, contiguous_strides(shape)}; }

Index channel_count(const IndexList& resolved_axes, const TensorView& x) {
  return element_count(channel_sizes(resolved_axes, x));
}

ChannelAxes channel_axes_of(const IndexList& shape, const Options& options) {
  check_options(options);
  static_cast<void>(element_count(shape));
  const TensorView x = without_data(shape);
  ChannelAxes result;
  result.axes = resolve_channel_axes(options.channel_axes, x);
  result.sizes = channel_sizes(result.axes, x);
  result.channels = element_count(result.sizes);
  return result;
}

TensorView parameter_view(const TensorView& parameter, const IndexList& shape, const Options& options) {
  check_view("parameter", parameter);
  return view_parameter("parameter", parameter, channel_axes_of(shape, options).axes, without_data(shape));
}

TensorView reduced_view(const TensorView& reduced, const IndexList& shape, const Options& options) {
  check_layout("reduced", reduced);
  return view_reduced("reduced", reduced, channel_axes_of(shape, options).axes, without_data(shape));
}

TensorView view_reduced(const std::string& name, const TensorView& reduced, const IndexList& axes,
                        const TensorView& x) {
  IndexList kept = x.shape;
  for (const Index axis : axes) kept[static_cast<std::size_t>(axis)] = 1;
  IndexList reduced_shape;
  for (std::size_t axis = 0; axis < x.rank(); ++axis) {
    if (!is_listed(axes, axis)) reduced_shape.push_back(x.shape[axis]);
  }
  const bool has_all_axes = reduced.rank() == x.rank();
  const IndexList& expected = has_all_axes ? kept : reduced_shape;
  const auto fits = [](Index size, Index of_axis) { return size == 1 || size == of_axis; };
  if (!std::equal(reduced.shape.begin(), reduced.shape.end(), expected.begin(), expected.end(), fits)) {
    throw Error(name, "has shape " + to_string(reduced.shape) + "; expected " + to_string(kept) + " or " +
                          to_string(reduced_shape) + ", or 1 on some of these axes");
  }
  TensorView view = {reduced.data, reduced.dtype, {}, {}};
  std::size_t at = 0;
  for (std::size_t axis = 0; axis < x.rank(); ++axis) {
    const bool has_axis = has_all_axes || !is_listed(axes, axis);
    view.shape.push_back(has_axis ? reduced.shape[at] : 1);
    view.strides.push_back(has_axis ? reduced.strides[at] : 0);
    if (has_axis) ++at;
  }
  return view;
}

TensorView spread_reduced(const std::string& name, const TensorView& reduced, const IndexList& axes,
                          const TensorView& x) {
  TensorView view = view_reduced(name, reduced, axes, x);
  for (std::size_t axis = 0; axis < x.rank(); ++axis) {
    if (view.shape[axis] == 1) view.strides[axis] = 0;
  }
  view.shape = x.shape;
  return view;
}

TensorView view_parameter(const std::string& name, const TensorView& parameter, const IndexList& resolved_axes,
                          const TensorView& x) {
  const std::optional<IndexList> strides = parameter_strides(parameter, resolved_axes, x);
  if (!strides) {
    throw Error(name, "has shape " + to_string(parameter.shape) + "; expected one element for each of the " +
                          std::to_string(channel_count(resolved_axes, x)) + " channels");
  }
  return {parameter.data, parameter.dtype, channel_sizes(resolved_axes, x), *strides};
}

}  // namespace exactnorm

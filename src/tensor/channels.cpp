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
    const bool is_channel = std::find(axes.begin(), axes.end(), static_cast<Index>(i)) != axes.end();
    if (parameter.shape[i] != (is_channel ? x.shape[i] : 1)) return std::nullopt;
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

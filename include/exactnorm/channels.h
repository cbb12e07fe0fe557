#pragma once

#include "exactnorm/export.h"
#include "exactnorm/options.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// The channels of a tensor, as `channel_axes_of` finds them.
struct EXACTNORM_EXPORT ChannelAxes {
  /// `Options::channel_axes`, each from 0 to rank - 1.
  IndexList axes;
  /// The sizes of these axes, in the same order.
  IndexList sizes;
  /// Number of channels: the product of the sizes, 1 without any axis.
  Index channels = 1;
};

/// The channels of a tensor of this shape. Needs no data, so that a program can check its options before it reads any.
/// Throws Error when `shape` is impossible, when `options.channel_axes` does not fit it, or when epsilon or threads are
/// impossible.
[[nodiscard]] EXACTNORM_EXPORT ChannelAxes channel_axes_of(const IndexList& shape, const Options& options = {});

/// A view of a parameter's memory whose axes are the channel axes of a tensor of this shape, in the order of
/// `options.channel_axes`: `values_of` it are the values of channel 0, 1, and so on. The parameter has one of the
/// shapes that Affine allows, any dtype and any strides; its memory must outlive the view. Throws Error that names
/// `parameter` when its shape is another, and as `channel_axes_of` does.
[[nodiscard]] EXACTNORM_EXPORT TensorView parameter_view(const TensorView& parameter, const IndexList& shape,
                                                         const Options& options = {});

/// A view of the memory of a mask or of weights, of as many axes as a tensor of this shape and with 1 on its channel
/// axes: it has that tensor's shape with 1 on the channel axes, or the shape of the other axes alone; a size of 1 on
/// any axis stands for all of it, and is kept. Needs no data. Throws Error that names `reduced` when its shape is
/// another, and as `channel_axes_of` does.
[[nodiscard]] EXACTNORM_EXPORT TensorView reduced_view(const TensorView& reduced, const IndexList& shape,
                                                       const Options& options = {});

/// Where a block lies in a larger tensor of the same rank: for data that comes in blocks. A block is a range of each
/// axis, the channel axes included. Functions that take a place number the channels as the whole tensor numbers them.
struct EXACTNORM_EXPORT Place {
  /// The shape of the whole tensor.
  IndexList whole_shape;
  /// The index, in the whole tensor, of the block's first element: one number per axis.
  IndexList begin;
};

}  // namespace exactnorm

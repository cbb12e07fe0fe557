#pragma once

#include "exactnorm/channels.h"
#include "exactnorm/tensor.h"
#include "traverse/loop_nest.h"

namespace exactnorm {

/// Refuses a place that does not hold `x`, which is checked.
void check_place(const Place& place, const TensorView& x);

/// The numbers that the channels of a block at a (checked) place have in the whole tensor.
[[nodiscard]] ChannelMap number_channels_in(const Place& place, const IndexList& resolved_axes);

/// Checks `place` and returns its channel axes, resolved. Throws Error that names it where the whole tensor has another
/// number of channels than `channels`, which those of `owner` are.
[[nodiscard]] IndexList check_place_channels(const Place& place, const TensorView& x, const IndexList& channel_axes,
                                             Index channels, const char* owner);

}  // namespace exactnorm

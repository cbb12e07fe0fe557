#pragma once

#include <span>

#include "exactnorm/tensor.h"
#include "traverse/loop_nest.h"
#include "traverse/selection.h"

namespace exactnorm {

/// Lowers minimum[c] and raises maximum[c] to the finite values of each channel c of x. `channels` numbers
/// the channels of x, which may be a piece of a larger tensor. `threads` is resolved. Start from +infinity and
/// -infinity, which stay where a channel has no finite value. A zero is stored as +0, so that the result does
/// not depend on any order. `selected` is null for all elements.
void widen_value_ranges(const TensorView& x, const SelectedView* selected, const IndexList& channel_axes,
                        const ChannelMap& channels, int threads, std::span<double> minimum, std::span<double> maximum);

}  // namespace exactnorm

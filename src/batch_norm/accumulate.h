#pragma once

#include <span>

#include "exactnorm/sums.h"
#include "exactnorm/tensor.h"
#include "traverse/loop_nest.h"
#include "traverse/selection.h"

namespace exactnorm {

/// Adds a piece of a larger tensor to sums over that tensor: `channels` numbers the piece's channels
/// within the whole. Arguments are checked already; the count is the caller's to keep. `selected` is null for all
/// elements.
void accumulate_part(PartialSums& sums, std::span<const TensorView> operands, const SelectedView* selected,
                     const IndexList& channel_axes, const ChannelMap& channels, int threads);

}  // namespace exactnorm

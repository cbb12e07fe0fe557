#pragma once

#include <span>
#include <vector>

#include "combine/channel_sums.h"
#include "exactnorm/partial_sums.h"
#include "exactnorm/tensor.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"

namespace exactnorm {

/// The range that exact sums over these operands need: extended when one of them exceeds float32.
[[nodiscard]] PartialSums::Range range_for(std::span<const TensorView> operands) noexcept;

/// The most channels of a box over short runs that are reduced well: few, where their elements have to be gathered
/// first.
[[nodiscard]] Index most_channels(const LoopNest& nest, std::span<const TensorView> operands) noexcept;

/// Adds one box of a nest over x (moments), or over dy and x (gradients), to `sums`, whose channels are
/// those of the box in the order of `channels_of`. Boxes of one partition may be added to the same `sums` one after the
/// other.
void reduce_box(const LoopNest& nest, const Box& box, std::span<const TensorView> operands, ChannelSums& sums);

}  // namespace exactnorm

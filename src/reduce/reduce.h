#pragma once

#include <span>
#include <vector>

#include "exactnorm/partial_sums.h"
#include "exactnorm/tensor.h"
#include "plan/loop_nest.h"
#include "plan/partition.h"

namespace exactnorm {

/// The range that exact sums over these operands need: extended when one of them exceeds float32.
[[nodiscard]] PartialSums::Range range_for(std::span<const TensorView> operands) noexcept;

/// Adds one box of a nest over x (moments), or over dy and x (gradients), to `sums`, whose channels are
/// those of the box in the order of `channels_of`. Does not touch the count.
void reduce_box(const LoopNest& nest, const Box& box, std::span<const TensorView> operands, PartialSums& sums);

}  // namespace exactnorm

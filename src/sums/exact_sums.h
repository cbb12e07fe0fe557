#pragma once

#include <span>
#include <vector>

#include "exactnorm/sums.h"
#include "exactnorm/tensor.h"
#include "sums/sum_operands.h"
#include "tensor/operand.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"

namespace exactnorm {

/// The range that exact sums over these operands need: extended when one of them exceeds float32.
[[nodiscard]] PartialSums::Range range_for(std::span<const Operand> operands) noexcept;

/// Adds one box of a nest over `operands` to `sums`, of a range that holds those that are summed. The box's channels,
/// in the order of channels_of, are `channels` of `sums`; the count of `sums` is left alone.
void add_exactly(const LoopNest& nest, const Box& box, const SumOperands& operands, std::span<const Index> channels,
                 PartialSums& sums);

}  // namespace exactnorm

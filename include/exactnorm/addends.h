#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "exactnorm/export.h"
#include "exactnorm/partial_sums.h"

namespace exactnorm {

// PartialSums for engines that add up numbers, not objects: MPI's and NCCL's all-reduce, torch.distributed's, a
// parameter server's. What they need to know is to add int64 elements.
//
// An exact sum is cut into pieces of 47 bits, each in an int64 of its own, so that up to 65,536 parts can be added up
// without an overflow; `from_addends` carries. Sums of parts are exact, as `PartialSums::merge` is, in any order.

/// The integers to be added up, of a number that depends on channels, kind and range only: 2 + 27 per channel for
/// moments of the range single, 2 + 41 for gradients of that range, 2 + 143 for extended. Parts that are added up must
/// agree in kind, channels and range. Throws Error when `sums` need a larger range than `range`.
[[nodiscard]] EXACTNORM_EXPORT std::vector<std::int64_t> to_addends(const PartialSums& sums, PartialSums::Range range);

/// The merged sums, from the element-wise totals of what `to_addends` gave for each part.
/// Throws Error when the number of totals is another one, when one of them is negative, or when there are more than
/// 2^62 elements in all.
[[nodiscard]] EXACTNORM_EXPORT PartialSums from_addends(std::span<const std::int64_t> totals, Index channels,
                                                        PartialSums::Kind kind, PartialSums::Range range);

}  // namespace exactnorm

#pragma once

#include <cstddef>

#include "exactnorm/tensor.h"
#include "traverse/block_parts.h"
#include "traverse/traversal.h"

namespace exactnorm {

/// How many elements of operand j lie between its address and the first one of a part of a region.
[[nodiscard]] inline Index offset_of(const Region& region, const BlockPart& part, std::size_t j) noexcept {
  return region.offsets[j] + part.channel * region.channel_strides[j] + part.row * region.row_strides[j] +
         part.column * region.steps[j];
}

/// Calls copy(offset, count, step, position) for all elements of operand j in a part of a region: how many elements
/// the first of `count` lies from the operand's address, how many the next lies from it, and where among the part's
/// elements it is, in the order of channels, rows and columns.
template <typename Copy>
void for_elements(const Region& region, const BlockPart& part, std::size_t j, const Copy& copy) {
  const Index start = offset_of(region, part, j);
  // Rows, and channels, without a gap between them are one.
  const bool are_rows_one =
      part.rows == 1 || (region.row_strides[j] == region.count * region.steps[j] && part.columns == region.count);
  const Index row = are_rows_one ? part.rows * part.columns : part.columns;
  const bool are_channels_one =
      part.channels == 1 || (are_rows_one && region.channel_strides[j] == row * region.steps[j]);
  const Index count = are_channels_one ? part.channels * row : row;
  Index at = 0;
  for (Index channel = 0; channel < (are_channels_one ? 1 : part.channels); ++channel) {
    for (Index i = 0; i < (are_rows_one ? 1 : part.rows); ++i) {
      copy(start + channel * region.channel_strides[j] + i * region.row_strides[j], count, region.steps[j], at);
      at += count;
    }
  }
}

}  // namespace exactnorm

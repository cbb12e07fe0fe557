#pragma once

#include <algorithm>
#include <limits>

#include "exactnorm/tensor.h"

namespace exactnorm {

/// Some elements of a region or block, few enough for a buffer: all of several channels, some rows of one, or parts of
/// rows.
struct BlockPart {
  Index channel;
  Index channels;
  Index row;
  Index rows;
  Index column;
  Index columns;
};

/// What parts have at most, and the multiple of rows that parts of all columns have, but for the last.
struct PartLimits {
  Index elements;
  Index row_multiple = 1;
  Index columns = std::numeric_limits<Index>::max();
};

/// Calls visit(part) for parts of something of so many channels, rows of each and columns.
template <typename Visit>
void for_parts(Index channels, Index rows, Index columns, const PartLimits& limits, const Visit& visit) {
  const auto [elements, row_multiple, most_columns] = limits;
  const Index some_columns = std::min({columns, most_columns, elements});
  const Index some_rows = std::min(std::max<Index>(elements / some_columns / row_multiple, 1) * row_multiple, rows);
  const bool is_whole = some_columns == columns && some_rows == rows;
  const Index some_channels = is_whole ? std::clamp<Index>(elements / (rows * columns), 1, channels) : 1;
  for (Index channel = 0; channel < channels; channel += some_channels) {
    for (Index row = 0; row < rows; row += some_rows) {
      for (Index column = 0; column < columns; column += some_columns) {
        visit(BlockPart{channel, std::min(some_channels, channels - channel), row, std::min(some_rows, rows - row),
                        column, std::min(some_columns, columns - column)});
      }
    }
  }
}

}  // namespace exactnorm

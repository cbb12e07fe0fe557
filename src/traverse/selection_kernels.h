#pragma once

#include <cstdint>

#include "exactnorm/tensor.h"

// The vector code of selections: each element has a byte, which is not 0 where it is selected.

namespace exactnorm {

enum class SelectionWay : std::uint8_t {
  /// The selected elements follow each other, in their order. `to`, which may be `from`, has room for all elements.
  compact,
  /// Each element in its place, but 0 for the others. `to` may be `from`.
  clear,
  /// Each selected element in its place; the others of `to` stay.
  overwrite,
  /// The same with the others in place of those that are selected.
  overwrite_others
};

/// Copies elements of `count`, and returns the number of those that are selected.
Index copy_selected(SelectionWay way, const std::uint8_t* bytes, const float* from, Index count, float* to);
Index copy_selected(SelectionWay way, const std::uint8_t* bytes, const double* from, Index count, double* to);
Index copy_selected(SelectionWay way, const std::uint8_t* bytes, const bfloat16* from, Index count, bfloat16* to);
Index copy_selected(SelectionWay way, const std::uint8_t* bytes, const float16* from, Index count, float16* to);

}  // namespace exactnorm

#pragma once

#include <cstdint>

#include "exactnorm/options.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// The elements of a nest that a mask selects: a byte that is not 0 for each. The bytes are the operand after all
/// others, which does not move along the channels.
struct Selection {
  const std::uint8_t* bytes = nullptr;
  Index count = 0;  // of each channel

  /// Of an output: what is written of the others. `zero` and `untouched` only.
  MaskedOutput masked = MaskedOutput::zero;
  /// The output is of those that are not selected instead; `untouched` only.
  bool is_inverted = false;
};

/// A selection, and its bytes as a tensor of the shape of all other operands.
struct SelectedView {
  TensorView bytes;
  Selection selection;
};

/// Calls visit(first, count, is_selected) for each stretch of bytes that are 0, or that are not.
template <typename Visit>
void for_stretches(const std::uint8_t* bytes, Index count, const Visit& visit) {
  for (Index i = 0; i < count;) {
    const bool is_selected = bytes[i] != 0;
    Index end = i + 1;
    while (end < count && (bytes[end] != 0) == is_selected) ++end;
    visit(i, end - i, is_selected);
    i = end;
  }
}

}  // namespace exactnorm

#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "exactnorm/tensor.h"

namespace exactnorm {

/// A range of each axis of a tensor.
struct Piece {
  IndexList begin;
  IndexList size;

  /// Of a view of the tensor's shape.
  template <typename View>
  [[nodiscard]] View of(View view) const {
    for (std::size_t axis = 0; axis < begin.size(); ++axis) view = slice(view, axis, begin[axis], size[axis]);
    return view;
  }
};

/// Calls visit(piece) for pieces of a tensor of this shape, in row-major order: of at most 65,536 elements, for
/// operations that copy them, or of more where only other axes than `axes` could be cut.
template <typename Visit>
void for_each_piece(const IndexList& shape, const std::vector<std::size_t>& axes, const Visit& visit) {
  constexpr Index most = 65536;
  Piece piece = {shape, shape};
  std::fill(piece.begin.begin(), piece.begin.end(), 0);
  const auto cut = [&](const auto& self, std::size_t at) -> void {
    const Index elements = element_count(piece.size);
    if (elements <= most || at == axes.size()) {
      visit(static_cast<const Piece&>(piece));
      return;
    }
    const std::size_t axis = axes[at];
    const Index step = std::clamp<Index>(most / (elements / shape[axis]), 1, shape[axis]);
    for (Index begin = 0; begin < shape[axis]; begin += step) {
      piece.begin[axis] = begin;
      piece.size[axis] = std::min(step, shape[axis] - begin);
      self(self, at + 1);
    }
    piece.begin[axis] = 0;
    piece.size[axis] = shape[axis];
  };
  cut(cut, 0);
}

}  // namespace exactnorm

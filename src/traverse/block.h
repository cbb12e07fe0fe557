#pragma once

#include <array>
#include <cstddef>

#include "exactnorm/tensor.h"
#include "tensor/operand.h"

namespace exactnorm {

/// A region as kernels read it: rows of elements of type T, side by side.
template <typename T, std::size_t kOperands>
struct Block {
  std::array<const T*, kOperands> data{};
  std::array<Index, kOperands> channel_strides{};  // elements, from a channel to the next
  std::array<Index, kOperands> strides{};          // elements, from a row to the next
  Index channels = 1;
  Index rows = 1;
  Index count = 0;
  Index slot = 0;
  Index prefetch = 0;
  T* output = nullptr;       // the last operand, where it is written
  bool is_streamed = false;  // whether the output is to be written past the caches
};

/// The last operand of a traversal, where it is written.
struct Output {
  OutputOperand to;
  bool is_streamed;  // in whole cache lines
};

}  // namespace exactnorm

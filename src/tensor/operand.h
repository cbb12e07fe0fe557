#pragma once

#include "exactnorm/tensor.h"

namespace exactnorm {

/// What kernels need to know of a tensor beside the loops that go through it: its address and its elements.
struct Operand {
  const void* data = nullptr;
  DType dtype = DType::float32;

  Operand() = default;
  Operand(const void* address, DType type) : data(address), dtype(type) {}
  Operand(const TensorView& x) : data(x.data), dtype(x.dtype) {}         // NOLINT(google-explicit-constructor)
  Operand(const MutableTensorView& x) : data(x.data), dtype(x.dtype) {}  // NOLINT(google-explicit-constructor)
};

/// The same for a tensor that is written.
struct OutputOperand {
  void* data = nullptr;
  DType dtype = DType::float32;
};

}  // namespace exactnorm

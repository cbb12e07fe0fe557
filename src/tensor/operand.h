#pragma once

#include <algorithm>
#include <span>

#include "exactnorm/tensor.h"
#include "tensor/element_type.h"

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

/// Whether float32 holds every value of all operands.
[[nodiscard]] inline bool all_fit_float32(std::span<const Operand> operands) noexcept {
  return std::all_of(operands.begin(), operands.end(), [](const Operand& x) { return dtype_fits_float32(x.dtype); });
}

/// The type of the elements that kernels read and write: bfloat16 or float16 where that is the type of all operands,
/// else float32 where it holds all of them, else float64. Operands of other types are packed.
[[nodiscard]] inline DType type_of_kernels(std::span<const Operand> operands) noexcept {
  const DType first = operands.front().dtype;
  const auto is_first = [&](const Operand& x) { return x.dtype == first; };
  if (is_half_type(first) && std::all_of(operands.begin(), operands.end(), is_first)) return first;
  return all_fit_float32(operands) ? DType::float32 : DType::float64;
}

}  // namespace exactnorm

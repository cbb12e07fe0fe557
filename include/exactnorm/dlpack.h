#pragma once

// Needs dlpack/dlpack.h from your project; the library itself neither includes nor needs it.

#include <dlpack/dlpack.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "exactnorm/tensor.h"

namespace exactnorm {

namespace detail {

inline DType dtype_from_dlpack(const DLDataType& type) {
  if (type.lanes == 1) {
    if (type.code == kDLFloat && type.bits == 32) return DType::float32;
    if (type.code == kDLFloat && type.bits == 64) return DType::float64;
    if (type.code == kDLUInt && type.bits == 8) return DType::uint8;
    if (type.code == kDLInt && type.bits == 8) return DType::int8;
    if (type.code == kDLInt && type.bits == 16) return DType::int16;
    if (type.code == kDLInt && type.bits == 32) return DType::int32;
    if (type.code == kDLInt && type.bits == 64) return DType::int64;
  }
  throw Error("tensor", "DLPack type code " + std::to_string(type.code) + " with " + std::to_string(type.bits) +
                            " bits and " + std::to_string(type.lanes) +
                            " lanes; expected float32, float64, uint8, int8, int16, int32 or int64");
}

}  // namespace detail

/// A view of a DLPack tensor's memory, which must outlive the view. Missing strides mean row-major.
/// Throws Error when the tensor is not in CPU memory, has more than 8 dimensions or an element type
/// that the library does not know.
[[nodiscard]] inline MutableTensorView mutable_view(const DLTensor& tensor) {
  if (tensor.device.device_type != kDLCPU && tensor.device.device_type != kDLCUDAHost) {
    throw Error("tensor", "DLPack device type " + std::to_string(static_cast<int>(tensor.device.device_type)) +
                              "; expected CPU memory (1) or CUDA host memory (3)");
  }
  if (tensor.ndim < 0 || tensor.ndim > static_cast<int>(maximum_rank)) {
    throw Error("tensor", "has " + std::to_string(tensor.ndim) + " dimensions; expected 0 to 8");
  }
  MutableTensorView result;
  result.dtype = detail::dtype_from_dlpack(tensor.dtype);
  const auto rank = static_cast<std::size_t>(tensor.ndim);
  for (std::size_t i = 0; i < rank; ++i) result.shape.push_back(tensor.shape[i]);
  if (tensor.strides == nullptr) {
    result.strides = contiguous_strides(result.shape);
  } else {
    for (std::size_t i = 0; i < rank; ++i) result.strides.push_back(tensor.strides[i]);
  }
  if (tensor.data != nullptr) result.data = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  return result;
}

[[nodiscard]] inline TensorView view(const DLTensor& tensor) { return mutable_view(tensor); }

}  // namespace exactnorm

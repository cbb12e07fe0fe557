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
  // DLPack has kDLBool since 0.7.
  constexpr unsigned bool_code = 6;
  const auto is = [&](unsigned code, unsigned bits) {
    return type.lanes == 1 && type.code == code && type.bits == bits;
  };
  if (is(kDLFloat, 32)) return DType::float32;
  if (is(kDLFloat, 64)) return DType::float64;
  if (is(kDLBfloat, 16)) return DType::bfloat16;
  if (is(kDLFloat, 16)) return DType::float16;
  if (is(kDLUInt, 8)) return DType::uint8;
  if (is(kDLInt, 8)) return DType::int8;
  if (is(kDLUInt, 16)) return DType::uint16;
  if (is(kDLInt, 16)) return DType::int16;
  if (is(kDLUInt, 32)) return DType::uint32;
  if (is(kDLInt, 32)) return DType::int32;
  if (is(kDLInt, 64)) return DType::int64;
  if (is(bool_code, 8)) return DType::boolean;
  throw Error("tensor", "DLPack type code " + std::to_string(type.code) + " with " + std::to_string(type.bits) +
                            " bits and " + std::to_string(type.lanes) + " lanes; expected " + std::string(dtype_names));
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

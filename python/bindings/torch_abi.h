#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "exactnorm/tensor.h"

// PyTorch's stable C interface, as far as this module calls it: the same in PyTorch 2.10 and later. Its functions are
// looked up in the PyTorch that the process has loaded. So one binary serves all versions, is built without any, and
// finds out at run time where there is none.

namespace exactnorm::python::torch {

/// How arguments and results stand on an operator's stack: numbers and flags in the lowest bytes; a tensor's or list's
/// handle; for what is optional the address of the value, on the heap, or 0.
using StackValue = std::uint64_t;
using BoxedKernel = void (*)(StackValue* stack, std::uint64_t arguments, std::uint64_t results);

struct TensorObject;
struct LibraryObject;
struct ListObject;

/// The functions, all of which return 0 where they succeed, unless they return the value that they are named after.
struct Functions {
  std::uint64_t (*abi_version)();
  std::int32_t (*dtype_float32)();
  std::int32_t (*dtype_float64)();
  std::int32_t (*dtype_bfloat16)();
  std::int32_t (*dtype_float16)();
  std::int32_t (*device_type_cpu)();
  std::int32_t (*delete_tensor)(TensorObject*);
  std::int32_t (*new_tensor)(TensorObject* same, TensorObject** result);
  std::int32_t (*new_undefined_tensor)(TensorObject** result);
  std::int32_t (*is_defined)(TensorObject*, bool*);
  std::int32_t (*data_of)(TensorObject*, void**);
  std::int32_t (*storage_bytes)(TensorObject*, std::int64_t*);
  std::int32_t (*storage_offset)(TensorObject*, std::int64_t*);
  std::int32_t (*rank_of)(TensorObject*, std::int64_t*);
  std::int32_t (*sizes_of)(TensorObject*, std::int64_t**);
  std::int32_t (*strides_of)(TensorObject*, std::int64_t**);
  std::int32_t (*dtype_of)(TensorObject*, std::int32_t*);
  std::int32_t (*empty_strided)(std::int64_t rank, const std::int64_t* sizes, const std::int64_t* strides,
                                std::int32_t dtype, std::int32_t device_type, std::int32_t device_index,
                                TensorObject** result);
  std::int32_t (*part_of_storage)(TensorObject*, std::int64_t rank, const std::int64_t* sizes,
                                  const std::int64_t* strides, std::int64_t offset, TensorObject** result);
  std::int32_t (*threads)(std::uint32_t*);
  bool (*is_grad_enabled)();
  std::int32_t (*call)(const char* name, const char* overload, StackValue* stack, std::uint64_t version);
  std::int32_t (*new_library)(const char* of, const char* dispatch_key, const char* file, std::uint32_t line,
                              LibraryObject** result);
  std::int32_t (*delete_library)(LibraryObject*);
  std::int32_t (*replace)(LibraryObject*, const char* name, BoxedKernel kernel, std::uint64_t version);
  std::int32_t (*list_size)(ListObject*, std::size_t*);
  std::int32_t (*list_item)(ListObject*, std::size_t, StackValue*);
  std::int32_t (*new_list)(std::size_t, ListObject**);
  std::int32_t (*append)(ListObject*, StackValue);
  std::int32_t (*delete_list)(ListObject*);
  const char* (*last_error)();  // null before PyTorch 2.13
};

/// Throws std::runtime_error, which says what is missing, where PyTorch is not loaded or older than 2.10.
[[nodiscard]] const Functions& functions();

/// The version of PyTorch's interface that this module speaks: that of 2.10.
inline constexpr std::uint64_t interface_version = std::uint64_t{0x020a} << 48;

/// Throws std::runtime_error, with PyTorch's own words where it hands them out, unless the status is 0.
void check(std::int32_t status, const char* what);

/// A reference to a tensor, which may be undefined. Calls of an undefined one are not allowed.
class Tensor {
 public:
  Tensor() = default;
  /// Takes over the reference.
  explicit Tensor(TensorObject* object) noexcept : object_(object) {}
  Tensor(Tensor&& other) noexcept : object_(std::exchange(other.object_, nullptr)), view_(other.view_) {}
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(object_, other.object_);
    std::swap(view_, other.view_);
    return *this;
  }
  ~Tensor();

  [[nodiscard]] bool is_defined() const;
  [[nodiscard]] TensorObject* object() const noexcept { return object_; }
  /// One more reference, as a stack takes it; of an undefined tensor where there is none.
  [[nodiscard]] TensorObject* share() const;

  /// None for a dtype that the library does not know.
  [[nodiscard]] std::optional<DType> dtype() const;
  /// Of a tensor of a dtype that the library knows, and of up to 8 axes.
  [[nodiscard]] const MutableTensorView& mutable_view() const { return view_ ? *view_ : ask_for_view(); }
  [[nodiscard]] TensorView view() const { return mutable_view(); }
  [[nodiscard]] std::int64_t rank() const;

 private:
  const MutableTensorView& ask_for_view() const;

  TensorObject* object_ = nullptr;
  mutable std::optional<MutableTensorView> view_;  // asked for once: a call of a small tensor is short
};

/// A new tensor of the CPU, without values.
[[nodiscard]] Tensor empty(const IndexList& sizes, const IndexList& strides, DType dtype);
[[nodiscard]] std::int32_t code_of(DType dtype);

// Stacks.

template <typename Number>
[[nodiscard]] Number number_from(StackValue value) noexcept;
template <>
[[nodiscard]] inline double number_from<double>(StackValue value) noexcept {
  return std::bit_cast<double>(value);
}
template <>
[[nodiscard]] inline bool number_from<bool>(StackValue value) noexcept {
  return (value & 0xff) != 0;
}
/// These take over what the value owns.
[[nodiscard]] Tensor tensor_from(StackValue value) noexcept;
[[nodiscard]] Tensor optional_tensor_from(StackValue value);  // undefined for none, too
[[nodiscard]] std::vector<bool> flags_from(StackValue value);

[[nodiscard]] StackValue to_stack(double number) noexcept;
[[nodiscard]] StackValue to_stack(bool flag) noexcept;
/// One more reference.
[[nodiscard]] StackValue to_stack(const Tensor& tensor);
[[nodiscard]] StackValue to_optional(const Tensor& tensor);  // none where it is undefined
[[nodiscard]] StackValue to_stack(const std::vector<bool>& flags);

}  // namespace exactnorm::python::torch

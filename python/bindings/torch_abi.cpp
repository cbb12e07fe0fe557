#include "torch_abi.h"

#include <dlfcn.h>

#include <bit>
#include <stdexcept>

namespace exactnorm::python::torch {

namespace {

// libtorch_cpu.so is loaded without its symbols being global.
void* loaded_pytorch() {
  void* const library = ::dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) throw std::runtime_error("PyTorch is not loaded; expected libtorch_cpu.so in this process");
  return library;
}

template <typename Function>
void find(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(::dlsym(library, name));
  if (function == nullptr) {
    throw std::runtime_error(std::string("PyTorch has no ") + name + "; expected PyTorch 2.10 or later");
  }
}

Functions find_functions() {
  void* const library = loaded_pytorch();
  Functions found = {};
  find(library, "aoti_torch_abi_version", found.abi_version);
  find(library, "aoti_torch_dtype_float32", found.dtype_float32);
  find(library, "aoti_torch_dtype_float64", found.dtype_float64);
  find(library, "aoti_torch_dtype_bfloat16", found.dtype_bfloat16);
  find(library, "aoti_torch_dtype_float16", found.dtype_float16);
  find(library, "aoti_torch_device_type_cpu", found.device_type_cpu);
  find(library, "aoti_torch_delete_tensor_object", found.delete_tensor);
  find(library, "aoti_torch_new_tensor_handle", found.new_tensor);
  find(library, "aoti_torch_new_uninitialized_tensor", found.new_undefined_tensor);
  find(library, "aoti_torch_is_defined", found.is_defined);
  find(library, "aoti_torch_get_data_ptr", found.data_of);
  find(library, "aoti_torch_get_storage_size", found.storage_bytes);
  find(library, "aoti_torch_get_storage_offset", found.storage_offset);
  find(library, "aoti_torch_get_dim", found.rank_of);
  find(library, "aoti_torch_get_sizes", found.sizes_of);
  find(library, "aoti_torch_get_strides", found.strides_of);
  find(library, "aoti_torch_get_dtype", found.dtype_of);
  find(library, "aoti_torch_empty_strided", found.empty_strided);
  find(library, "aoti_torch__reinterpret_tensor", found.part_of_storage);
  find(library, "torch_get_num_threads", found.threads);
  find(library, "aoti_torch_grad_mode_is_enabled", found.is_grad_enabled);
  find(library, "torch_call_dispatcher", found.call);
  find(library, "aoti_torch_library_init_impl", found.new_library);
  find(library, "aoti_torch_delete_library_object", found.delete_library);
  find(library, "torch_library_impl", found.replace);
  find(library, "torch_list_size", found.list_size);
  find(library, "torch_list_get_item", found.list_item);
  find(library, "torch_new_list_reserve_size", found.new_list);
  find(library, "torch_list_push_back", found.append);
  find(library, "torch_delete_list", found.delete_list);
  found.last_error =
      reinterpret_cast<const char* (*)()>(::dlsym(library, "torch_exception_get_what_without_backtrace"));
  return found;
}

}  // namespace

const Functions& functions() {
  static const Functions found = find_functions();
  return found;
}

void check(std::int32_t status, const char* what) {
  if (status == 0) return;
  const Functions& torch = functions();
  throw std::runtime_error(torch.last_error != nullptr ? std::string(torch.last_error())
                                                       : std::string("PyTorch refused ") + what);
}

Tensor::~Tensor() {
  if (object_ != nullptr) functions().delete_tensor(object_);
}

bool Tensor::is_defined() const {
  if (object_ == nullptr) return false;
  bool result = false;
  check(functions().is_defined(object_, &result), "a tensor");
  return result;
}

TensorObject* Tensor::share() const {
  TensorObject* result = nullptr;
  check(object_ != nullptr ? functions().new_tensor(object_, &result) : functions().new_undefined_tensor(&result),
        "a tensor");
  return result;
}

std::optional<DType> Tensor::dtype() const {
  if (view_) return view_->dtype;
  const Functions& torch = functions();
  std::int32_t code = 0;
  check(torch.dtype_of(object_, &code), "a tensor's dtype");
  if (code == torch.dtype_float32()) return DType::float32;
  if (code == torch.dtype_float64()) return DType::float64;
  if (code == torch.dtype_bfloat16()) return DType::bfloat16;
  if (code == torch.dtype_float16()) return DType::float16;
  return std::nullopt;
}

std::int64_t Tensor::rank() const {
  if (view_) return static_cast<std::int64_t>(view_->shape.size());
  std::int64_t result = 0;
  check(functions().rank_of(object_, &result), "a tensor's rank");
  return result;
}

const MutableTensorView& Tensor::ask_for_view() const {
  const Functions& torch = functions();
  MutableTensorView view = {nullptr, dtype().value(), {}, {}};
  std::int64_t* sizes = nullptr;
  std::int64_t* strides = nullptr;
  check(torch.data_of(object_, &view.data), "a tensor's address");
  check(torch.sizes_of(object_, &sizes), "a tensor's sizes");
  check(torch.strides_of(object_, &strides), "a tensor's strides");
  const std::int64_t axes = rank();
  for (std::int64_t axis = 0; axis < axes; ++axis) {
    view.shape.push_back(sizes[axis]);
    view.strides.push_back(strides[axis]);
  }
  return view_.emplace(view);
}

std::int32_t code_of(DType dtype) {
  const Functions& torch = functions();
  switch (dtype) {
    case DType::float64:
      return torch.dtype_float64();
    case DType::bfloat16:
      return torch.dtype_bfloat16();
    case DType::float16:
      return torch.dtype_float16();
    default:
      return torch.dtype_float32();
  }
}

Tensor empty(const IndexList& sizes, const IndexList& strides, DType dtype) {
  const Functions& torch = functions();
  std::array<std::int64_t, maximum_rank> size_values{};
  std::array<std::int64_t, maximum_rank> stride_values{};
  std::copy(sizes.begin(), sizes.end(), size_values.begin());
  std::copy(strides.begin(), strides.end(), stride_values.begin());
  TensorObject* result = nullptr;
  check(torch.empty_strided(static_cast<std::int64_t>(sizes.size()), size_values.data(), stride_values.data(),
                            code_of(dtype), torch.device_type_cpu(), 0, &result),
        "memory for a tensor");
  return Tensor(result);
}

Tensor tensor_from(StackValue value) noexcept { return Tensor(reinterpret_cast<TensorObject*>(value)); }

Tensor optional_tensor_from(StackValue value) {
  if (value == 0) return {};
  auto* const inner = reinterpret_cast<StackValue*>(value);
  Tensor tensor = tensor_from(*inner);
  delete inner;
  // Autograd hands on optional tensors that are there and undefined.
  return tensor.is_defined() ? std::move(tensor) : Tensor();
}

std::vector<bool> flags_from(StackValue value) {
  const Functions& torch = functions();
  auto* const list = reinterpret_cast<ListObject*>(value);
  std::vector<bool> flags;
  std::size_t size = 0;
  std::int32_t status = torch.list_size(list, &size);
  for (std::size_t i = 0; status == 0 && i < size; ++i) {
    StackValue item = 0;
    status = torch.list_item(list, i, &item);
    flags.push_back(number_from<bool>(item));
  }
  torch.delete_list(list);
  check(status, "a list of flags");
  return flags;
}

StackValue to_stack(double number) noexcept { return std::bit_cast<StackValue>(number); }
StackValue to_stack(bool flag) noexcept { return flag ? 1 : 0; }
StackValue to_stack(const Tensor& tensor) { return reinterpret_cast<StackValue>(tensor.share()); }

StackValue to_optional(const Tensor& tensor) {
  if (!tensor.is_defined()) return 0;
  return reinterpret_cast<StackValue>(new StackValue(to_stack(tensor)));
}

StackValue to_stack(const std::vector<bool>& flags) {
  const Functions& torch = functions();
  ListObject* list = nullptr;
  check(torch.new_list(flags.size(), &list), "a list of flags");
  for (const bool flag : flags) check(torch.append(list, to_stack(flag)), "a list of flags");
  return reinterpret_cast<StackValue>(list);
}

}  // namespace exactnorm::python::torch

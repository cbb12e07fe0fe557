#include "arrays.h"

#include <nanobind/stl/string_view.h>

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>

namespace exactnorm::python {

namespace nb = nanobind;

namespace {

[[noreturn]] void fail(const char* name, const std::string& problem) {
  throw nb::type_error((std::string(name) + ": " + problem).c_str());
}

std::string class_name(nb::handle object) { return nb::str(object.type().attr("__name__")).c_str(); }

// As NumPy and PyTorch print it, where the object has one.
std::string dtype_name(nb::handle object) {
  if (!nb::hasattr(object, "dtype")) return "unknown";
  const nb::object dtype = object.attr("dtype");
  return nb::str(dtype).c_str();
}

std::optional<DType> dtype_from(const nb::dlpack::dtype& type) {
  if (type.lanes != 1) return std::nullopt;
  const auto is = [&](nb::dlpack::dtype_code code, int bits) {
    return type.code == static_cast<std::uint8_t>(code) && type.bits == bits;
  };
  if (is(nb::dlpack::dtype_code::Float, 32)) return DType::float32;
  if (is(nb::dlpack::dtype_code::Float, 64)) return DType::float64;
  if (is(nb::dlpack::dtype_code::Bfloat, 16)) return DType::bfloat16;
  if (is(nb::dlpack::dtype_code::Float, 16)) return DType::float16;
  if (is(nb::dlpack::dtype_code::UInt, 8)) return DType::uint8;
  if (is(nb::dlpack::dtype_code::Int, 8)) return DType::int8;
  if (is(nb::dlpack::dtype_code::UInt, 16)) return DType::uint16;
  if (is(nb::dlpack::dtype_code::Int, 16)) return DType::int16;
  if (is(nb::dlpack::dtype_code::UInt, 32)) return DType::uint32;
  if (is(nb::dlpack::dtype_code::Int, 32)) return DType::int32;
  if (is(nb::dlpack::dtype_code::Int, 64)) return DType::int64;
  if (is(nb::dlpack::dtype_code::Bool, 8)) return DType::boolean;
  return std::nullopt;
}

std::string known_dtypes() { return "expected " + std::string(dtype_names); }

// By the class of ml_dtypes' dtype, whose name takes far less time than the dtype's own.
bool is_bfloat16(nb::handle object) {
  return nb::hasattr(object, "dtype") && class_name(object.attr("dtype")) == "dtype[bfloat16]";
}

template <typename View, typename Array>
View view_from(const char* name, nb::handle object, const Array& array) {
  if (array.device_type() != nb::device::cpu::value) fail(name, "is not in CPU memory; expected CPU memory");
  const std::optional<DType> dtype = dtype_from(array.dtype());
  if (!dtype) fail(name, "has dtype " + dtype_name(object) + "; " + known_dtypes());
  if (array.ndim() > maximum_rank) {
    throw Error(name, "has " + std::to_string(array.ndim()) + " dimensions; expected at most 8");
  }
  View view;
  view.data = array.data();
  view.dtype = *dtype == DType::uint16 && is_bfloat16(object) ? DType::bfloat16 : *dtype;
  for (std::size_t axis = 0; axis < array.ndim(); ++axis) {
    view.shape.push_back(static_cast<Index>(array.shape(axis)));
    view.strides.push_back(static_cast<Index>(array.stride(axis)));
  }
  return view;
}

// (address, dtype's name, shape, strides in elements)
template <typename View>
View view_from_tuple(const char* name, nb::handle object) {
  const auto tuple = nb::borrow<nb::tuple>(object);
  if (tuple.size() != 4) fail(name, "is a tuple of another length; expected address, dtype, shape and strides");
  const auto dtype_text = nb::cast<std::string_view>(tuple[1]);
  const auto shape = nb::cast<nb::tuple>(tuple[2]);
  const auto strides = nb::cast<nb::tuple>(tuple[3]);
  const auto* const dtype = std::find_if(all_dtypes.begin(), all_dtypes.end(), [&](DType known) {
    return is_floating(known) && dtype_text == name_of(known);
  });
  if (dtype == all_dtypes.end()) {
    fail(name, "is a tuple of another dtype; expected " + std::string(floating_dtype_names));
  }
  if (shape.size() > maximum_rank || strides.size() != shape.size()) {
    throw Error(name, "has " + std::to_string(shape.size()) + " dimensions and " + std::to_string(strides.size()) +
                          " strides; expected at most 8, and as many strides");
  }
  View view;
  view.data = reinterpret_cast<decltype(view.data)>(nb::cast<std::uintptr_t>(tuple[0]));
  view.dtype = *dtype;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    view.shape.push_back(nb::cast<Index>(shape[axis]));
    view.strides.push_back(nb::cast<Index>(strides[axis]));
  }
  return view;
}

template <typename Array>
bool import_array(nb::handle object, Array& array) {
  try {
    // Arrays of ml_dtypes' bfloat16, which neither DLPack nor the buffer protocol takes, are shared as their bits.
    if (is_bfloat16(object) && nb::hasattr(object, "view")) {
      return nb::try_cast(object.attr("view")("uint16"), array, false);
    }
    return nb::try_cast(object, array, false);
  } catch (const nb::python_error&) {
    // What an exporter refuses, DLPack's or the buffer protocol's, is no array for us either.
    return false;
  }
}

[[noreturn]] void fail_import(const char* name, nb::handle object) {
  if (nb::hasattr(object, "dtype")) {
    fail(name,
         "has dtype " + dtype_name(object) + " or a layout that cannot be shared without a copy; " + known_dtypes());
  }
  fail(name, "is of type " + class_name(object) + "; expected a NumPy array or an object with DLPack");
}

}  // namespace

Input input(const char* name, nb::handle object) {
  Input result;
  if (nb::isinstance<nb::tuple>(object)) {
    result.view = view_from_tuple<TensorView>(name, object);
    return result;
  }
  if (!import_array(object, result.array)) fail_import(name, object);
  result.view = view_from<TensorView>(name, object, result.array);
  return result;
}

Output output(const char* name, nb::handle object) {
  Output result;
  if (nb::isinstance<nb::tuple>(object)) {
    result.view = view_from_tuple<MutableTensorView>(name, object);
    return result;
  }
  if (!import_array(object, result.array)) {
    nb::ndarray<nb::ro> readable;
    if (import_array(object, readable)) fail(name, "is read-only; expected an array that can be written to");
    fail_import(name, object);
  }
  result.view = view_from<MutableTensorView>(name, object, result.array);
  return result;
}

std::optional<Input> optional_input(const char* name, nb::handle object) {
  if (object.is_none()) return std::nullopt;
  return input(name, object);
}
std::optional<Output> optional_output(const char* name, nb::handle object) {
  if (object.is_none()) return std::nullopt;
  return output(name, object);
}

namespace {

MaskedOutput masked_output_from(const std::string& name) {
  if (name == "zero") return MaskedOutput::zero;
  if (name == "normalized") return MaskedOutput::normalized;
  if (name == "untouched") return MaskedOutput::untouched;
  throw Error("masked", "is '" + name + "'; expected 'zero', 'normalized' or 'untouched'");
}

}  // namespace

std::optional<MaskInput> optional_mask(nb::handle pair) {
  if (pair.is_none()) return std::nullopt;
  const auto of_mask = nb::cast<nb::tuple>(pair);
  return MaskInput{input("mask", of_mask[0]), masked_output_from(nb::str(of_mask[1]).c_str())};
}

}  // namespace exactnorm::python

#pragma once

#include <array>
#include <bit>
#include <span>
#include <string>

#include "npy/npy_header.h"
#include "support/compare.h"

// .npy files made by hand, valid or not.

namespace exactnorm::npy {

/// All dtypes that .npy files have.
inline constexpr std::array npy_dtypes = {DType::float32, DType::float64, DType::float16, DType::uint8,
                                          DType::int8,    DType::uint16,  DType::int16,   DType::uint32,
                                          DType::int32,   DType::int64,   DType::boolean};
inline constexpr bool little = std::endian::native == std::endian::little;

inline std::span<const std::byte> bytes_of(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// A header of any version around any text, valid or not.
inline std::string with_prefix(const std::string& dict, int major = 1) {
  std::string header = "\x93NUMPY";
  header += static_cast<char>(major);
  header += '\0';
  for (int i = 0; i < (major == 1 ? 2 : 4); ++i) header += static_cast<char>(dict.size() >> (8 * i) & 0xffU);
  return header + dict;
}

inline std::string dict_of(const std::string& descr, const std::string& shape,
                           const std::string& fortran_order = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + fortran_order + ", 'shape': " + shape + ", }\n";
}

inline NpyHeader parse(const std::string& bytes) { return parse_npy_header(bytes_of(bytes), "x.npy"); }
inline NpyHeader parse_dict(const std::string& dict) { return parse(with_prefix(dict)); }

using exactnorm::testing::error_of;

inline std::string parse_error(const std::string& bytes) {
  return error_of([&] { static_cast<void>(parse(bytes)); });
}
inline std::string dict_error(const std::string& dict) { return parse_error(with_prefix(dict)); }

}  // namespace exactnorm::npy

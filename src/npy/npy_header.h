#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "exactnorm/tensor.h"

namespace exactnorm::npy {

/// What stands before the data of a .npy file.
struct NpyHeader {
  DType dtype = DType::float32;
  /// False for the types of one byte, which have no byte order.
  bool big_endian = false;
  bool fortran_order = false;
  IndexList shape;
  /// Where the first element lies, in bytes from the start of the file.
  std::size_t data_offset = 0;
};

/// Reads the header at the start of `bytes`, which may go on with the data. Format versions 1.0, 2.0 and 3.0.
/// Throws Error, with `file_name` as its argument, for anything but a well-formed header of a supported dtype.
/// The data itself is neither read nor required to be there.
[[nodiscard]] NpyHeader parse_npy_header(std::span<const std::byte> bytes, std::string_view file_name);

/// The header of format version 1.0 in native byte order, byte for byte as numpy.save writes it; its size is a
/// multiple of 64. Throws Error as checked_byte_count does.
[[nodiscard]] std::vector<std::byte> format_npy_header(DType dtype, const IndexList& shape, bool fortran_order);

/// Bytes of data of a tensor. Throws Error, with `argument` as its argument, when a size is negative or when the
/// sizes other than zero multiply to 2^62 bytes or more, so that no stride of the shape can overflow either.
[[nodiscard]] Index checked_byte_count(DType dtype, const IndexList& shape, std::string_view argument);

}  // namespace exactnorm::npy

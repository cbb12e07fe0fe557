#include "embedded.h"

#include <bit>
#include <cstddef>
#include <span>
#include <vector>

#include "npy_header.h"

extern "C" {
extern const std::byte exactnorm_digits[], exactnorm_digits_end[];
extern const std::byte exactnorm_fully_connected_random_weights[], exactnorm_fully_connected_random_weights_end[];
extern const std::byte exactnorm_fully_connected_random_input[], exactnorm_fully_connected_random_input_end[];
extern const std::byte exactnorm_fully_connected_random_pytorch[], exactnorm_fully_connected_random_pytorch_end[];
extern const std::byte exactnorm_fully_connected_digits_weights[], exactnorm_fully_connected_digits_weights_end[];
extern const std::byte exactnorm_fully_connected_digits_pytorch[], exactnorm_fully_connected_digits_pytorch_end[];
extern const std::byte exactnorm_convolution_random_input[], exactnorm_convolution_random_input_end[];
extern const std::byte exactnorm_convolution_random_pytorch[], exactnorm_convolution_random_pytorch_end[];
extern const std::byte exactnorm_convolution_digits_filters[], exactnorm_convolution_digits_filters_end[];
extern const std::byte exactnorm_convolution_digits_pytorch[], exactnorm_convolution_digits_pytorch_end[];
}

namespace exactnorm::cli {
namespace {

std::span<const std::byte> bytes_of(Embedded file) {
  switch (file) {
    case Embedded::digits:
      return {exactnorm_digits, exactnorm_digits_end};
    case Embedded::fully_connected_random_weights:
      return {exactnorm_fully_connected_random_weights, exactnorm_fully_connected_random_weights_end};
    case Embedded::fully_connected_random_input:
      return {exactnorm_fully_connected_random_input, exactnorm_fully_connected_random_input_end};
    case Embedded::fully_connected_random_pytorch:
      return {exactnorm_fully_connected_random_pytorch, exactnorm_fully_connected_random_pytorch_end};
    case Embedded::fully_connected_digits_weights:
      return {exactnorm_fully_connected_digits_weights, exactnorm_fully_connected_digits_weights_end};
    case Embedded::fully_connected_digits_pytorch:
      return {exactnorm_fully_connected_digits_pytorch, exactnorm_fully_connected_digits_pytorch_end};
    case Embedded::convolution_random_input:
      return {exactnorm_convolution_random_input, exactnorm_convolution_random_input_end};
    case Embedded::convolution_random_pytorch:
      return {exactnorm_convolution_random_pytorch, exactnorm_convolution_random_pytorch_end};
    case Embedded::convolution_digits_filters:
      return {exactnorm_convolution_digits_filters, exactnorm_convolution_digits_filters_end};
    case Embedded::convolution_digits_pytorch:
      break;
  }
  return {exactnorm_convolution_digits_pytorch, exactnorm_convolution_digits_pytorch_end};
}

}  // namespace

EmbeddedArray read_embedded(Embedded file) {
  const std::span<const std::byte> bytes = bytes_of(file);
  const npy::NpyHeader header = npy::parse_npy_header(bytes, "embedded file");
  const std::span<const std::byte> data = bytes.subspan(header.data_offset);
  const bool native = size_of(header.dtype) == 1 || header.big_endian == (std::endian::native == std::endian::big);
  const Index expected = npy::checked_byte_count(header.dtype, header.shape, "embedded file");
  if (!native || header.fortran_order || data.size() != static_cast<std::size_t>(expected)) {
    throw Error("embedded file", "is not as it was recorded; expected a complete one in native byte order and C order");
  }
  // An assembler aligns nothing; the allocator does.
  const std::vector<std::byte> aligned(data.begin(), data.end());
  return {header.shape, values_of({aligned.data(), header.dtype, header.shape, contiguous_strides(header.shape)})};
}

}  // namespace exactnorm::cli

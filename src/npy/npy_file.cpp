#include "npy_file.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>

#include "exactnorm/error.h"

namespace exactnorm::npy {
namespace {

// What NpyArray relies on.
static_assert(__STDCPP_DEFAULT_NEW_ALIGNMENT__ >= sizeof(std::int64_t));

std::string expected_size(Index bytes, const IndexList& shape, DType dtype) {
  return "expected " + std::to_string(bytes) + " for shape " + to_string(shape) + " " + std::string(name_of(dtype));
}

std::string describe_data(Index bytes) { return std::to_string(bytes) + " bytes of data"; }

std::uint16_t reverse_bytes(std::uint16_t value) noexcept { return __builtin_bswap16(value); }
std::uint32_t reverse_bytes(std::uint32_t value) noexcept { return __builtin_bswap32(value); }
std::uint64_t reverse_bytes(std::uint64_t value) noexcept { return __builtin_bswap64(value); }

template <typename Word>
void copy_reversed(const std::byte* source, std::size_t count, std::byte* destination) noexcept {
  for (std::size_t i = 0; i < count; ++i) {
    Word word = 0;
    std::memcpy(&word, source + i * sizeof(Word), sizeof(Word));
    word = reverse_bytes(word);
    std::memcpy(destination + i * sizeof(Word), &word, sizeof(Word));
  }
}

bool is_row_major(const TensorView& tensor) noexcept {
  const IndexList expected = contiguous_strides(tensor.shape);
  for (std::size_t axis = 0; axis < tensor.rank(); ++axis) {
    if (tensor.shape[axis] != 1 && tensor.strides[axis] != expected[axis]) return false;
  }
  return true;
}

/// The elements of a tensor in row-major order.
std::vector<std::byte> gather(const TensorView& tensor, std::size_t byte_count) {
  std::vector<std::byte> result(byte_count);
  const std::size_t size = size_of(tensor.dtype);
  const auto* const data = static_cast<const std::byte*>(tensor.data);
  IndexList position;
  for (std::size_t axis = 0; axis < tensor.rank(); ++axis) position.push_back(0);
  Index element = 0;
  for (std::size_t offset = 0; offset < byte_count; offset += size) {
    std::memcpy(result.data() + offset, data + element * static_cast<Index>(size), size);
    for (std::size_t axis = tensor.rank(); axis-- > 0;) {
      element += tensor.strides[axis];
      if (++position[axis] < tensor.shape[axis]) break;
      element -= tensor.strides[axis] * tensor.shape[axis];
      position[axis] = 0;
    }
  }
  return result;
}

NpyHeader read_header(const MappedFile& file) {
  try {
    return parse_npy_header(file.bytes(), file.name());
  } catch (const Error&) {
    file.check();  // which may know better why
    throw;
  }
}

}  // namespace

NpyFile::NpyFile(const std::string& path) : file_(path), header_(read_header(file_)) {
  const Index expected = checked_byte_count(header_.dtype, header_.shape, name());
  const std::size_t held = file_.bytes().size() - header_.data_offset;
  if (held != static_cast<std::size_t>(expected)) {
    throw Error(name(), "holds " + std::to_string(held) + " bytes of data; " +
                            expected_size(expected, header_.shape, header_.dtype));
  }
  element_count_ = expected / static_cast<Index>(size_of(header_.dtype));
}

IndexList NpyFile::strides() const noexcept {
  if (!header_.fortran_order) return contiguous_strides(header_.shape);
  IndexList reversed = header_.shape;
  std::reverse(reversed.begin(), reversed.end());
  IndexList strides = contiguous_strides(reversed);
  std::reverse(strides.begin(), strides.end());
  return strides;
}

bool NpyFile::swapped() const noexcept {
  return size_of(header_.dtype) > 1 && header_.big_endian != (std::endian::native == std::endian::big);
}

bool NpyFile::needs_copy() const noexcept {
  // The file starts at the start of a page.
  return swapped() || header_.data_offset % size_of(header_.dtype) != 0;
}

TensorView NpyFile::view() const {
  if (needs_copy()) {
    const std::string problem = swapped() ? "data is in the other byte order" : "data is misaligned";
    throw Error(name(), problem + "; expected native byte order and data aligned to its dtype");
  }
  return {file_.bytes().data() + header_.data_offset, header_.dtype, header_.shape, strides()};
}

void NpyFile::copy_range(Index first, Index count, void* destination) const {
  check_range(first, count);
  if (count == 0) return;
  const std::size_t size = size_of(header_.dtype);
  const auto elements = static_cast<std::size_t>(count);
  const std::byte* const source = file_.bytes().data() + header_.data_offset + static_cast<std::size_t>(first) * size;
  auto* const target = static_cast<std::byte*>(destination);
  if (!swapped()) {
    std::memcpy(target, source, elements * size);
  } else if (size == sizeof(std::uint16_t)) {
    copy_reversed<std::uint16_t>(source, elements, target);
  } else if (size == sizeof(std::uint32_t)) {
    copy_reversed<std::uint32_t>(source, elements, target);
  } else {
    copy_reversed<std::uint64_t>(source, elements, target);
  }
  file_.check();
}

void NpyFile::release(Index first, Index count) const {
  check_range(first, count);
  const std::size_t size = size_of(header_.dtype);
  file_.release(header_.data_offset + static_cast<std::size_t>(first) * size, static_cast<std::size_t>(count) * size);
}

void NpyFile::check_range(Index first, Index count) const {
  if (first >= 0 && count >= 0 && first <= element_count_ && count <= element_count_ - first) return;
  throw Error(name(), std::to_string(count) + " elements from number " + std::to_string(first) +
                          " on; expected a range within its " + std::to_string(element_count_) + " elements");
}

NpyWriter::NpyWriter(const std::string& path, DType dtype, const IndexList& shape, bool fortran_order)
    : dtype_(dtype),
      shape_(shape),
      expected_bytes_(checked_byte_count(dtype, shape, path)),
      file_(path, describe_data(expected_bytes_)) {
  const std::vector<std::byte> header = format_npy_header(dtype, shape, fortran_order);
  header_bytes_ = header.size();
  file_.write(header);
}

NpyWriter::NpyWriter(const std::string& path, DType dtype, const IndexList& shape, bool fortran_order,
                     const std::string& shared)
    : dtype_(dtype),
      shape_(shape),
      expected_bytes_(checked_byte_count(dtype, shape, path)),
      header_bytes_(format_npy_header(dtype, shape, fortran_order).size()),
      file_(path, describe_data(expected_bytes_), shared) {}

void NpyWriter::write(std::span<const std::byte> bytes) {
  require_open();
  if (bytes.size() > static_cast<std::size_t>(expected_bytes_ - written_bytes_)) {
    throw Error(file_.name(), "given " + std::to_string(static_cast<std::size_t>(written_bytes_) + bytes.size()) +
                                  " bytes of data; " + expected_size(expected_bytes_, shape_, dtype_));
  }
  file_.write(bytes);
  written_bytes_ += static_cast<Index>(bytes.size());
}

void NpyWriter::write_at(Index first, std::span<const std::byte> bytes) {
  require_open();
  const auto size = static_cast<Index>(size_of(dtype_));
  const auto count = static_cast<Index>(bytes.size()) / size;
  if (first < 0 || first > expected_bytes_ / size || count > expected_bytes_ / size - first) {
    throw Error(file_.name(), "given " + std::to_string(count) + " elements from number " + std::to_string(first) +
                                  " on; " + expected_size(expected_bytes_, shape_, dtype_));
  }
  file_.write_at(static_cast<off_t>(header_bytes_) + first * size, bytes);
  written_bytes_ += static_cast<Index>(bytes.size());
}

Index NpyWriter::finish_part() {
  require_open();
  file_.close();
  return written_bytes_;
}

void NpyWriter::finish(Index bytes_of_others) {
  require_open();
  const Index given = written_bytes_ + bytes_of_others;
  if (given != expected_bytes_) {
    throw Error(file_.name(),
                "given " + std::to_string(given) + " bytes of data; " + expected_size(expected_bytes_, shape_, dtype_));
  }
  file_.close();
}

void NpyWriter::commit() {
  if (!file_.is_closed()) finish();
  file_.commit();
}

void NpyWriter::require_open() const {
  if (file_.is_open()) return;
  throw Error(file_.name(), "is closed; expected a writer that has neither failed nor been committed");
}

NpyArray read_npy(const NpyFile& file) {
  NpyArray array{file.dtype(), file.shape(), file.strides(), {}};
  array.bytes.resize(static_cast<std::size_t>(file.element_count()) * size_of(file.dtype()));
  file.copy_range(0, file.element_count(), array.bytes.data());
  return array;
}

NpyArray read_npy(const std::string& path) { return read_npy(NpyFile(path)); }

void write_npy(const std::string& path, const TensorView& tensor) {
  NpyWriter writer(path, tensor.dtype, tensor.shape);
  const auto byte_count = static_cast<std::size_t>(checked_byte_count(tensor.dtype, tensor.shape, path));
  if (byte_count > 0 && is_row_major(tensor)) {
    writer.write({static_cast<const std::byte*>(tensor.data), byte_count});
  } else if (byte_count > 0) {
    writer.write(gather(tensor, byte_count));
  }
  writer.commit();
}

}  // namespace exactnorm::npy

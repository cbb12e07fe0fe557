#include "npy/npy_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "exactnorm/error.h"

namespace exactnorm::npy {
namespace {

// What NpyArray relies on.
static_assert(__STDCPP_DEFAULT_NEW_ALIGNMENT__ >= sizeof(std::int64_t));

std::string expected_size(Index bytes, const IndexList& shape, DType dtype) {
  return "expected " + std::to_string(bytes) + " for shape " + to_string(shape) + " " + std::string(name_of(dtype));
}

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

/// Where the hidden file of an output goes: rename() is atomic only within one file system.
std::string temporary_pattern(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  const std::size_t name = slash == std::string::npos ? 0 : slash + 1;
  // Leaves the affixes room within the 255 bytes that a name may have.
  constexpr std::size_t longest = 200;
  return path.substr(0, name) + "." + path.substr(name, longest) + ".XXXXXX";
}

mode_t new_file_mode() noexcept {
  // The only portable way to ask for the mask is to set it. The strict value means that a file which another
  // thread creates in between is too private rather than too public.
  const mode_t mask = ::umask(077);
  ::umask(mask);
  return 0666 & ~mask;
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

}  // namespace

NpyFile::NpyFile(const std::string& path) : path_(path), file_(path), header_(parse_npy_header(file_.bytes(), path)) {
  const Index expected = checked_byte_count(header_.dtype, header_.shape, path_);
  const std::size_t held = file_.bytes().size() - header_.data_offset;
  if (held != static_cast<std::size_t>(expected)) {
    throw Error(path_, "holds " + std::to_string(held) + " bytes of data; " +
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
    throw Error(path_, problem + "; expected native byte order and data aligned to its dtype");
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
}

void NpyFile::release(Index first, Index count) const {
  check_range(first, count);
  const std::size_t size = size_of(header_.dtype);
  file_.release(header_.data_offset + static_cast<std::size_t>(first) * size, static_cast<std::size_t>(count) * size);
}

void NpyFile::check_range(Index first, Index count) const {
  if (first >= 0 && count >= 0 && first <= element_count_ && count <= element_count_ - first) return;
  throw Error(path_, std::to_string(count) + " elements from number " + std::to_string(first) +
                         " on; expected a range within its " + std::to_string(element_count_) + " elements");
}

NpyWriter::NpyWriter(const std::string& path, DType dtype, const IndexList& shape, bool fortran_order)
    : path_(path), dtype_(dtype), shape_(shape), expected_bytes_(checked_byte_count(dtype, shape, path)) {
  const std::vector<std::byte> header = format_npy_header(dtype, shape, fortran_order);
  if (path.empty()) throw Error(path_, "is an empty file name; expected the name of the output");
  struct stat status {};
  // lstat, because rename() would replace a symbolic link rather than the file that it leads to.
  if (::lstat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    throw Error(path_, "is " + describe_file_kind(status.st_mode) + "; expected a regular file or a new name");
  }
  std::string pattern = temporary_pattern(path);
  descriptor_ = ::mkostemp(pattern.data(), O_CLOEXEC);
  if (descriptor_ < 0) {
    throw Error(path_, "cannot be created (" + describe_errno(errno) + "); expected a writable directory");
  }
  temporary_path_ = std::move(pattern);
  header_bytes_ = header.size();
  if (::fchmod(descriptor_, new_file_mode()) != 0) {
    discard_and_fail("cannot be given its mode (" + describe_errno(errno) + "); expected a file of one's own");
  }
  write_fully(header);
}

NpyWriter::NpyWriter(const std::string& path, DType dtype, const IndexList& shape, bool fortran_order,
                     const std::string& temporary_path)
    : path_(path),
      temporary_path_(temporary_path),
      dtype_(dtype),
      shape_(shape),
      expected_bytes_(checked_byte_count(dtype, shape, path)),
      header_bytes_(format_npy_header(dtype, shape, fortran_order).size()),
      owns_file_(false),
      descriptor_(::open(temporary_path.c_str(), O_WRONLY | O_CLOEXEC)) {
  if (descriptor_ < 0) {
    throw Error(path_, "cannot be opened for writing as " + temporary_path + " (" + describe_errno(errno) +
                           "); expected a file system that all ranks share");
  }
}

NpyWriter::~NpyWriter() { discard(); }

void NpyWriter::write(std::span<const std::byte> bytes) {
  require_open();
  if (bytes.size() > static_cast<std::size_t>(expected_bytes_ - written_bytes_)) {
    throw Error(path_, "given " + std::to_string(static_cast<std::size_t>(written_bytes_) + bytes.size()) +
                           " bytes of data; " + expected_size(expected_bytes_, shape_, dtype_));
  }
  write_fully(bytes);
  written_bytes_ += static_cast<Index>(bytes.size());
}

void NpyWriter::write_at(Index first, std::span<const std::byte> bytes) {
  require_open();
  const auto size = static_cast<Index>(size_of(dtype_));
  const auto count = static_cast<Index>(bytes.size()) / size;
  if (first < 0 || first > expected_bytes_ / size || count > expected_bytes_ / size - first) {
    throw Error(path_, "given " + std::to_string(count) + " elements from number " + std::to_string(first) + " on; " +
                           expected_size(expected_bytes_, shape_, dtype_));
  }
  if (::lseek(descriptor_, static_cast<off_t>(header_bytes_) + first * size, SEEK_SET) < 0) {
    discard_and_fail("cannot be written (" + describe_errno(errno) + "); expected a regular file");
  }
  write_fully(bytes);
  written_bytes_ += static_cast<Index>(bytes.size());
}

Index NpyWriter::finish_part() {
  require_open();
  close();
  return written_bytes_;
}

void NpyWriter::commit(Index bytes_of_others) {
  if (temporary_path_.empty()) require_open();
  const Index given = written_bytes_ + bytes_of_others;
  if (given != expected_bytes_) {
    throw Error(path_,
                "given " + std::to_string(given) + " bytes of data; " + expected_size(expected_bytes_, shape_, dtype_));
  }
  if (descriptor_ >= 0) close();
  if (::rename(temporary_path_.c_str(), path_.c_str()) != 0) {
    discard_and_fail("cannot be given its name (" + describe_errno(errno) + "); expected a regular file or a new name");
  }
  temporary_path_.clear();
}

void NpyWriter::close() {
  // Network file systems report a full disk only here. The descriptor is gone even when close() fails.
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) {
    discard_and_fail("cannot be written (" + describe_errno(errno) + "); expected room for " +
                     std::to_string(expected_bytes_) + " bytes of data");
  }
}

void NpyWriter::require_open() const {
  if (descriptor_ < 0) throw Error(path_, "is closed; expected a writer that has neither failed nor been committed");
}

void NpyWriter::write_fully(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written > 0) {
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    } else if (written == 0 || errno != EINTR) {
      // POSIX leaves open what writing nothing means; trying again could go on for ever.
      const std::string reason = describe_errno(written == 0 ? EIO : errno);
      discard_and_fail("cannot be written (" + reason + "); expected room for " + std::to_string(expected_bytes_) +
                       " bytes of data");
    }
  }
}

void NpyWriter::discard() noexcept {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  if (owns_file_ && !temporary_path_.empty()) ::unlink(temporary_path_.c_str());
  temporary_path_.clear();
}

void NpyWriter::discard_and_fail(const std::string& problem) {
  discard();
  throw Error(path_, problem);
}

NpyArray read_npy(const std::string& path) {
  const NpyFile file(path);
  NpyArray array{file.dtype(), file.shape(), file.strides(), {}};
  array.bytes.resize(static_cast<std::size_t>(file.element_count()) * size_of(file.dtype()));
  file.copy_range(0, file.element_count(), array.bytes.data());
  return array;
}

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

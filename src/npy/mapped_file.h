#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>

namespace exactnorm::npy {

/// A whole regular file, mapped into memory for reading.
///
/// The pages come from the page cache when they are first read. Somebody who shortens the file meanwhile makes
/// reads beyond its new end fail with the signal SIGBUS; replacing it by rename() is harmless.
class MappedFile {
 public:
  /// Throws Error, with `path` as its argument, when there is no such file, it may not be read, or it is not a
  /// regular file. Never blocks on a pipe.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// The file's bytes, at the start of a page; none for an empty file.
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }

  /// Gives the memory of the whole pages inside [offset, offset + size) back to the system. The bytes stay
  /// readable: reading them again fetches the pages again.
  void release(std::size_t offset, std::size_t size) const noexcept;

 private:
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// "a directory" or "a pipe", for example, from the st_mode of a file that is not a regular one.
[[nodiscard]] std::string describe_file_kind(mode_t mode);

/// The system's text for an errno.
[[nodiscard]] std::string describe_errno(int error_number);

}  // namespace exactnorm::npy

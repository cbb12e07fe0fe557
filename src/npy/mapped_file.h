#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "mapping_guard.h"

namespace exactnorm::npy {

/// A whole regular file, or standard input, mapped into memory for reading.
///
/// The pages come from the page cache when they are first read. Somebody may shorten the file meanwhile; then zeros are
/// read, and check() throws. Replacing it by rename() is harmless. What others write over it, it shows or not.
class MappedFile {
 public:
  /// "-" is standard input, which may be a pipe. Throws Error, with the file's name as its argument, when there is no
  /// such file, it may not be read, or it is not a regular file. Never blocks on a pipe, but for standard input.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  /// Errors name it so.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }

  /// The file's bytes, at the start of a page; none for an empty file. check() tells whether they were its bytes.
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }

  /// Throws Error when the file has been shortened or could not be read: bytes read so far may be wrong. To be called
  /// after reading, before the bytes are relied on.
  void check() const;

  /// Gives the memory of the whole pages inside [offset, offset + size) back to the system. The bytes stay
  /// readable: reading them again fetches the pages again.
  void release(std::size_t offset, std::size_t size) const noexcept;

 private:
  std::string path_;
  std::string name_;
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  unsigned long long device_ = 0;
  unsigned long long inode_ = 0;
  std::unique_ptr<MappingGuard> guard_;
};

}  // namespace exactnorm::npy

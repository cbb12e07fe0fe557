#include "mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "exactnorm/error.h"
#include "file_descriptor.h"
#include "standard_input.h"
#include "system_text.h"

namespace exactnorm::npy {
namespace {

[[noreturn]] void fail(const std::string& name, const std::string& verb, int error_number) {
  throw Error(name, "cannot be " + verb + " (" + describe_errno(error_number) + "); expected a readable file");
}

int open_for_reading(const std::string& path) {
  if (is_stream(path)) return open_standard_input();
  int descriptor = -1;
  do {
    // Without O_NONBLOCK, opening a pipe would wait for somebody to write to it.
    descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

}  // namespace

MappedFile::MappedFile(const std::string& path)
    : path_(is_stream(path) ? "/dev/stdin" : path), name_(input_name(path)) {
  const FileDescriptor file(open_for_reading(path));
  if (file.get() < 0) fail(name_, "opened", errno);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail(name_, "examined", errno);
  if (!S_ISREG(status.st_mode)) {
    throw Error(name_, "is " + describe_file_kind(status.st_mode) + "; expected a regular file" +
                           (S_ISFIFO(status.st_mode) ? ", or - for standard input" : ""));
  }
  device_ = status.st_dev;
  inode_ = status.st_ino;
  const auto size = static_cast<std::size_t>(status.st_size);
  // mmap refuses an empty range.
  if (size == 0) return;
  void* const data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) fail(name_, "mapped into memory", errno);
  // Only advice: a system that does not take it still reads the file.
  ::madvise(data, size, MADV_SEQUENTIAL);
  data_ = static_cast<std::byte*>(data);
  size_ = size;
  guard_ = std::make_unique<MappingGuard>(data_, size_);
}

MappedFile::~MappedFile() {
  guard_.reset();
  if (data_ != nullptr) ::munmap(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      name_(std::move(other.name_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      device_(other.device_),
      inode_(other.inode_),
      guard_(std::move(other.guard_)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(name_, other.name_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(device_, other.device_);
  std::swap(inode_, other.inode_);
  std::swap(guard_, other.guard_);
  return *this;
}

void MappedFile::check() const {
  struct stat status {};
  // Asked by name, as files may be more than a process may have open. Within the last page that is left, zeros follow
  // the new end without any signal.
  if (::stat(path_.c_str(), &status) == 0 && status.st_dev == device_ && status.st_ino == inode_ &&
      static_cast<std::size_t>(status.st_size) < size_) {
    throw Error(name_, "was cut short from " + std::to_string(size_) + " to " + std::to_string(status.st_size) +
                           " bytes while it was read; expected a file that stays as it is");
  }
  if (guard_ && guard_->damaged()) {
    throw Error(name_,
                "could not be read to its end (it was cut short, or its disk failed); expected a readable file "
                "that stays as it is");
  }
}

void MappedFile::release(std::size_t offset, std::size_t size) const noexcept {
  if (offset >= size_) return;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const std::size_t end = offset + std::min(size, size_ - offset);
  const std::size_t first = (offset + page - 1) / page * page;
  // Nothing but zeros follows the last byte of the file in its page, so that page is whole as well.
  const std::size_t last = end == size_ ? end : end / page * page;
  if (first < last) ::madvise(data_ + first, last - first, MADV_DONTNEED);
}

}  // namespace exactnorm::npy

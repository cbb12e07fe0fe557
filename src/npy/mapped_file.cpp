#include "npy/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

#include "exactnorm/error.h"

namespace exactnorm::npy {
namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
  ~FileDescriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;

  [[nodiscard]] int get() const noexcept { return descriptor_; }

 private:
  int descriptor_;
};

[[noreturn]] void fail(const std::string& path, const std::string& verb, int error_number) {
  throw Error(path, "cannot be " + verb + " (" + describe_errno(error_number) + "); expected a readable file");
}

int open_for_reading(const std::string& path) {
  int descriptor = -1;
  do {
    // Without O_NONBLOCK, opening a pipe would wait for somebody to write to it.
    descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  } while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

}  // namespace

MappedFile::MappedFile(const std::string& path) {
  const FileDescriptor file(open_for_reading(path));
  if (file.get() < 0) fail(path, "opened", errno);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) fail(path, "examined", errno);
  if (!S_ISREG(status.st_mode)) {
    throw Error(path, "is " + describe_file_kind(status.st_mode) + "; expected a regular file");
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  // mmap refuses an empty range.
  if (size == 0) return;
  void* const data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) fail(path, "mapped into memory", errno);
  // Only advice: a system that does not take it still reads the file.
  ::madvise(data, size, MADV_SEQUENTIAL);
  data_ = static_cast<std::byte*>(data);
  size_ = size;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
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

std::string describe_file_kind(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a pipe";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISLNK(mode)) return "a symbolic link";
  return "a special file";
}

std::string describe_errno(int error_number) { return std::generic_category().message(error_number); }

}  // namespace exactnorm::npy

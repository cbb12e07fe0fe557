#include "standard_input.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "exactnorm/error.h"
#include "file_descriptor.h"
#include "system_text.h"
#include "temporary_files.h"

namespace exactnorm::npy {
namespace {

constexpr std::size_t copied_bytes = std::size_t{1} << 20;

[[noreturn]] void fail(const std::string& problem) { throw Error(input_name("-"), problem); }

[[noreturn]] void fail_to_keep(const std::string& directory, int error_number) {
  fail("cannot be kept in " + directory + " (" + describe_errno(error_number) +
       "); expected room for it there, or in a directory that TMPDIR names");
}

std::string temporary_directory() {
  std::error_code ignored;
  const std::string directory = std::filesystem::temp_directory_path(ignored);
  return directory.empty() ? "/tmp" : directory;
}

// A file without a name, so that nothing of it is left however the process ends.
FileDescriptor create_unnamed(const std::string& directory) {
  std::string pattern = directory + "/exactnorm.XXXXXX";
  const SignalDelay delay;
  FileDescriptor file(::mkostemp(pattern.data(), O_CLOEXEC));
  if (file.get() < 0) fail_to_keep(directory, errno);
  ::unlink(pattern.c_str());
  return file;
}

std::size_t read_some(std::vector<std::byte>& buffer) {
  while (true) {
    const ssize_t count = ::read(STDIN_FILENO, buffer.data(), buffer.size());
    if (count >= 0) return static_cast<std::size_t>(count);
    if (errno == EAGAIN) {
      pollfd wait = {STDIN_FILENO, POLLIN, 0};
      ::poll(&wait, 1, -1);
    } else if (errno != EINTR) {
      fail("cannot be read (" + describe_errno(errno) + "); expected a .npy file");
    }
  }
}

}  // namespace

int open_standard_input() {
  struct stat status {};
  if (::fstat(STDIN_FILENO, &status) != 0) fail("cannot be examined (" + describe_errno(errno) + "); expected a file");
  if (S_ISREG(status.st_mode) && ::lseek(STDIN_FILENO, 0, SEEK_CUR) == 0) {
    return ::fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 0);
  }
  if (::isatty(STDIN_FILENO) == 1) fail("is a terminal; expected a pipe or a file");
  const std::string directory = temporary_directory();
  FileDescriptor file = create_unnamed(directory);
  std::vector<std::byte> buffer(copied_bytes);
  while (const std::size_t count = read_some(buffer)) {
    if (const int failure = write_all(file.get(), std::span(buffer).first(count))) fail_to_keep(directory, failure);
  }
  return file.release();
}

}  // namespace exactnorm::npy

#include "cli/text_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "exactnorm/error.h"
#include "npy/mapped_file.h"

namespace exactnorm::cli {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& what_cannot_be, const std::string& expected) {
  throw Error(path, "cannot be " + what_cannot_be + " (" + npy::describe_errno(errno) + "); expected " + expected);
}

}  // namespace

TextFile::TextFile(std::string path) : path_(std::move(path)) {
  struct stat status {};
  if (::lstat(path_.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
    throw Error(path_, "is " + npy::describe_file_kind(status.st_mode) + "; expected a regular file or a new name");
  }
  const std::size_t slash = path_.rfind('/');
  const std::size_t name = slash == std::string::npos ? 0 : slash + 1;
  // Leaves the affixes room within the 255 bytes that a name may have.
  std::string pattern = path_.substr(0, name) + "." + path_.substr(name, 200) + ".XXXXXX";
  descriptor_ = ::mkostemp(pattern.data(), O_CLOEXEC);
  if (descriptor_ < 0) fail(path_, "created", "a writable directory");
  temporary_path_ = std::move(pattern);
}

TextFile::~TextFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_path_.empty()) ::unlink(temporary_path_.c_str());
}

void TextFile::commit(std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(descriptor_, text.data(), text.size());
    if (written > 0) {
      text.remove_prefix(static_cast<std::size_t>(written));
    } else if (written == 0 || errno != EINTR) {
      fail(path_, "written", "room for it");
    }
  }
  // mkostemp lets nobody else read; what a user makes is as open as the user's mask says.
  const mode_t mask = ::umask(077);
  ::umask(mask);
  if (::fchmod(descriptor_, 0666 & ~mask) != 0) fail(path_, "given its mode", "a file of one's own");
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) fail(path_, "written", "room for it");
  if (::rename(temporary_path_.c_str(), path_.c_str()) != 0) {
    fail(path_, "given its name", "a regular file or a new name");
  }
  temporary_path_.clear();
}

}  // namespace exactnorm::cli

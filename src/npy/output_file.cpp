#include "output_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

#include "exactnorm/error.h"
#include "file_descriptor.h"
#include "system_text.h"

namespace exactnorm::npy {
namespace {

constexpr mode_t all_permissions = 0777;
constexpr mode_t write_permissions = 0222;

std::size_t name_begin(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  return slash == std::string::npos ? 0 : slash + 1;
}

std::string directory_of(const std::string& path) {
  const std::string directory = path.substr(0, name_begin(path));
  return directory.empty() ? "." : directory;
}

// The hidden file lies beside the output: rename() is atomic only within one file system.
std::string temporary_pattern(const std::string& path) {
  const std::size_t name = name_begin(path);
  // Leaves the affixes room within the 255 bytes that a name may have.
  constexpr std::size_t longest = 200;
  return path.substr(0, name) + "." + path.substr(name, longest) + ".XXXXXX";
}

constexpr const char* process_directory = "/proc/";

// Tells files apart: those of one machine by device and number; those that several see by the number alone, as each
// numbers the devices of a network by itself.
std::string identity_of(int descriptor, bool of_one_machine) {
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) return "";
  return (of_one_machine ? std::to_string(status.st_dev) + ":" : "") + std::to_string(status.st_ino);
}

// By this name an open file that has none can be given one.
std::string path_of(int descriptor) { return std::string(process_directory) + "self/fd/" + std::to_string(descriptor); }

// A file without a name, or -1 where there is no such thing.
int open_unnamed(const std::string& directory) {
  const int descriptor = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (descriptor < 0 || ::access(path_of(descriptor).c_str(), F_OK) == 0) return descriptor;
  ::close(descriptor);  // /proc is not there
  return -1;
}

std::string octal(mode_t mode) {
  std::string text = "0";
  for (const int shift : {6, 3, 0}) text += static_cast<char>('0' + ((mode >> shift) & 7U));
  return text;
}

// The file to be replaced, if there is one.
std::optional<struct stat> replaced_file(const std::string& path) {
  struct stat status {};
  // lstat, because rename() would replace a symbolic link rather than the file that it leads to.
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return std::nullopt;
    throw Error(path, "cannot be created (" + describe_errno(errno) + "); expected a writable directory");
  }
  if (!S_ISREG(status.st_mode)) {
    throw Error(path, "is " + describe_file_kind(status.st_mode) + "; expected a regular file or a new name");
  }
  // Root may write anything; a file without write permission is one that somebody protects even so.
  if ((status.st_mode & write_permissions) == 0 || ::faccessat(AT_FDCWD, path.c_str(), W_OK, AT_EACCESS) != 0) {
    throw Error(path, "is write-protected (mode " + octal(status.st_mode & all_permissions) +
                          "); expected a file that may be written, or a new name");
  }
  // In a directory as /tmp is, only owners may replace a file.
  struct stat directory {};
  const uid_t user = ::geteuid();
  if (::stat(directory_of(path).c_str(), &directory) == 0 && (directory.st_mode & S_ISVTX) != 0 && user != 0 &&
      user != status.st_uid && user != directory.st_uid) {
    throw Error(path, "is another user's file in a sticky directory; expected a file of one's own, or a new name");
  }
  return status;
}

mode_t new_file_mode() noexcept {
  // The only portable way to ask for the mask is to set it. The strict value means that a file which another
  // thread creates in between is too private rather than too public.
  const mode_t mask = ::umask(077);
  ::umask(mask);
  return 0666 & ~mask;
}

// Gives the open file the access control list of `path`, or none, as `path` has it. Returns false where that failed.
bool copy_access_list(const std::string& path, int descriptor) {
  constexpr const char* attribute = "system.posix_acl_access";
  std::array<char, 65536> list{};  // the most that Linux allows
  const ssize_t size = ::lgetxattr(path.c_str(), attribute, list.data(), list.size());
  if (size >= 0) return ::fsetxattr(descriptor, attribute, list.data(), static_cast<std::size_t>(size), 0) == 0;
  if (errno != ENODATA && errno != ENOTSUP) return false;
  // The directory may have given a new file one by default.
  return ::fremovexattr(descriptor, attribute) == 0 || errno == ENODATA || errno == ENOTSUP;
}

bool copy_group(const struct stat& source, int descriptor) {
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) return false;
  if (status.st_uid != source.st_uid && ::fchown(descriptor, source.st_uid, source.st_gid) == 0) return true;
  return status.st_gid == source.st_gid || ::fchown(descriptor, static_cast<uid_t>(-1), source.st_gid) == 0;
}

}  // namespace

OutputFile::OutputFile(const std::string& path, std::string contents)
    : path_(path), name_(output_name(path)), contents_(std::move(contents)), is_standard_output_(is_stream(path)) {
  if (path.empty()) throw Error(path_, "is an empty file name; expected the name of the output");
  if (is_standard_output_) {
    if (::isatty(STDOUT_FILENO) == 1) throw Error(name_, "is a terminal; expected a pipe or a file");
    descriptor_ = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 0);
    if (descriptor_ < 0) fail_to_write(errno);
    return;
  }
  static_cast<void>(replaced_file(path));
  open_hidden();
}

OutputFile::OutputFile(const std::string& path, std::string contents, const std::string& shared)
    : path_(path), name_(path), contents_(std::move(contents)), owns_file_(false) {
  const std::size_t space = shared.find(' ');
  const std::string shared_path = shared.substr(space + 1);
  descriptor_ = ::open(shared_path.c_str(), O_WRONLY | O_CLOEXEC);
  // On another machine, a process of the same number may have opened anything.
  const bool of_one_machine = shared_path.starts_with(process_directory);
  if (!is_open() || identity_of(descriptor_, of_one_machine) != shared.substr(0, space)) {
    const std::string reason = is_open() ? "another file" : describe_errno(errno);
    discard_and_throw("cannot be opened for writing as " + shared_path + " (" + reason +
                      "); expected a file system that all ranks share");
  }
  // Noted here as well: a signal that ends this process ends all, and the owner may be gone already.
  if (!of_one_machine) temporary_name_.emplace(shared_path);
}

OutputFile::~OutputFile() { discard(); }

void OutputFile::open_hidden() {
  descriptor_ = open_unnamed(directory_of(path_));
  if (descriptor_ >= 0) return;
  std::string pattern = temporary_pattern(path_);
  const SignalDelay delay;
  descriptor_ = ::mkostemp(pattern.data(), O_CLOEXEC);
  if (descriptor_ < 0) {
    throw Error(name_, "cannot be created (" + describe_errno(errno) + "); expected a writable directory");
  }
  temporary_name_.emplace(std::move(pattern));
}

void OutputFile::make_name() {
  const SignalDelay delay;
  while (!temporary_name_) {
    std::string pattern = temporary_pattern(path_);
    // mkostemp() finds a name that is free; linkat() asks for one that is free again.
    const int placeholder = ::mkostemp(pattern.data(), O_CLOEXEC);
    if (placeholder < 0) fail_to_write(errno);
    ::close(placeholder);
    ::unlink(pattern.c_str());
    if (::linkat(AT_FDCWD, path_of(descriptor_).c_str(), AT_FDCWD, pattern.c_str(), AT_SYMLINK_FOLLOW) == 0) {
      temporary_name_.emplace(std::move(pattern));
    } else if (errno != EEXIST) {
      fail_to_write(errno);
    }
  }
}

std::string OutputFile::share(bool by_name) {
  if (by_name) make_name();
  const std::string path = temporary_name_
                               ? temporary_name_->path()
                               : process_directory + std::to_string(::getpid()) + "/fd/" + std::to_string(descriptor_);
  return identity_of(descriptor_, !temporary_name_) + " " + path;
}

void OutputFile::write(std::span<const std::byte> bytes) { write_fully(bytes); }

void OutputFile::write_at(off_t offset, std::span<const std::byte> bytes) {
  if (offset != position_) {
    if (is_standard_output_) {
      discard_and_throw("is written from byte " + std::to_string(offset) + " on; expected byte " +
                        std::to_string(position_) + ", as it cannot go back");
    }
    if (::lseek(descriptor_, offset, SEEK_SET) < 0) fail_to_write(errno);
    position_ = offset;
  }
  write_fully(bytes);
}

void OutputFile::write_fully(std::span<const std::byte> bytes) {
  if (const int failure = write_all(descriptor_, bytes)) fail_to_write(failure);
  position_ += static_cast<off_t>(bytes.size());
}

void OutputFile::close() {
  if (owns_file_ && !is_standard_output_) {
    take_over_access();
    make_name();
  }
  // Network file systems report a full disk only here. The descriptor is gone even when close() fails.
  if (::close(std::exchange(descriptor_, -1)) != 0 && errno != EINTR) fail_to_write(errno);
  is_closed_ = true;
}

void OutputFile::take_over_access() {
  std::optional<struct stat> replaced;
  try {
    replaced = replaced_file(path_);
  } catch (const Error&) {
    discard();
    throw;
  }
  mode_t mode = new_file_mode();
  if (replaced) {
    mode = replaced->st_mode & all_permissions;
    const bool same_group = copy_group(*replaced, descriptor_);
    const bool same_list = copy_access_list(path_, descriptor_);
    if (!same_group || !same_list) mode = (mode & 0707U) | ((mode & 0007U) << 3U);
  }
  if (::fchmod(descriptor_, mode) != 0) {
    discard_and_throw("cannot be given its mode (" + describe_errno(errno) + "); expected a file of one's own");
  }
}

void OutputFile::commit() {
  if (is_open()) close();
  is_closed_ = false;
  if (is_standard_output_) return;
  const SignalDelay delay;
  if (::rename(temporary_name_->path().c_str(), path_.c_str()) != 0) {
    discard_and_throw("cannot be given its name (" + describe_errno(errno) +
                      "); expected a regular file or a new name");
  }
  temporary_name_.reset();
}

void OutputFile::discard() noexcept {
  if (is_open()) ::close(std::exchange(descriptor_, -1));
  if (!temporary_name_) return;
  const SignalDelay delay;
  if (owns_file_) ::unlink(temporary_name_->path().c_str());
  temporary_name_.reset();
}

void OutputFile::fail_to_write(int error_number) {
  std::string expected = "room for " + contents_;
  if (error_number == EFBIG) expected += " under the limit on file sizes (ulimit -f)";
  if (error_number == EPIPE) expected = "a reader of " + contents_;
  discard_and_throw("cannot be written (" + describe_errno(error_number) + "); expected " + expected);
}

void OutputFile::discard_and_throw(const std::string& problem) {
  discard();
  throw Error(name_, problem);
}

}  // namespace exactnorm::npy

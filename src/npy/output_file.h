#pragma once

#include <sys/types.h>

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "temporary_files.h"

namespace exactnorm::npy {

/// A file that appears under its name complete or not at all; or standard output, as "-", which gets the bytes at once.
///
/// Until commit() the bytes go to a hidden file beside it, which the destructor and remove_temporary_files() remove. A
/// file that had the name before keeps its contents until then. It hands on its mode and access control list and, as
/// far as the system lets it, its owner and group; where the group cannot be kept, the group may do what all others
/// may. Other names of it (hard links) keep the old contents.
class OutputFile {
 public:
  /// `contents` says what is to be written, "480 bytes of data" for example, for errors that there is no room for it.
  /// Throws Error, with `path` as its argument, when `path` names something other than a regular file or a
  /// write-protected one, when standard output is a terminal, or when the hidden file cannot be created.
  /// Write-protected is what the process may not write, and for everybody, root included, a file without any write
  /// permission.
  OutputFile(const std::string& path, std::string contents);
  /// Takes part in another process's output: `shared` is what its share() returned. Only the other may commit() it.
  OutputFile(const std::string& path, std::string contents, const std::string& shared);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  /// Errors name it so.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] bool is_open() const noexcept { return descriptor_ >= 0; }
  /// After close(), and before commit().
  [[nodiscard]] bool is_closed() const noexcept { return is_closed_; }
  /// Lets other processes take part. They have to see this process; `by_name`, its directory is enough, at the price of
  /// a hidden name from here on.
  [[nodiscard]] std::string share(bool by_name);

  /// Writes all of the bytes behind those written before. Throws Error when the system does not let it; then the output
  /// is given up.
  void write(std::span<const std::byte> bytes);
  /// Writes at an offset in the file, in any order; to standard output, one behind the other.
  void write_at(off_t offset, std::span<const std::byte> bytes);
  /// Ends writing: what the system reports late, it reports here. Throws Error as write() does.
  void close();
  /// Gives the file its name, after close() if need be, which makes a hidden name for the moment in between. Throws
  /// Error as write() does.
  void commit();

 private:
  void write_fully(std::span<const std::byte> bytes);
  void open_hidden();
  void make_name();
  void take_over_access();
  void discard() noexcept;
  [[noreturn]] void fail_to_write(int error_number);
  [[noreturn]] void discard_and_throw(const std::string& problem);

  std::string path_;
  std::string name_;
  std::string contents_;
  std::optional<TemporaryName> temporary_name_;
  bool owns_file_ = true;
  bool is_standard_output_ = false;
  bool is_closed_ = false;
  int descriptor_ = -1;
  off_t position_ = 0;
};

}  // namespace exactnorm::npy

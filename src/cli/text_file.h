#pragma once

#include <string>
#include <string_view>

namespace exactnorm::cli {

/// Writes a text file that appears under its name complete or not at all: what npy::NpyWriter is for arrays.
class TextFile {
 public:
  /// Creates a hidden file beside `path`, which the destructor removes. Throws Error, with `path` as its
  /// argument, when that fails or when `path` names something other than a regular file.
  explicit TextFile(std::string path);
  ~TextFile();
  TextFile(const TextFile&) = delete;
  TextFile& operator=(const TextFile&) = delete;

  /// Writes all of the text and gives the file its name. Throws Error when the system does not let it.
  void commit(std::string_view text);

 private:
  std::string path_;
  std::string temporary_path_;
  int descriptor_ = -1;
};

}  // namespace exactnorm::cli

#include "system_text.h"

#include <sys/stat.h>

#include <system_error>

namespace exactnorm::npy {

bool is_stream(const std::string& path) { return path == "-"; }

std::string input_name(const std::string& path) { return is_stream(path) ? "standard input" : path; }

std::string output_name(const std::string& path) { return is_stream(path) ? "standard output" : path; }

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

#pragma once

#include <sys/types.h>

#include <string>

// How files and the system's errors are named in messages.

namespace exactnorm::npy {

/// Whether `path` is "-", which stands for standard input or output; "./-" is a file of that name.
[[nodiscard]] bool is_stream(const std::string& path);
[[nodiscard]] std::string input_name(const std::string& path);
[[nodiscard]] std::string output_name(const std::string& path);

/// "a directory" or "a pipe", for example, from the st_mode of a file that is not a regular one.
[[nodiscard]] std::string describe_file_kind(mode_t mode);

/// The system's text for an errno.
[[nodiscard]] std::string describe_errno(int error_number);

}  // namespace exactnorm::npy

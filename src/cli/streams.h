#pragma once

#include <span>
#include <string>

#include "exactnorm/distributed.h"

// "-", which stands for standard input and output.

namespace exactnorm::cli {

/// To be called before any file is opened: gives standard streams that are closed a descriptor on which they fail, so
/// that no file gets their number, and with it what is printed.
void reserve_standard_streams();

/// Throws Error when several of `inputs` are standard input, or when it cannot be shared by `ranks`.
void check_input_streams(std::span<const std::string> inputs, const Communicator& ranks);
/// The same for outputs.
void check_output_streams(std::span<const std::string> outputs, const Communicator& ranks);

/// The name by which the system knows an input or an output, of which each may be "-".
[[nodiscard]] std::string input_path(const std::string& path);
[[nodiscard]] std::string output_path(const std::string& path);

/// Whether two paths lead to one file, or would if it existed.
[[nodiscard]] bool is_same_file(const std::string& a, const std::string& b);

/// Prints to standard error, where that can be written: a message that nobody can read is no reason to fail.
void print_message(const std::string& text) noexcept;

}  // namespace exactnorm::cli

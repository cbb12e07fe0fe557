#pragma once

#include <CLI/CLI.hpp>
#include <span>
#include <string_view>

namespace exactnorm::cli {

/// Makes the help of the command name the commands on ONNX models.
void describe_onnx_commands(CLI::App& main);

[[nodiscard]] bool is_onnx_command(std::string_view name);

/// Runs the Python package's program, in place of this process, with what was typed: such a command, and what it takes.
/// Throws Error where it cannot be started.
void hand_over(std::span<char* const> words);

}  // namespace exactnorm::cli

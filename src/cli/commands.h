#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace exactnorm::cli {

/// A subcommand: how it is called, and what it does once the arguments are read. `run` returns the exit status.
struct Command {
  CLI::App* app = nullptr;
  std::function<int()> run;
  /// Whether processes that were started together share the work; if not, the first of them does it.
  bool shares_work = false;
};

[[nodiscard]] Command add_demo(CLI::App& main);
[[nodiscard]] Command add_info(CLI::App& main);
[[nodiscard]] Command add_normalize(CLI::App& main);
[[nodiscard]] Command add_statistics(CLI::App& main);

}  // namespace exactnorm::cli

#include <fmt/core.h>

#include <array>
#include <cfenv>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>
#include <string>

#include "commands.h"
#include "exactnorm/exactnorm.h"
#include "help.h"
#include "interrupt.h"
#include "onnx.h"
#include "ranks.h"
#include "streams.h"

namespace {

using exactnorm::cli::Command;

constexpr int failure_status = 1;
constexpr int usage_status = 2;
constexpr const char* unwritable_output = "standard output: cannot be written";

bool is_first() { return exactnorm::cli::ranks().rank() == 0; }

int fail(const std::string& message) {
  exactnorm::cli::print_message("exactnorm: error: " + message + "\n");
  return failure_status;
}

// Of an error that no other process knows of.
int fail_alone(const std::string& message) {
  fail(message);
  if (exactnorm::cli::is_launched()) exactnorm::cli::abort_ranks(failure_status);
  return failure_status;
}

// What was typed decides whose help to recommend.
int report_usage(const CLI::App& app, const CLI::ParseError& error) {
  std::string command = app.get_name();
  for (const CLI::App* subcommand : app.get_subcommands()) command += " " + subcommand->get_name();
  exactnorm::cli::print_message(
      fmt::format("exactnorm: error: {}\nRun \"{} --help\" to see what it takes.\n", error.what(), command));
  return usage_status;
}

int after_printing(int status) {
  return std::fflush(stdout) != 0 || std::ferror(stdout) != 0 ? fail(unwritable_output) : status;
}

int run(const Command& command) {
  // A wrong EXACTNORM_TARGET is found here rather than in the midst of the work.
  static_cast<void>(exactnorm::active_target());
  exactnorm::cli::watch_for_signals();
  if (!command.shares_work && !is_first()) return 0;
  return after_printing(command.run());
}

int run_arguments(int count, char** arguments) {
  // A library that was linked with -ffast-math may have changed it.
  std::fesetenv(FE_DFL_ENV);
  CLI::App app(
      "Batch normalization whose results depend on the data alone: exact sums, so that threads,\n"
      "instruction sets and the order of the work change no bit of them.");
  app.name("exactnorm");
  app.formatter(std::make_shared<exactnorm::cli::HelpFormatter>());
  app.set_help_flag("-h,--help", "print this");
  app.set_version_flag("--version", fmt::format("exactnorm {}", exactnorm::version()), "print the version");
  app.require_subcommand(1);
  app.footer(
      "\"exactnorm COMMAND --help\" says more about each. Start with \"exactnorm demo\".\n\n"
      "Exit status:\n"
      "  0      done\n"
      "  1      failed, with a message that names what is wrong; files are as they were before\n"
      "  2      called in a wrong way\n"
      "  128+N  ended by signal number N, as shells say it; files are as they were before, or complete");
  const std::array commands = {exactnorm::cli::add_demo(app), exactnorm::cli::add_normalize(app),
                               exactnorm::cli::add_statistics(app), exactnorm::cli::add_info(app)};
  exactnorm::cli::describe_onnx_commands(app);
  if (count > 1 && exactnorm::cli::is_onnx_command(arguments[1])) {
    if (is_first()) exactnorm::cli::hand_over({arguments + 1, static_cast<std::size_t>(count - 1)});
    return 0;
  }
  try {
    app.parse(count, arguments);
  } catch (const CLI::Success& success) {  // --help and --version
    return is_first() ? after_printing(app.exit(success)) : 0;
  } catch (const CLI::ParseError& error) {
    return is_first() ? report_usage(app, error) : usage_status;
  }
  for (const Command& command : commands) {
    if (command.app->parsed()) return run(command);
  }
  return usage_status;
}

}  // namespace

int main(int count, char** arguments) {
  exactnorm::cli::reserve_standard_streams();
  try {
    static_cast<void>(exactnorm::cli::ranks());
  } catch (const exactnorm::Error& error) {
    return fail(error.what());
  }
  try {
    return run_arguments(count, arguments);
  } catch (const exactnorm::Error& error) {
    // What all processes throw at once.
    return is_first() ? fail(error.what()) : failure_status;
  } catch (const std::bad_alloc&) {
    return fail_alone("not enough memory");
  } catch (const std::exception& error) {
    return fail_alone(std::ferror(stdout) != 0 ? unwritable_output : error.what());
  }
}

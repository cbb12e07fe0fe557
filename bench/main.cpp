// Batch normalization beside a peer and beside what the memory allows.

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <memory>
#include <new>

#include "cli/help.h"
#include "cli/json_text.h"
#include "exactnorm/exactnorm.h"
#include "report.h"
#include "run.h"
#include "settings.h"

namespace {

using namespace exactnorm::bench;

constexpr int failure_status = 1;
constexpr int usage_status = 2;

int fail(const std::string& message, int status) {
  fmt::print(stderr, "exactnorm_bench: error: {}\n", message);
  return status;
}

int run(const Settings& settings) {
  // Before anything starts threads: a peer may choose the processors that they run on.
  const Peers peers = load_peers(settings.peer, settings.manner.threads);
  const Circumstances circumstances = find_circumstances(settings.manner, peers);
  exactnorm::cli::Json json = {{"header", to_json(circumstances)}, {"rows", exactnorm::cli::Json::array()}};
  if (!settings.json) print_header(circumstances);
  bool is_wrong = false;
  for (const Case& measured : settings.cases) {
    const Outcome outcome = run_case(measured, peers, settings.manner);
    for (const std::string& remark : outcome.remarks) {
      fmt::print(stderr, "exactnorm_bench: {} {} {}: {}\n", operation_of(measured), measured.layout,
                 exactnorm::to_string(measured.shape), remark);
    }
    is_wrong = is_wrong || outcome.is_wrong;
    if (!outcome.row) continue;
    if (settings.json) {
      json["rows"].push_back(to_json(*outcome.row, circumstances));
    } else {
      print_row(*outcome.row);
    }
  }
  if (settings.json) fmt::print("{}", exactnorm::cli::to_text(json));
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0) {
    return fail("standard output: cannot be written", failure_status);
  }
  return is_wrong ? failure_status : 0;
}

int run_arguments(int count, char** arguments) {
  CLI::App app(
      "Times training, inference and the backward pass beside a peer, and beside the least bytes that\n"
      "they have to move, moved as fast as this machine can.");
  app.name("exactnorm_bench");
  app.formatter(std::make_shared<exactnorm::cli::HelpFormatter>());
  app.set_help_flag("-h,--help", "print this");
  app.set_version_flag("--version", fmt::format("exactnorm_bench {}", exactnorm::version()), "print the version");
  app.footer(
      "Every combination of shape, layout and operation that fits is a row. All contenders take turns in the same\n"
      "memory. Before that, each answer is checked: ours has to be as accurate as the library promises, the peer's\n"
      "within 1e-3 of the largest value that the channel can have (dgamma and dbeta: within 1e-4 of the sum of their\n"
      "terms' absolute values). A wrong answer has no row, and makes the exit status 1.\n\n"
      "Example: exactnorm_bench --set resnet50 --layout nchw,nhwc --op training,backward --peer onednn");
  const SettingsParser parser(app);
  try {
    app.parse(count, arguments);
  } catch (const CLI::Success& success) {  // --help and --version
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "exactnorm_bench: error: {}\nRun \"exactnorm_bench --help\" to see what it takes.\n",
               error.what());
    return usage_status;
  }
  try {
    const Settings settings = parser.settings();
    return run(settings);
  } catch (const exactnorm::Error& error) {
    return fail(error.what(), usage_status);
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    return run_arguments(count, arguments);
  } catch (const std::bad_alloc&) {
    return fail("not enough memory", failure_status);
  } catch (const std::exception& error) {
    return fail(error.what(), failure_status);
  }
}

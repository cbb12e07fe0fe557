#include <fmt/core.h>
#include <fmt/ranges.h>

#include <memory>
#include <string>
#include <vector>

#include "commands.h"
#include "exactnorm/exactnorm.h"
#include "json_text.h"
#include "ranks.h"

namespace exactnorm::cli {
namespace {

struct Dtypes {
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
};

Dtypes dtypes() {
  Dtypes result;
  for (const DType dtype : all_dtypes) {
    result.inputs.emplace_back(name_of(dtype));
    if (is_floating(dtype)) result.outputs.emplace_back(name_of(dtype));
  }
  return result;
}

int run(bool json) {
  const Dtypes types = dtypes();
  if (json) {
    fmt::print(
        "{}",
        to_text({{"version", version()},
                 {"targets",
                  {{"compiled", compiled_targets()}, {"supported", supported_targets()}, {"active", active_target()}}},
                 {"threads", default_threads()},
                 {"mpi", mpi_version()},
                 {"dtypes", {{"input", types.inputs}, {"output", types.outputs}}}}));
    return 0;
  }
  fmt::print("version            {}\n", version());
  fmt::print("targets compiled   {}\n", fmt::join(compiled_targets(), ", "));
  fmt::print("        supported  {}\n", fmt::join(supported_targets(), ", "));
  fmt::print("        active     {}\n", active_target());
  fmt::print("threads            {}\n", default_threads());
  fmt::print("MPI                {}\n", mpi_version());
  fmt::print("dtypes  input      {}\n", fmt::join(types.inputs, ", "));
  fmt::print("        output     {}\n", fmt::join(types.outputs, ", "));
  return 0;
}

}  // namespace

Command add_info(CLI::App& main) {
  CLI::App* app =
      main.add_subcommand("info", "Print the version, instruction sets, threads, MPI and dtypes.")->group("Commands");
  const auto json = std::make_shared<bool>(false);
  app->add_flag("--json", *json, "print JSON");
  app->footer(
      "Environment:\n"
      "  EXACTNORM_TARGET   the instruction set to use, one of those supported (default: the best)\n"
      "  OMP_NUM_THREADS    the threads to use at most (default: one per core)\n"
      "Neither changes a bit of any result.");
  return {app, [json] { return run(*json); }};
}

}  // namespace exactnorm::cli

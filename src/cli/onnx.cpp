// Commands on ONNX models, which the Python package has: its program takes over.

#include "onnx.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "exactnorm/error.h"

namespace exactnorm::cli {
namespace {

constexpr const char* program = "exactnorm-onnx";

struct Description {
  const char* name;
  const char* text;
};
constexpr std::array descriptions = {
    Description{"fold", "Make batch normalizations parts of the layers around them."},
    Description{"inspect", "Look at batch normalizations and the data that reaches them; writes a page."}};

}  // namespace

void describe_onnx_commands(CLI::App& main) {
  for (const Description& command : descriptions) {
    main.add_subcommand(command.name, command.text)->group("Commands on ONNX models, of the Python package");
  }
}

bool is_onnx_command(std::string_view name) {
  for (const Description& command : descriptions) {
    if (name == command.name) return true;
  }
  return false;
}

void hand_over(std::span<char* const> words) {
  std::string name = program;
  std::vector<char*> arguments = {name.data()};
  arguments.insert(arguments.end(), words.begin(), words.end());
  arguments.push_back(nullptr);
  ::execvp(program, arguments.data());
  if (errno == ENOENT) {
    throw Error(words[0], "needs the program " + name +
                              ", which is not in PATH; the Python package has it: pip install '.[onnx]'");
  }
  throw Error(words[0], name + " cannot be started: " + std::strerror(errno));
}

}  // namespace exactnorm::cli

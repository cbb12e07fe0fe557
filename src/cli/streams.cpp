#include "streams.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <system_error>

#include "exactnorm/error.h"
#include "system_text.h"

namespace exactnorm::cli {
namespace {

void check_streams(const std::string& name, std::span<const std::string> paths, const Communicator& ranks) {
  const auto streams = std::count_if(paths.begin(), paths.end(), npy::is_stream);
  if (streams > 1) throw Error(name, "is given " + std::to_string(streams) + " times, as -; expected it once");
  if (streams > 0 && ranks.size() > 1) {
    throw Error(name, "cannot be shared by " + std::to_string(ranks.size()) +
                          " processes; expected the name of a file that each of them can open");
  }
}

}  // namespace

void reserve_standard_streams() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(descriptor, F_GETFD) >= 0) continue;
    // The lowest free number is this one. Opened the wrong way round, it refuses what the stream is for.
    static_cast<void>(::open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY));
  }
}

void check_input_streams(std::span<const std::string> inputs, const Communicator& ranks) {
  check_streams(npy::input_name("-"), inputs, ranks);
}

void check_output_streams(std::span<const std::string> outputs, const Communicator& ranks) {
  check_streams(npy::output_name("-"), outputs, ranks);
}

std::string input_path(const std::string& path) { return npy::is_stream(path) ? "/dev/stdin" : path; }

std::string output_path(const std::string& path) { return npy::is_stream(path) ? "/dev/stdout" : path; }

bool is_same_file(const std::string& a, const std::string& b) {
  std::error_code ignored;
  if (std::filesystem::equivalent(a, b, ignored)) return true;
  if (std::filesystem::exists(a, ignored) && std::filesystem::exists(b, ignored)) return false;
  // Of files that do not exist yet, the directories may have several names.
  const auto resolve = [&](const std::string& path) {
    return std::filesystem::weakly_canonical(std::filesystem::absolute(path, ignored), ignored);
  };
  return resolve(a) == resolve(b);
}

void print_message(const std::string& text) noexcept {
  std::fputs(text.c_str(), stderr);
  std::fflush(stderr);
}

}  // namespace exactnorm::cli

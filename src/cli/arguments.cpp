#include "arguments.h"

#include <charconv>
#include <string_view>

namespace exactnorm::cli {

IndexList parse_channel_axes(const std::string& text) {
  IndexList axes;
  if (text == "none") return axes;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (true) {
    Index axis = 0;
    const auto [stop, problem] = std::from_chars(at, end, axis);
    if (problem != std::errc{} || (stop != end && *stop != ',')) {
      throw Error("--channel-axes", "is \"" + text + "\"; expected numbers of axes, as in 1 or 0,2, or none");
    }
    if (axes.size() == maximum_rank) throw Error("--channel-axes", "is \"" + text + "\"; expected at most 8 axes");
    axes.push_back(axis);
    if (stop == end) return axes;
    at = stop + 1;
  }
}

CLI::Option* add_channel_axes(CLI::App& app, std::string& text) {
  return app
      .add_option("--channel-axes", text,
                  "axes that keep their own statistics: 1 for (batch, channel, ...),\n"
                  "-1 for channels last, 0,2 for two of them, none for one in all")
      ->option_text("AXIS[,AXIS...]")
      ->required();
}

CLI::Option* add_threads(CLI::App& app, int& threads) {
  return app.add_option("--threads", threads, "threads to use at most; results do not depend on it (default: all)")
      ->option_text("NUMBER");
}

CLI::Option* add_block_bytes(CLI::App& app, Index& block_bytes) {
  return app.add_option("--block-bytes", block_bytes)->check(CLI::PositiveNumber)->group("");
}

Error with_option_name(const Error& error, const OptionNames& names) {
  const auto found = names.find(error.argument());
  return {found == names.end() ? error.argument() : found->second, error.problem()};
}

}  // namespace exactnorm::cli

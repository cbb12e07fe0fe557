#pragma once

#include <CLI/CLI.hpp>
#include <map>
#include <string>

#include "exactnorm/error.h"
#include "exactnorm/tensor.h"

namespace exactnorm::cli {

/// What --channel-axes takes: "1", "0,2", "-1", or "none" for no axis at all. Throws Error.
[[nodiscard]] IndexList parse_channel_axes(const std::string& text);

/// Options that several subcommands have.
CLI::Option* add_channel_axes(CLI::App& app, std::string& text);
CLI::Option* add_threads(CLI::App& app, int& threads);
/// Hidden: tests cut small files into many blocks with it.
CLI::Option* add_block_bytes(CLI::App& app, Index& block_bytes);

using OptionNames = std::map<std::string, std::string>;

/// `error` with its argument spelled as the option that the user gave: --epsilon for epsilon.
[[nodiscard]] Error with_option_name(const Error& error, const OptionNames& names);

/// Runs `call`, whose Errors name the library's arguments, and lets them name options instead.
template <typename Call>
decltype(auto) naming_options(const OptionNames& names, const Call& call) {
  try {
    return call();
  } catch (const Error& error) {
    throw with_option_name(error, names);
  }
}

}  // namespace exactnorm::cli

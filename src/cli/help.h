#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace exactnorm::cli {

/// The layout of --help: what the command does, how to call it, options, examples.
class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter();
  [[nodiscard]] std::string make_usage(const CLI::App* app, std::string name) const override;
  [[nodiscard]] std::string make_option_opts(const CLI::Option* option) const override;
  [[nodiscard]] std::string make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const override;
};

}  // namespace exactnorm::cli

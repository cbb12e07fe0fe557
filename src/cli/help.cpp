#include "help.h"

namespace exactnorm::cli {

HelpFormatter::HelpFormatter() {
  column_width(34);
  label("Positionals", "Arguments");
}

std::string HelpFormatter::make_usage(const CLI::App* app, std::string name) const {
  std::string usage = "\nUsage: " + name;
  for (const CLI::Option* option : app->get_options()) {
    if (option->get_positional()) usage += " " + make_option_usage(option);
  }
  for (const CLI::Option* option : app->get_options()) {
    if (option->nonpositional() && option->get_required()) {
      usage += " " + option->get_name() + " " + option->get_option_text();
    }
  }
  if (app->get_require_subcommand_min() > 0) usage += " COMMAND";
  return usage + " [OPTION...]\n";
}

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  // The usage line says already what is required and what may be repeated.
  return option->get_option_text().empty() ? "" : " " + option->get_option_text();
}

std::string HelpFormatter::make_help(const CLI::App* app, std::string name, CLI::AppFormatMode mode) const {
  std::string help = CLI::Formatter::make_help(app, std::move(name), mode);
  // Hidden groups leave blank lines behind.
  for (std::size_t at = help.find("\n\n\n"); at != std::string::npos; at = help.find("\n\n\n", at)) help.erase(at, 1);
  return help;
}

}  // namespace exactnorm::cli

#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "problem.h"
#include "run.h"

namespace exactnorm::bench {

/// What the command line asks for.
struct Settings {
  std::vector<Case> cases;
  std::string peer = "none";
  Manner manner;
  bool json = false;
};

/// The options as they are typed.
class SettingsParser {
 public:
  explicit SettingsParser(CLI::App& app);

  /// Throws Error, which names the option.
  [[nodiscard]] Settings settings() const;

 private:
  struct Shape {
    IndexList sizes;
    std::string default_layout;
  };

  [[nodiscard]] std::vector<Shape> shapes() const;

  std::vector<std::string> shapes_;
  std::vector<std::string> sets_;
  std::vector<std::string> layouts_;
  std::vector<std::string> operations_{"training"};
  std::string dtype_ = "float32";
  std::string data_ = "normal";
  std::string peer_ = "none";
  Manner manner_;
  Index batch_ = 32;
  bool json_ = false;
};

}  // namespace exactnorm::bench

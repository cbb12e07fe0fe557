#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "problem.h"
#include "timing.h"

namespace exactnorm::bench {

/// What the command line asks for.
struct Settings {
  std::vector<Case> cases;
  std::string peer = "none";
  /// Empty for that of each case.
  std::string peer_layout;
  int threads = 0;
  Effort effort;
  bool exact_sums = false;
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
  std::string peer_layout_;
  Index batch_ = 32;
  int threads_ = 0;
  Effort effort_;
  bool exact_sums_ = false;
  bool json_ = false;
};

}  // namespace exactnorm::bench

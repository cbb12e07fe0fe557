#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include "exactnorm/export.h"

namespace exactnorm {

/// The one exception type of this library.
///
/// `what()` reads "argument: what was given; what was expected", for example
/// "gamma: has 3 elements; expected 4, one per channel". Nothing has been written to any output when
/// it is thrown, unless the function's own documentation says otherwise.
class EXACTNORM_EXPORT Error : public std::runtime_error {
 public:
  Error(std::string argument, std::string problem)
      : std::runtime_error(argument + ": " + problem), argument_(std::move(argument)), problem_(std::move(problem)) {}

  /// The name of the offending argument, spelled as in the function's declaration.
  [[nodiscard]] const std::string& argument() const noexcept { return argument_; }
  /// What was given, and what was expected: the rest of `what()`.
  [[nodiscard]] const std::string& problem() const noexcept { return problem_; }

 private:
  std::string argument_;
  std::string problem_;
};

}  // namespace exactnorm

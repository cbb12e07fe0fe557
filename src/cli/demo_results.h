#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "demo_cases.h"
#include "exactnorm/statistics.h"

namespace exactnorm::cli {

/// What our normalization makes of a case, and how it compares.
struct DemoResult {
  std::vector<float> y;
  Statistics before;
  Statistics after;
  bool all_close = false;
  /// The largest difference from the exact result, each under its own convention.
  double our_error = 0;
  double pytorch_error = 0;
};
[[nodiscard]] DemoResult run_demo_case(const DemoCase& demo_case);

/// One normalization, done again under other circumstances: the checksums of its output.
struct IndependenceResult {
  struct Run {
    std::string circumstance;  // the number of threads, or the target
    std::uint64_t checksum = 0;
  };
  std::vector<Run> by_threads;
  std::vector<Run> by_target;

  [[nodiscard]] bool is_independent() const;
};
[[nodiscard]] IndependenceResult run_independence(const DemoCase& demo_case);

}  // namespace exactnorm::cli

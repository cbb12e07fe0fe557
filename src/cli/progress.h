#pragma once

#include <chrono>
#include <string>

#include "exactnorm/tensor.h"

namespace exactnorm::cli {

/// A line on stderr that says how far the work is: only on a terminal, and only for work of over 256 MiB.
class Progress {
 public:
  /// `label` says what is going on, "reading" for example.
  Progress(std::string label, Index total_bytes);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void advance(Index bytes);
  /// Clears the line.
  void finish() noexcept;

 private:
  using Clock = std::chrono::steady_clock;

  std::string label_;
  Index total_bytes_;
  Index done_bytes_ = 0;
  bool visible_;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_shown_ = start_;
};

/// Clears the line of any Progress, in a signal handler too.
void clear_progress_line() noexcept;

}  // namespace exactnorm::cli

#include "progress.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <string_view>
#include <utility>

#include "streams.h"

namespace exactnorm::cli {
namespace {

constexpr Index least_bytes = Index{256} << 20;
constexpr std::chrono::milliseconds refresh_interval{100};

constinit std::atomic<bool> is_shown = false;

}  // namespace

Progress::Progress(std::string label, Index total_bytes)
    : label_(std::move(label)),
      total_bytes_(total_bytes),
      visible_(total_bytes > least_bytes && ::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() { finish(); }

void Progress::advance(Index bytes) {
  done_bytes_ += bytes;
  if (!visible_) return;
  const Clock::time_point now = Clock::now();
  if (now - last_shown_ < refresh_interval) return;
  last_shown_ = now;
  is_shown = true;
  const double seconds = std::chrono::duration<double>(now - start_).count();
  const double percent = 100.0 * static_cast<double>(std::min(done_bytes_, total_bytes_));
  print_message(fmt::format("\rexactnorm: {} {:3.0f} %  {:5.0f} MB/s ", label_,
                            percent / static_cast<double>(total_bytes_),
                            static_cast<double>(done_bytes_) / 1e6 / seconds));
}

void Progress::finish() noexcept {
  visible_ = false;
  clear_progress_line();
}

void clear_progress_line() noexcept {
  if (!is_shown.exchange(false)) return;
  // The code that clears a line to its end: every terminal of today knows it.
  constexpr std::string_view code = "\r\x1b[K";
  // A terminal that does not take it has no line to clear.
  if (::write(STDERR_FILENO, code.data(), code.size()) < 0) return;
}

}  // namespace exactnorm::cli

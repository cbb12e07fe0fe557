#include "temporary_files.h"

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <mutex>
#include <thread>
#include <utility>

namespace exactnorm::npy {
namespace {

// A handler counts itself in `handlers`, then looks at `delays`; a SignalDelay does it the other way round. So either
// the handler sees the delay and returns, or the delay sees the handler and waits for the end of the process.
std::atomic<int> delays = 0;
std::atomic<int> handlers = 0;
std::atomic<int> postponed = 0;
static_assert(std::atomic<int>::is_always_lock_free);

// All names, as a list that needs no memory of its own. Changed under a SignalDelay alone, which is what makes it safe
// for a handler to read.
constinit std::mutex mutex;
constinit TemporaryName* first = nullptr;

}  // namespace

SignalDelay::SignalDelay() noexcept {
  ++delays;
  while (handlers != 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

SignalDelay::~SignalDelay() {
  if (--delays != 0) return;
  if (const int signal = postponed.exchange(0); signal != 0) ::raise(signal);
}

bool postpone_signal(int signal) noexcept {
  ++handlers;
  if (delays == 0) return false;
  postponed = signal;
  // The last delay may have ended without having seen it.
  if (delays == 0 && postponed.exchange(0) != 0) return false;
  --handlers;
  return true;
}

TemporaryName::TemporaryName(std::string path) : path_(std::move(path)) {
  const SignalDelay delay;
  const std::scoped_lock lock(mutex);
  next_ = std::exchange(first, this);
}

TemporaryName::~TemporaryName() {
  const SignalDelay delay;
  const std::scoped_lock lock(mutex);
  TemporaryName** link = &first;
  while (*link != this) link = &(*link)->next_;
  *link = next_;
}

void remove_temporary_files() noexcept {
  for (const TemporaryName* name = first; name != nullptr; name = name->next_) ::unlink(name->path_.c_str());
}

}  // namespace exactnorm::npy

#include "traverse/parallel.h"

#include <omp.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <limits>
#include <optional>
#include <vector>

#include "exactnorm/info.h"
#include "traverse/floating_point.h"

namespace exactnorm {

namespace {

// The tasks of one thread that are not yet taken, from first to last - 1, in one word that changes at once.
class Stretch {
 public:
  void set(Index first, Index last) {
    word_.store(static_cast<std::uint64_t>(first) << 32 | static_cast<std::uint64_t>(last), std::memory_order_relaxed);
  }
  std::optional<Index> take(bool from_front) {
    std::uint64_t word = word_.load(std::memory_order_relaxed);
    for (;;) {
      const std::uint64_t first = word >> 32;
      const std::uint64_t last = word & 0xffffffff;
      if (first >= last) return std::nullopt;
      const std::uint64_t rest = from_front ? (first + 1) << 32 | last : first << 32 | (last - 1);
      if (word_.compare_exchange_weak(word, rest, std::memory_order_relaxed)) {
        return static_cast<Index>(from_front ? first : last - 1);
      }
    }
  }

 private:
  alignas(64) std::atomic<std::uint64_t> word_{0};
};

// Whether this thread is a copy that fork() made. GNU OpenMP gives it the original's team, whose threads do not exist
// in the new process, and would wait for them for ever.
thread_local bool is_forked = false;
[[maybe_unused]] const int fork_watch = pthread_atfork(nullptr, nullptr, [] { is_forked = true; });

constexpr Index most_tasks = std::numeric_limits<std::uint32_t>::max();

void run_team(Index count, int team, Order order, FunctionView<void(Index, int)> task) {
  std::vector<Stretch> stretches(static_cast<std::size_t>(team));
  for (Index thread = 0; thread < team; ++thread) {
    stretches[static_cast<std::size_t>(thread)].set(count * thread / team, count * (thread + 1) / team);
  }
  std::exception_ptr failure;
#pragma omp parallel num_threads(team)
  {
    const DefaultFloatingPoint default_floating_point;
    const int self = omp_get_thread_num();
    // There may be fewer threads than were asked for: the stretches of those missing are taken over.
    for (int i = 0; i < team; ++i) {
      Stretch& stretch = stretches[static_cast<std::size_t>((self + i) % team)];
      const bool from_front = (i == 0) == (order == Order::forwards);
      while (const std::optional<Index> next = stretch.take(from_front)) {
        try {
          task(*next, self);
        } catch (...) {
#pragma omp critical(exactnorm_parallel_for)
          if (!failure) failure = std::current_exception();
        }
      }
    }
  }
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

void parallel_for(Index count, int threads, Order order, FunctionView<void(Index, int)> task) {
  const int team = is_forked ? 1 : static_cast<int>(std::min<Index>(threads, count));
  if (team <= 1) {
    for (Index i = 0; i < count; ++i) task(order == Order::forwards ? i : count - 1 - i, 0);
    return;
  }
  for (Index done = 0; done < count; done += most_tasks) {
    const Index some = std::min(most_tasks, count - done);
    if (done == 0) {
      run_team(some, team, order, task);
    } else {
      run_team(some, team, order, [&](Index i, int thread) { task(done + i, thread); });
    }
  }
}

int resolve_threads(int threads) noexcept {
  if (is_forked) return 1;
  // OpenMP ends the process where it cannot start a thread.
  constexpr int most_threads = 1024;
  return std::min(threads > 0 ? threads : default_threads(), most_threads);
}

int default_threads() noexcept { return omp_get_max_threads(); }

}  // namespace exactnorm

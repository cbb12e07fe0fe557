#include "plan/parallel.h"

#include <omp.h>

#include <algorithm>
#include <exception>

#include "exactnorm/info.h"

namespace exactnorm {

void parallel_for(Index count, int threads, const std::function<void(Index)>& task) {
  const int team = static_cast<int>(std::min<Index>(threads, count));
  if (team <= 1) {
    for (Index i = 0; i < count; ++i) task(i);
    return;
  }
  std::exception_ptr failure;
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
  for (Index i = 0; i < count; ++i) {
    try {
      task(i);
    } catch (...) {
#pragma omp critical(exactnorm_parallel_for)
      if (!failure) failure = std::current_exception();
    }
  }
  if (failure) std::rethrow_exception(failure);
}

int resolve_threads(int threads) noexcept {
  // OpenMP ends the process where it cannot start a thread.
  constexpr int most_threads = 1024;
  return std::min(threads > 0 ? threads : default_threads(), most_threads);
}

int default_threads() noexcept { return omp_get_max_threads(); }

}  // namespace exactnorm

#pragma once

#include <functional>

#include "exactnorm/tensor.h"

namespace exactnorm {

/// Runs task(0) to task(count - 1), on up to `threads` threads, each task once; which thread runs which
/// is not defined. The first exception that a task throws is rethrown here after all have ended.
void parallel_for(Index count, int threads, const std::function<void(Index)>& task);

/// Resolves Options::threads: 0 becomes OpenMP's default.
[[nodiscard]] int resolve_threads(int threads) noexcept;

}  // namespace exactnorm

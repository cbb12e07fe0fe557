#pragma once

#include "exactnorm/tensor.h"
#include "traverse/function_view.h"

namespace exactnorm {

/// The order in which a thread goes through its tasks.
enum class Order { forwards, backwards };

/// Runs task(0, thread) to task(count - 1, thread), on up to `threads` threads, numbered from 0, each task once. Each
/// thread has a stretch of neighbouring tasks of its own, the same at each call, so that it finds in its caches what it
/// left there; a thread that has done its own takes over what others have before them. In a process that fork() made,
/// the calling thread runs all, whatever `threads` was when its parent chose it. The first exception that a task throws
/// is rethrown here when no task runs any more; some may not have run then.
void parallel_for(Index count, int threads, Order order, FunctionView<void(Index, int)> task);

/// Resolves Options::threads: 0 becomes OpenMP's default; in a thread that fork() copied there is 1.
[[nodiscard]] int resolve_threads(int threads) noexcept;

}  // namespace exactnorm

#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <mutex>
#include <utility>

#include "exactnorm/layer.h"

// Objects that several Python threads use at the same time have a lock of their own. It is never held together with the
// interpreter's: a thread would wait for the one with the other in its hands.

namespace exactnorm::python {

/// What `use` returns, called under the lock and without the interpreter: it touches no Python object.
template <typename Use>
auto locked(std::mutex& mutex, const Use& use) {
  const nanobind::gil_scoped_release released;
  const std::lock_guard lock(mutex);
  return use();
}

/// Running statistics by themselves or, under the same lock as all of it, a layer's.
class SharedRunning {
 public:
  explicit SharedRunning(RunningStatistics values)
      : mutex_(std::make_shared<std::mutex>()), values_(std::make_shared<RunningStatistics>(std::move(values))) {}
  SharedRunning(std::shared_ptr<std::mutex> mutex, std::shared_ptr<RunningStatistics> values)
      : mutex_(std::move(mutex)), values_(std::move(values)) {}

  template <typename Use>
  auto use(const Use& use) const {
    return locked(*mutex_, [&] { return use(*values_); });
  }
  [[nodiscard]] RunningStatistics copy() const {
    return use([](const RunningStatistics& values) { return values; });
  }

 private:
  std::shared_ptr<std::mutex> mutex_;
  std::shared_ptr<RunningStatistics> values_;
};

void bind_moments(nanobind::module_& module);
void bind_weights(nanobind::module_& module);
void bind_segments(nanobind::module_& module);
void bind_running_statistics(nanobind::module_& module);
void bind_layer(nanobind::module_& module);

}  // namespace exactnorm::python

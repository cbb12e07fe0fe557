#pragma once

#include <chrono>

namespace exactnorm::bench {

/// Tells how much of the machine others used since the construction of this: a measurement on a busy machine is
/// worth little, the more so as threads that wait for each other then wait for the scheduler.
class OtherLoad {
 public:
  OtherLoad();

  /// In processors: 1 means that one was busy all the time. What the hypervisor took away counts too.
  [[nodiscard]] double processors() const;

 private:
  std::chrono::steady_clock::time_point start_;
  double others_seconds_;
};

}  // namespace exactnorm::bench

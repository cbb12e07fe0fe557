#include "other_load.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace exactnorm::bench {
namespace {

double own_seconds() {
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Of all processors and programs.
double all_seconds() {
  std::ifstream file("/proc/stat");
  std::string label;
  double user = 0;
  double nice = 0;
  double system = 0;
  double idle = 0;
  double waiting = 0;
  double interrupts = 0;
  double soft_interrupts = 0;
  double stolen = 0;
  file >> label >> user >> nice >> system >> idle >> waiting >> interrupts >> soft_interrupts >> stolen;
  return (user + nice + system + interrupts + soft_interrupts + stolen) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

}  // namespace

OtherLoad::OtherLoad() : start_(std::chrono::steady_clock::now()), others_seconds_(all_seconds() - own_seconds()) {}

double OtherLoad::processors() const {
  // What /proc/stat has not counted yet.
  constexpr double uncounted = 0.02;
  const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  return std::max(0.0, all_seconds() - own_seconds() - others_seconds_ - uncounted) / std::max(elapsed, 1e-3);
}

}  // namespace exactnorm::bench

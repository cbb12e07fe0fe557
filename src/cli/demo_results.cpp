#include "demo_results.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "exactnorm/exactnorm.h"
#include "reference.h"

namespace exactnorm::cli {
namespace {

bool all_close(const std::vector<float>& ours, const std::vector<float>& theirs, const Tolerance& tolerance) {
  for (std::size_t i = 0; i < ours.size(); ++i) {
    const double a = ours[i];
    const double b = theirs[i];
    // Written so that NaN fails.
    if (!(std::abs(a - b) <= tolerance.absolute + tolerance.relative * std::abs(b))) return false;
  }
  return true;
}

double largest_error(const DemoCase& demo_case, const std::vector<float>& y, const Options& options) {
  const auto axis = static_cast<std::size_t>(demo_case.channel_axis);
  std::size_t inner = 1;
  for (std::size_t i = axis + 1; i < demo_case.shape.size(); ++i) inner *= static_cast<std::size_t>(demo_case.shape[i]);
  const std::vector<long double> exact = normalize_by_definition(
      demo_case.z, static_cast<std::size_t>(demo_case.shape[axis]), inner, static_cast<long double>(options.epsilon),
      options.epsilon_placement == EpsilonPlacement::deviation);
  long double largest = 0;
  for (std::size_t i = 0; i < y.size(); ++i) largest = std::max(largest, std::abs(y[i] - exact[i]));
  return static_cast<double>(largest);
}

// FNV-1a, 64 bits.
std::uint64_t checksum_of(const std::vector<float>& values) {
  std::uint64_t sum = 0xcbf29ce484222325U;
  for (const std::byte byte : std::as_bytes(std::span(values))) {
    sum = (sum ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3U;
  }
  return sum;
}

std::uint64_t checksum_of_training(const DemoCase& demo_case, int threads) {
  Options options = demo_case.options;
  options.threads = threads;
  std::vector<float> y(demo_case.z.size());
  training(view(demo_case.z, demo_case.shape), mutable_view(y, demo_case.shape), {}, options);
  return checksum_of(y);
}

// Returns to the target that was active.
class TargetGuard {
 public:
  TargetGuard() = default;
  ~TargetGuard() { set_target(active_); }
  TargetGuard(const TargetGuard&) = delete;
  TargetGuard& operator=(const TargetGuard&) = delete;

 private:
  std::string active_ = active_target();
};

}  // namespace

DemoResult run_demo_case(const DemoCase& demo_case) {
  DemoResult result;
  result.y.resize(demo_case.z.size());
  result.before =
      training(view(demo_case.z, demo_case.shape), mutable_view(result.y, demo_case.shape), {}, demo_case.options);
  PartialSums sums(result.before.channels());
  accumulate(sums, view(result.y, demo_case.shape), demo_case.options);
  result.after = statistics_of(sums, demo_case.options);
  result.all_close = all_close(result.y, demo_case.pytorch, demo_case.tolerance);
  result.our_error = largest_error(demo_case, result.y, demo_case.options);
  result.pytorch_error = largest_error(demo_case, demo_case.pytorch, {.epsilon = pytorch_epsilon});
  return result;
}

bool IndependenceResult::is_independent() const {
  const auto agrees = [&](const Run& run) { return run.checksum == by_threads.front().checksum; };
  return std::all_of(by_threads.begin(), by_threads.end(), agrees) &&
         std::all_of(by_target.begin(), by_target.end(), agrees);
}

IndependenceResult run_independence(const DemoCase& demo_case) {
  IndependenceResult result;
  for (const int threads : {1, 2, 3}) {
    result.by_threads.push_back({std::to_string(threads), checksum_of_training(demo_case, threads)});
  }
  const TargetGuard guard;
  for (const std::string& target : supported_targets()) {
    set_target(target);
    result.by_target.push_back({target, checksum_of_training(demo_case, 0)});
  }
  return result;
}

}  // namespace exactnorm::cli

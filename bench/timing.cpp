#include "timing.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstddef>

namespace exactnorm::bench {
namespace {

// A sample lasts at least as long.
constexpr double least_milliseconds = 0.1;
constexpr int most_calls = 100'000;
// Threads of GNU OpenMP that have nothing to do spin for some milliseconds, in the way of whoever comes next.
constexpr double settling_milliseconds = 5;

double milliseconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

// Calls that are not timed, until others' threads sleep and the caches hold one's own data. Returns what the last
// one took.
double settle(const std::function<void()>& call) {
  const auto start = std::chrono::steady_clock::now();
  double latest = 0;
  do {
    latest = milliseconds(call);
  } while (milliseconds_since(start) < settling_milliseconds);
  return latest;
}

double sample(const std::function<void()>& call) {
  int calls = std::clamp(static_cast<int>(least_milliseconds / std::max(settle(call), 1e-6)), 1, most_calls);
  while (true) {
    const double all = milliseconds([&] {
      for (int i = 0; i < calls; ++i) call();
    });
    if (all >= least_milliseconds || calls == most_calls) return all / calls;
    calls = std::min(calls * 2, most_calls);
  }
}

struct ColdSample {
  double call = 0;
  double reading = 0;
  [[nodiscard]] double all() const noexcept { return call + reading; }
};

ColdSample cold_sample(const ColdContender& contender, const std::function<void()>& prepare,
                       const std::function<void()>& read) {
  // One call that is disturbed does not matter then, and a turn does not last long.
  constexpr std::size_t calls = 3;
  settle(contender.call);
  std::array<ColdSample, calls> samples;
  for (ColdSample& sample : samples) {
    prepare();
    contender.layer_before();
    sample.call = milliseconds(contender.call);
    sample.reading = milliseconds(read);
  }
  std::nth_element(samples.begin(), samples.begin() + calls / 2, samples.end(),
                   [](const ColdSample& a, const ColdSample& b) { return a.all() < b.all(); });
  return samples[calls / 2];
}

}  // namespace

double milliseconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return milliseconds_since(start);
}

double quantile(std::vector<double> values, double share) {
  const auto at = static_cast<std::ptrdiff_t>(std::lround(share * static_cast<double>(values.size() - 1)));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<std::size_t>(at)];
}

double median(const std::vector<double>& values) { return quantile(values, 0.5); }

double median_ratio(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> ratios(a.size());
  std::transform(a.begin(), a.end(), b.begin(), ratios.begin(), [](double x, double y) { return x / y; });
  return median(ratios);
}

std::vector<std::vector<double>> measure_in_turn(const std::vector<std::function<void()>>& contenders,
                                                 const Effort& effort) {
  std::vector<std::vector<double>> samples(contenders.size());
  const auto start = std::chrono::steady_clock::now();
  for (int round = 0; round < effort.rounds || milliseconds_since(start) < effort.seconds * 1000; ++round) {
    for (std::size_t i = 0; i < contenders.size(); ++i) samples[i].push_back(sample(contenders[i]));
  }
  return samples;
}

std::vector<ColdSamples> measure_cold_in_turn(const std::vector<ColdContender>& contenders,
                                              const std::function<void()>& prepare, const std::function<void()>& read,
                                              const Effort& effort) {
  std::vector<ColdSamples> result(contenders.size());
  const auto start = std::chrono::steady_clock::now();
  for (int round = 0; round < effort.rounds || milliseconds_since(start) < effort.seconds * 1000; ++round) {
    for (std::size_t i = 0; i < contenders.size(); ++i) {
      const ColdSample sample = cold_sample(contenders[i], prepare, read);
      result[i].calls.push_back(sample.call);
      result[i].readings.push_back(sample.reading);
      result[i].all.push_back(sample.all());
    }
  }
  return result;
}

}  // namespace exactnorm::bench

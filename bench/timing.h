#pragma once

#include <functional>
#include <string>
#include <vector>

namespace exactnorm::bench {

[[nodiscard]] double milliseconds(const std::function<void()>& work);

/// The value below which this share of `values` lies; 0.5 is the median. `values` may not be empty.
[[nodiscard]] double quantile(std::vector<double> values, double share);
[[nodiscard]] double median(const std::vector<double>& values);
/// The median of a[i] / b[i]: what was measured side by side is divided before anything else.
[[nodiscard]] double median_ratio(const std::vector<double>& a, const std::vector<double>& b);

struct Effort {
  int rounds = 11;
  double seconds = 1;
};

/// Milliseconds per call of each contender in each round. The contenders take turns until both the rounds and
/// the seconds of `effort` are over. A turn begins with calls that are not timed, so that nobody pays for the caches
/// and for the threads, still spinning, of the one before.
[[nodiscard]] std::vector<std::vector<double>> measure_in_turn(const std::vector<std::function<void()>>& contenders,
                                                               const Effort& effort);

/// One of those that are timed with cold tensors.
struct ColdContender {
  std::function<void()> call;
  /// Another layer's call by the same contender.
  std::function<void()> layer_before;
};

/// Milliseconds of each round.
struct ColdSamples {
  std::vector<double> calls;
  std::vector<double> readings;
  /// Of both together.
  std::vector<double> all;
};

/// As above, but each call is preceded by `prepare` and by the contender's layer before, and followed by `read`. A turn
/// has a few calls; its sample is the one of the median sum.
[[nodiscard]] std::vector<ColdSamples> measure_cold_in_turn(const std::vector<ColdContender>& contenders,
                                                            const std::function<void()>& prepare,
                                                            const std::function<void()>& read, const Effort& effort);

}  // namespace exactnorm::bench

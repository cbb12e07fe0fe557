#pragma once

#include <vector>

#include "exactnorm/export.h"
#include "exactnorm/options.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// What normalization needs to know of each channel, computed or given. One value per channel in each
/// vector, in float64 whatever the input was. The functions that make statistics set all members; those who fill in a
/// Statistics by hand set the epsilon that their inverse_deviation has.
struct EXACTNORM_EXPORT Statistics {
  /// Elements per channel behind the values; 0 where they were given rather than computed.
  Index count = 0;

  /// The exact mean, rounded once to float64. `training` of float32 data rounds it further (batch_norm.h).
  std::vector<double> mean;
  /// What one float64 could not hold: mean + mean_residual is the exact mean to 2^-106 of it, unless it is subnormal.
  /// 0 where the mean is rounded further.
  std::vector<double> mean_residual;
  /// The exact biased variance (divided by `count`), rounded once to float64. `training` of float32 data rounds it
  /// further. Infinite where it exceeds float64's range; `inverse_deviation` is right even then.
  std::vector<double> variance;
  /// 1 / sqrt(variance + epsilon) or 1 / (sqrt(variance) + epsilon); 0 where the divisor is 0, so that a
  /// constant channel with epsilon 0 becomes beta.
  std::vector<double> inverse_deviation;

  /// The epsilon in inverse_deviation, and its place. A backward pass takes them from here, so that it is that of the
  /// forward pass.
  double epsilon = 1e-5;
  EpsilonPlacement epsilon_placement = EpsilonPlacement::variance;

  /// Elements behind the values of each channel, where channels differ in it (`Nonfinite::ignore`); empty where each
  /// has `count`. `RunningStatistics::update` takes them in; backward passes refuse them.
  std::vector<Index> counts = {};

  [[nodiscard]] Index channels() const noexcept { return static_cast<Index>(mean.size()); }
};

/// The columns of a Statistics in somebody else's memory: at each address one float64 per channel.
struct EXACTNORM_EXPORT StatisticsView {
  const double* mean = nullptr;
  const double* mean_residual = nullptr;
  const double* variance = nullptr;
  const double* inverse_deviation = nullptr;
};

/// The same for memory that will be written.
struct EXACTNORM_EXPORT MutableStatisticsView {
  double* mean = nullptr;
  double* mean_residual = nullptr;
  double* variance = nullptr;
  double* inverse_deviation = nullptr;

  operator StatisticsView() const noexcept {  // NOLINT(google-explicit-constructor)
    return {mean, mean_residual, variance, inverse_deviation};
  }
};

[[nodiscard]] inline StatisticsView view(const Statistics& statistics) noexcept {
  return {statistics.mean.data(), statistics.mean_residual.data(), statistics.variance.data(),
          statistics.inverse_deviation.data()};
}
[[nodiscard]] inline MutableStatisticsView mutable_view(Statistics& statistics) noexcept {
  return {statistics.mean.data(), statistics.mean_residual.data(), statistics.variance.data(),
          statistics.inverse_deviation.data()};
}

}  // namespace exactnorm

#pragma once

#include "exactnorm/options.h"
#include "exactnorm/partial_sums.h"
#include "exactnorm/statistics.h"

namespace exactnorm {

/// What `statistics_of` gives for one channel.
struct ChannelStatistics {
  double mean = 0;
  double mean_residual = 0;
  double variance = 0;
  double inverse_deviation = 0;
};

/// Mean and variance of one channel of sums over `count` elements, from the exact sums:
/// mean = S1 / n, variance = (n * S2 - S1^2) / n^2, each a ratio of integers that is rounded once.
[[nodiscard]] ChannelStatistics solve_statistics(const PartialSums& sums, Index channel, Index count,
                                                 const Options& options);

/// 1 / sqrt(variance + epsilon) or 1 / (sqrt(variance) + epsilon); 0 where that divides by zero.
[[nodiscard]] double inverse_deviation_of(double variance, const Options& options) noexcept;

/// y = (x - mean) * scale + shift
struct ForwardCoefficients {
  double mean = 0;
  double scale = 0;
  double shift = 0;
};
[[nodiscard]] ForwardCoefficients solve_forward(const ChannelStatistics& statistics, double gamma,
                                                double beta) noexcept;

/// dx = (dy + (((x - mean) * x_scale) * normalized_scale + shift)) * dy_scale, where the inner product is the
/// normalized x: of ordinary size, whatever that of x is.
struct BackwardCoefficients {
  double mean = 0;
  double x_scale = 0;
  double normalized_scale = 0;
  double shift = 0;
  double dy_scale = 0;
};
struct ChannelGradients {
  double dgamma = 0;
  double dbeta = 0;
  BackwardCoefficients dx;
};

/// From the exact sums of dy and dy * x. `frozen`: mean and variance do not depend on x.
/// The sum of dy * (x - mean) is taken as S2 - mean * S1 in exact arithmetic: no cancellation.
[[nodiscard]] ChannelGradients solve_backward(const PartialSums& sums, Index sums_channel,
                                              const ChannelStatistics& statistics, double gamma, Index count,
                                              bool frozen, const Options& options);

/// One channel of a Statistics.
[[nodiscard]] ChannelStatistics channel_of(const Statistics& statistics, Index channel) noexcept;
/// A Statistics of `channels` channels, all NaN.
[[nodiscard]] Statistics make_statistics(Index channels, Index count);
void set_channel(Statistics& statistics, Index channel, const ChannelStatistics& value) noexcept;

}  // namespace exactnorm

#pragma once

#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/sums.h"

namespace exactnorm {

/// What `statistics_of` gives for one channel.
struct ChannelStatistics {
  double mean = 0;
  double mean_residual = 0;
  double variance = 0;
  double inverse_deviation = 0;
};

/// Mean and variance of one channel of sums over `count` elements, from the exact sums:
/// mean = S1 / n, its residual S1 / n - mean, and variance = (n * S2 - S1^2) / n^2, each a ratio of integers that is
/// rounded once.
/// Where non-finite elements are ignored, `count` is that of the others; otherwise such a channel gets NaN.
[[nodiscard]] ChannelStatistics finalize_statistics(const PartialSums& sums, Index channel, Index count,
                                                    const Options& options, Nonfinite nonfinite = Nonfinite::propagate);
/// The statistics that normalize: the same, on the grid of sums/grid.h where float32 holds the data.
[[nodiscard]] ChannelStatistics finalize_normalizing_statistics(const PartialSums& sums, Index channel, Index count,
                                                                const Options& options,
                                                                Nonfinite nonfinite = Nonfinite::propagate);

/// The same from sums of weighted elements: of w * x and w * x * x as kind gradients, and of w, all of the range
/// extended: mean = S1 / S0, and variance = (S0 * S2 - S1^2) / S0^2. NaN where S0 is 0.
[[nodiscard]] ChannelStatistics finalize_weighted(const PartialSums& products, const PartialSums& weights,
                                                  Index channel, const Options& options, bool is_on_grid);

/// Standard deviations of one channel of sums over `count` elements, each rounded once: sqrt(n * S2 - S1^2) divided by
/// n, and by sqrt(n * (n - 1)). NaN where there is none: no element, one for the unbiased, a non-finite element.
struct ChannelDeviations {
  double biased = 0;
  double unbiased = 0;
};
[[nodiscard]] ChannelDeviations finalize_deviations(const PartialSums& sums, Index channel, Index count,
                                                    Nonfinite nonfinite = Nonfinite::propagate);
/// Those of weighted elements: sqrt(S0 * S2 - S1^2) divided by S0, and by sqrt(S0 * (S0 - 1)), where S0 is more than 1.
[[nodiscard]] ChannelDeviations finalize_weighted_deviations(const PartialSums& products, const PartialSums& weights,
                                                             Index channel);
/// The first sum of one channel, rounded once.
[[nodiscard]] double finalize_sum(const PartialSums& sums, Index channel);

/// Gradients of one channel of sums over `count` elements: of dbeta, the sum of dy, rounded once; dgamma is
/// inverse_deviation times the sum of dy * (x - mean), which is S2 - (mean + mean_residual) * S1 in exact arithmetic,
/// rounded once, with no cancellation. Over data that float32 holds, both are then rounded to the grid of sums/grid.h.
/// NaN where the data or the statistics are not finite.
struct ChannelGradients {
  double dgamma = 0;
  double dbeta = 0;
};
[[nodiscard]] ChannelGradients finalize_gradients(const PartialSums& sums, Index channel, Index count,
                                                  const ChannelStatistics& statistics);

/// 1 / sqrt(variance + epsilon) or 1 / (sqrt(variance) + epsilon); 0 where that divides by zero.
[[nodiscard]] double inverse_deviation_of(double variance, const Options& options) noexcept;

/// The columns from channel `first` on.
[[nodiscard]] inline StatisticsView from_channel(const StatisticsView& statistics, Index first) noexcept {
  return {statistics.mean + first, statistics.mean_residual + first, statistics.variance + first,
          statistics.inverse_deviation + first};
}
/// One channel of statistics.
[[nodiscard]] inline ChannelStatistics channel_of(const StatisticsView& statistics, Index channel) noexcept {
  return {statistics.mean[channel], statistics.mean_residual[channel], statistics.variance[channel],
          statistics.inverse_deviation[channel]};
}
/// A Statistics of `channels` channels, all NaN, with the epsilon of `options`.
[[nodiscard]] Statistics make_statistics(Index channels, Index count, const Options& options);
inline void set_channel(const MutableStatisticsView& statistics, Index channel,
                        const ChannelStatistics& value) noexcept {
  statistics.mean[channel] = value.mean;
  statistics.mean_residual[channel] = value.mean_residual;
  statistics.variance[channel] = value.variance;
  statistics.inverse_deviation[channel] = value.inverse_deviation;
}

}  // namespace exactnorm

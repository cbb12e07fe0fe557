#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

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
[[nodiscard]] ChannelStatistics finalize_statistics(const PartialSums& sums, Index channel, Index count,
                                                    const Options& options);
/// The statistics that normalize: the same, on the grid of sums/grid.h where float32 holds the data.
[[nodiscard]] ChannelStatistics finalize_normalizing_statistics(const PartialSums& sums, Index channel, Index count,
                                                                const Options& options);

/// Standard deviations of one channel of sums over `count` elements, each rounded once: sqrt(n * S2 - S1^2) divided by
/// n, and by sqrt(n * (n - 1)). NaN where there is none: no element, one for the unbiased, a non-finite element.
struct ChannelDeviations {
  double biased = 0;
  double unbiased = 0;
};
[[nodiscard]] ChannelDeviations finalize_deviations(const PartialSums& sums, Index channel, Index count);

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

/// y = (x - mean) * scale + shift
struct ForwardCoefficients {
  double mean = 0;
  double scale = 0;
  double shift = 0;
  double variance = 0;  // of x, or 0: how much of the mean matters is measured by it
};
[[nodiscard]] inline ForwardCoefficients forward_coefficients(const ChannelStatistics& statistics, double gamma,
                                                              double beta) noexcept {
  const double scale = gamma * statistics.inverse_deviation;
  // gamma * (x - mean) / deviation + beta as IEEE arithmetic has it: not a number where x is the mean, rounded to
  // float64.
  if (!std::isfinite(gamma)) return {statistics.mean, scale, beta, statistics.variance};
  constexpr double largest = std::numeric_limits<double>::max();
  // Finite, so that a constant channel, where it meets 0, is beta.
  const double finite = std::clamp(scale, -largest, largest);
  return {statistics.mean, finite, beta - statistics.mean_residual * finite, statistics.variance};
}

/// dx = (dy + (((x - mean) * x_scale) * normalized_scale + shift)) * dy_scale, where the inner product is the
/// normalized x: of ordinary size, whatever that of x is.
struct BackwardCoefficients {
  double mean = 0;
  double x_scale = 0;
  double normalized_scale = 0;
  double shift = 0;
  double dy_scale = 0;
};

/// The coefficients of dx in a backward pass through statistics of x itself, over `count` elements, more than 0.
[[nodiscard]] BackwardCoefficients backward_coefficients(const ChannelGradients& gradients,
                                                         const ChannelStatistics& statistics, double gamma, Index count,
                                                         const Options& options) noexcept;

/// One channel of a Statistics.
[[nodiscard]] inline ChannelStatistics channel_of(const Statistics& statistics, Index channel) noexcept {
  const auto at = static_cast<std::size_t>(channel);
  return {statistics.mean[at], statistics.mean_residual[at], statistics.variance[at], statistics.inverse_deviation[at]};
}
/// A Statistics of `channels` channels, all NaN, with the epsilon of `options`.
[[nodiscard]] Statistics make_statistics(Index channels, Index count, const Options& options);
inline void set_channel(Statistics& statistics, Index channel, const ChannelStatistics& value) noexcept {
  const auto at = static_cast<std::size_t>(channel);
  statistics.mean[at] = value.mean;
  statistics.mean_residual[at] = value.mean_residual;
  statistics.variance[at] = value.variance;
  statistics.inverse_deviation[at] = value.inverse_deviation;
}

}  // namespace exactnorm

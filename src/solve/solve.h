#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>

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
/// mean = S1 / n, its residual S1 / n - mean, and variance = (n * S2 - S1^2) / n^2, each a ratio of integers that is
/// rounded once.
[[nodiscard]] ChannelStatistics solve_statistics(const PartialSums& sums, Index channel, Index count,
                                                 const Options& options);

/// Standard deviations of one channel of sums over `count` elements, each rounded once: sqrt(n * S2 - S1^2) divided by
/// n, and by sqrt(n * (n - 1)). NaN where there is none: no element, one for the unbiased, a non-finite element.
struct ChannelDeviations {
  double biased = 0;
  double unbiased = 0;
};
[[nodiscard]] ChannelDeviations solve_deviations(const PartialSums& sums, Index channel, Index count);

/// The same on the grid of sums/grid.h: what normalizes data that float32 holds.
[[nodiscard]] ChannelStatistics on_grid(const ChannelStatistics& exact, const Options& options) noexcept;

/// 1 / sqrt(variance + epsilon) or 1 / (sqrt(variance) + epsilon); 0 where that divides by zero.
[[nodiscard]] double inverse_deviation_of(double variance, const Options& options) noexcept;

/// y = (x - mean) * scale + shift
struct ForwardCoefficients {
  double mean = 0;
  double scale = 0;
  double shift = 0;
  double variance = 0;  // of x, or 0: how much of the mean matters is measured by it
};
[[nodiscard]] inline ForwardCoefficients solve_forward(const ChannelStatistics& statistics, double gamma,
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

/// What a backward pass needs of its exact sums, each rounded once: the sum of dy, and that of dy * (x - mean),
/// which is centred * 2^exponent with 1 <= |centred| < 2, or 0, so that it may exceed float64's range. The latter is
/// taken as S2 - (mean + mean_residual) * S1 in exact arithmetic: no cancellation.
struct GradientSums {
  double sum_dy = 0;
  double centred = 0;
  int exponent = 0;
};
/// Of a sum of dy * (x - mean) that is a normal number or 0.
[[nodiscard]] GradientSums gradient_sums(double sum_dy, double centred) noexcept;
/// From the exact sums of dy and dy * x; NaN where the data or the statistics are not finite.
[[nodiscard]] GradientSums gradient_sums(const PartialSums& sums, Index sums_channel,
                                         const ChannelStatistics& statistics);

struct ChannelGradients {
  double dgamma = 0;
  double dbeta = 0;
};
/// From exact sums.
[[nodiscard]] ChannelGradients gradients_of(const GradientSums& sums, const ChannelStatistics& statistics) noexcept;
/// The same on the grid of sums/grid.h, as gradients over data that float32 holds are: over `count` elements, of whose
/// dy the squares add up to `squares`, rounded to float64.
[[nodiscard]] ChannelGradients on_grid(const ChannelGradients& exact, const ChannelStatistics& statistics, Index count,
                                       double squares) noexcept;
/// The second sum of a channel (kind moments), or the third (kind gradients, range single), rounded once to float64.
[[nodiscard]] double sum_of_squares(const PartialSums& sums, Index channel);

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

#pragma once

#include <cstdint>

#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "sums/quick_kernels.h"

// From quick sums to statistics and gradients on the grid (grid.h), many channels at a time, where the sums' error
// bounds leave one value only.
//
// Let u = 2^-53, and let no element pass through more than k = quick_chain roundings on its way into a sum: those of
// its own d and product, of its chain, of joining chains and lanes, and of high + low. The parts of a pair add terms of
// u^2. Then each computed sum differs from the exact one by at most (k + 1) * u times the sum of the magnitudes of its
// terms (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 4.2), and by Cauchy and Schwarz
//
//     |error of sum d|      <= 44 u * sqrt(n * sum d^2)       |error of sum d^2| <= 44 u * sum d^2
//     |error of sum dy|     <= 44 u * sqrt(n * sum dy^2)
//     |error of sum dy * d| <= 44 u * sqrt(sum dy^2 * sum d^2)
//
// Statistics. Let a = sum d^2 / n and q = sum d / n, so that mean = centre + q and variance = a - q^2. The product with
// the rounded 1 / n, the square and the difference add a few roundings: |error of q| <= 47 u * sqrt(a), |error of a| <=
// 47 u * a, and, as |q| <= sqrt(a), |error of a - q^2| <= (47 + 2 * 47 + 2) u * a = 143 u * a. The code takes 50 u and
// 150 u, which cover its own rounding. Adding centre to the ends of q's interval rounds as the exact mean is rounded to
// float64.
//
// Gradients: 48 u times the square roots above, and, where the mean has a residual, what sum dy's error makes of it.
//
// Nothing underflows: float32 elements and centres are multiples of 2^-149. A mean of float64 is 0, or 2^-300 at least,
// so that a difference from it is 0 or 2^-353 at least; channels with another mean are not decided.

namespace exactnorm {

/// Arrays with an element per channel. Where `decided` is 0 the others hold nothing of use.
struct QuickStatistics {
  double* mean = nullptr;
  double* variance = nullptr;
  double* inverse_deviation = nullptr;
  std::uint8_t* decided = nullptr;
};

/// The statistics of `channels` channels over `count` elements each, more than 0, from sums about `centres` (null for
/// zeros). A sum that is not finite decides, too: all of the channel's statistics are NaN.
void finalize_quick_statistics(const QuickColumns& sums, const double* centres, Index channels, Index count,
                               const Options& options, const QuickStatistics& to);

/// As QuickStatistics.
struct QuickGradients {
  double* dgamma = nullptr;
  double* dbeta = nullptr;
  std::uint8_t* decided = nullptr;
};
/// From sums about the means of `reference`, the statistics of the forward pass.
void finalize_quick_gradients(const QuickColumns& sums, const StatisticsView& reference, Index channels, Index count,
                              const QuickGradients& to);

}  // namespace exactnorm

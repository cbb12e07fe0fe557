#pragma once

#include <cstdint>

#include "combine/short_sums.h"
#include "exactnorm/options.h"
#include "solve/solve.h"

// Solutions from short sums, many channels at a time, in twice float64's precision. A channel is `solved` where
// that is proven to give the very bits that exact arithmetic gives: the others, few, are for solve_statistics and
// for gradient_sums() of long sums.

namespace exactnorm {

/// Arrays with an element per channel. Where `solved` is 0 the others hold nothing of use.
struct ShortStatistics {
  double* mean = nullptr;
  double* mean_residual = nullptr;
  double* variance = nullptr;
  double* inverse_deviation = nullptr;
  std::uint8_t* solved = nullptr;
};

/// What solve_statistics gives for sums over `count` elements; returns how many channels are solved.
Index solve_short_statistics(const ShortView& sums, Index count, const Options& options, const ShortStatistics& to);

/// Arrays with an element per channel, as above: the sums of dy and of dy * (x - mean), each rounded once.
struct ShortGradients {
  double* sum_dy = nullptr;
  double* centred = nullptr;
  std::uint8_t* solved = nullptr;
};

/// What gradient_sums() finds in long sums, for gradients_of(gradient_sums(sum_dy, centred), ...); returns how many
/// channels are solved.
Index solve_short_gradients(const ShortView& sums, const double* mean, const double* mean_residual,
                            const ShortGradients& to);

}  // namespace exactnorm

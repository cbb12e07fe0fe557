#include "solve/solve.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "combine/accumulator.h"
#include "solve/big_integer.h"

namespace exactnorm {

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

BigInteger sum_of(const PartialSums& sums, Index channel, int which) {
  return {PartialSumsAccess::words(sums, channel, which), format_of(sums.range()).words[which]};
}

bool has_nonfinite(const PartialSums& sums, Index channel, int operand) {
  return PartialSumsAccess::nonfinite(sums, channel, operand) != 0;
}

// A finite float64 as integer * 2^exponent.
struct IntegerTimesPower {
  BigInteger integer;
  int exponent = 0;
};
IntegerTimesPower split(double value) {
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent);
  return {BigInteger(static_cast<std::int64_t>(std::ldexp(fraction, 53))), exponent - 53};
}

// a * 2^a_exponent + b * 2^b_exponent, with the exponent of the result.
IntegerTimesPower add(const IntegerTimesPower& a, const IntegerTimesPower& b) {
  if (a.integer.is_zero()) return b;
  if (b.integer.is_zero()) return a;
  const int exponent = std::min(a.exponent, b.exponent);
  return {a.integer.shifted_left(a.exponent - exponent) + b.integer.shifted_left(b.exponent - exponent), exponent};
}

IntegerTimesPower multiply(const IntegerTimesPower& a, const IntegerTimesPower& b) {
  return {a.integer * b.integer, a.exponent + b.exponent};
}

constexpr double largest_number = std::numeric_limits<double>::max();

// Variances within these powers of two, and their sums with any epsilon of use, are ordinary float64 numbers.
constexpr int ordinary_exponent = 900;

// sqrt(variance) as a float64, of a variance that need not be one.
double deviation_of(const ScaledNumber& variance) {
  const int odd = variance.exponent & 1;
  return std::ldexp(std::sqrt(std::ldexp(variance.high, odd)), (variance.exponent - odd) / 2);
}

// sqrt(a^2 + b^2), of which the squares may overflow or underflow; not std::hypot, whose bits are the C
// library's choice.
double root_of_squares(double a, double b) {
  const double larger = std::max(a, b);
  const double ratio = larger == 0 ? 0 : std::min(a, b) / larger;
  return larger * std::sqrt(1 + ratio * ratio);
}

// deviation / (deviation + epsilon). A variance of extraordinary size tells the deviation no longer, but then
// epsilon is either far below it, or so far above that what cancels here has no weight.
double normalized_deviation(const ChannelStatistics& statistics, double epsilon) {
  if (statistics.variance > 0x1p-900 && statistics.variance < 0x1p900) {
    return statistics.inverse_deviation * std::sqrt(statistics.variance);
  }
  return 1.0 - statistics.inverse_deviation * epsilon;
}

double inverse_deviation_of_scaled(const ScaledNumber& variance, const Options& options) {
  if (variance.high == 0 || std::abs(variance.exponent) < ordinary_exponent) {
    return inverse_deviation_of(variance.nearest, options);
  }
  // The square root of such a variance is an ordinary number again, and so is that of epsilon.
  const double deviation = deviation_of(variance);
  const double divisor = options.epsilon_placement == EpsilonPlacement::variance
                             ? root_of_squares(deviation, std::sqrt(options.epsilon))
                             : deviation + options.epsilon;
  return std::min(1.0 / divisor, largest_number);
}

}  // namespace

double inverse_deviation_of(double variance, const Options& options) noexcept {
  const double divisor = options.epsilon_placement == EpsilonPlacement::variance
                             ? std::sqrt(variance + options.epsilon)
                             : std::sqrt(variance) + options.epsilon;
  return divisor == 0 ? 0.0 : std::min(1.0 / divisor, largest_number);
}

ChannelStatistics solve_statistics(const PartialSums& sums, Index channel, Index count, const Options& options) {
  if (count == 0 || has_nonfinite(sums, channel, 0)) return {not_a_number, not_a_number, not_a_number, not_a_number};
  const SumFormat format = format_of(sums.range());
  const auto n = static_cast<std::uint64_t>(count);
  const BigInteger first = sum_of(sums, channel, 0);
  const BigInteger second = sum_of(sums, channel, 1);
  const ScaledNumber mean = divide(first, n, 1, format.unit_exponents[0]);
  // The unit of the second sum is the square of the first one's: both terms count in it.
  const BigInteger spread = BigInteger(n) * second - first * first;
  const ScaledNumber variance = divide(spread, n, n, format.unit_exponents[1]);
  return {mean.nearest, mean.residual, variance.nearest, inverse_deviation_of_scaled(variance, options)};
}

ForwardCoefficients solve_forward(const ChannelStatistics& statistics, double gamma, double beta) noexcept {
  // Finite, so that a constant channel, where it meets 0, is beta.
  const double scale = std::clamp(gamma * statistics.inverse_deviation, -largest_number, largest_number);
  return {statistics.mean, scale, beta - statistics.mean_residual * scale};
}

ChannelGradients solve_backward(const PartialSums& sums, Index sums_channel, const ChannelStatistics& statistics,
                                double gamma, Index count, bool frozen, const Options& options) {
  const SumFormat format = format_of(sums.range());
  const bool dy_finite = !has_nonfinite(sums, sums_channel, 0);
  const bool x_finite = !has_nonfinite(sums, sums_channel, 1);
  const double inverse = statistics.inverse_deviation;

  ChannelGradients gradients;
  const IntegerTimesPower sum_dy = {sum_of(sums, sums_channel, 0), format.unit_exponents[0]};
  gradients.dbeta = dy_finite ? divide(sum_dy.integer, 1, 1, sum_dy.exponent).nearest : not_a_number;
  gradients.dgamma = not_a_number;
  if (dy_finite && x_finite && std::isfinite(statistics.mean) && std::isfinite(statistics.mean_residual)) {
    const IntegerTimesPower sum_dy_x = {sum_of(sums, sums_channel, 1), format.unit_exponents[1]};
    const IntegerTimesPower minus_mean = add(split(-statistics.mean), split(-statistics.mean_residual));
    const IntegerTimesPower centred = add(sum_dy_x, multiply(minus_mean, sum_dy));
    const ScaledNumber sum_dy_centred = divide(centred.integer, 1, 1, centred.exponent);
    gradients.dgamma = std::ldexp(sum_dy_centred.high * inverse, sum_dy_centred.exponent);
  }

  const double dy_scale = gamma * inverse;
  if (frozen) {
    gradients.dx = {0, 0, 0, 0, dy_scale};
  } else if (count > 0) {
    const auto n = static_cast<double>(count);
    // dgamma is r * G, with G the sum of dy * (x - mean); (x - mean) * r is normalized, and k * G is left:
    // dgamma, or dgamma / (r * deviation).
    double normalized_scale = -gradients.dgamma / n;
    if (options.epsilon_placement == EpsilonPlacement::deviation) {
      const double product = normalized_deviation(statistics, options.epsilon);
      normalized_scale = product == 0 ? 0.0 : normalized_scale / product;
    }
    const double shift = -gradients.dbeta / n - statistics.mean_residual * inverse * normalized_scale;
    gradients.dx = {statistics.mean, inverse, normalized_scale, shift, dy_scale};
  }
  return gradients;
}

ChannelStatistics channel_of(const Statistics& statistics, Index channel) noexcept {
  const auto at = static_cast<std::size_t>(channel);
  return {statistics.mean[at], statistics.mean_residual[at], statistics.variance[at], statistics.inverse_deviation[at]};
}

Statistics make_statistics(Index channels, Index count) {
  const auto size = static_cast<std::size_t>(channels);
  const std::vector<double> empty(size, not_a_number);
  return {count, empty, empty, empty, empty};
}

void set_channel(Statistics& statistics, Index channel, const ChannelStatistics& value) noexcept {
  const auto at = static_cast<std::size_t>(channel);
  statistics.mean[at] = value.mean;
  statistics.mean_residual[at] = value.mean_residual;
  statistics.variance[at] = value.variance;
  statistics.inverse_deviation[at] = value.inverse_deviation;
}

}  // namespace exactnorm

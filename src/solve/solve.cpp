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

// 1 / sqrt(high * 2^exponent) with the exponent taken apart, so that no variance is too large or small.
double inverse_square_root(const ScaledNumber& variance) {
  const int odd = variance.exponent & 1;
  return std::ldexp(1.0 / std::sqrt(std::ldexp(variance.high, odd)), -(variance.exponent - odd) / 2);
}

// Variances within these powers of two, and their sums with epsilon, are ordinary float64 numbers.
constexpr int ordinary_exponent = 900;

double inverse_deviation_of_scaled(const ScaledNumber& variance, const Options& options) {
  const bool ordinary = variance.high == 0 || std::abs(variance.exponent) < ordinary_exponent;
  // A huge variance swallows any epsilon that is beside it; an epsilon above a tiny one swallows that.
  if (ordinary || (variance.exponent < 0 && options.epsilon > 0)) {
    return inverse_deviation_of(variance.value(), options);
  }
  const double inverse = std::min(inverse_square_root(variance), std::numeric_limits<double>::max());
  if (options.epsilon_placement == EpsilonPlacement::variance) return inverse;
  return 1.0 / (1.0 / inverse + options.epsilon);
}

}  // namespace

double inverse_deviation_of(double variance, const Options& options) noexcept {
  const double divisor = options.epsilon_placement == EpsilonPlacement::variance
                             ? std::sqrt(variance + options.epsilon)
                             : std::sqrt(variance) + options.epsilon;
  return divisor == 0 ? 0.0 : 1.0 / divisor;
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
  return {mean.value(), mean.residual(), variance.value(), inverse_deviation_of_scaled(variance, options)};
}

ForwardCoefficients solve_forward(const ChannelStatistics& statistics, double gamma, double beta) noexcept {
  const double scale = gamma * statistics.inverse_deviation;
  return {statistics.mean, scale, beta - statistics.mean_residual * scale};
}

ChannelGradients solve_backward(const PartialSums& sums, Index sums_channel, const ChannelStatistics& statistics,
                                double gamma, Index count, bool frozen, EpsilonPlacement placement) {
  const SumFormat format = format_of(sums.range());
  const bool dy_finite = !has_nonfinite(sums, sums_channel, 0);
  const bool x_finite = !has_nonfinite(sums, sums_channel, 1);
  const double inverse = statistics.inverse_deviation;

  ChannelGradients gradients;
  const IntegerTimesPower sum_dy = {sum_of(sums, sums_channel, 0), format.unit_exponents[0]};
  gradients.dbeta = dy_finite ? divide(sum_dy.integer, 1, 1, sum_dy.exponent).value() : not_a_number;
  double sum_dy_centred = not_a_number;
  if (dy_finite && x_finite && std::isfinite(statistics.mean)) {
    const IntegerTimesPower sum_dy_x = {sum_of(sums, sums_channel, 1), format.unit_exponents[1]};
    const IntegerTimesPower minus_mean = add(split(-statistics.mean), split(-statistics.mean_residual));
    const IntegerTimesPower centred = add(sum_dy_x, multiply(minus_mean, sum_dy));
    sum_dy_centred = divide(centred.integer, 1, 1, centred.exponent).value();
  }
  gradients.dgamma = sum_dy_centred * inverse;

  const double scale = gamma * inverse;
  if (frozen) {
    gradients.dx = {0, scale, 0, 0};
  } else if (count > 0) {
    const auto n = static_cast<double>(count);
    // dgamma is r times the centred sum, which leaves one factor of k: r, or 1 / deviation.
    const double deviation = std::sqrt(statistics.variance);
    double factor = inverse;
    if (placement == EpsilonPlacement::deviation) factor = deviation == 0 ? 0.0 : 1.0 / deviation;
    const double x_scale = -scale * factor * (gradients.dgamma / n);
    const double shift = -scale * (gradients.dbeta / n) - statistics.mean_residual * x_scale;
    gradients.dx = {statistics.mean, scale, x_scale, shift};
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

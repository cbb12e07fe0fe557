#include "sums/exact_finalize.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sums/big_integer.h"
#include "sums/grid.h"
#include "sums/superaccumulator.h"

namespace exactnorm {

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

bool has_nonfinite(const PartialSums& sums, Index channel, int operand) {
  return PartialSumsAccess::nonfinite(sums, channel, operand) != 0;
}

// integer * 2^exponent: any finite float64, any sum.
struct IntegerTimesPower {
  BigInteger integer;
  int exponent = 0;
};
IntegerTimesPower split(double value) {
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent);
  return {BigInteger(static_cast<std::int64_t>(std::ldexp(fraction, 53))), exponent - 53};
}

// One of the two sums of a channel. Its lowest words are often zeros: they go into the exponent.
IntegerTimesPower sum_of(const PartialSums& sums, Index channel, int which) {
  const SumFormat format = format_of(sums.kind(), sums.range());
  const std::uint64_t* words = PartialSumsAccess::words(sums, channel, which);
  int zeros = 0;
  while (zeros < format.words[which] && words[zeros] == 0) ++zeros;
  return {{words + zeros, format.words[which] - zeros}, format.unit_exponents[which] + 64 * zeros};
}

// a - b
IntegerTimesPower subtract(const IntegerTimesPower& a, const IntegerTimesPower& b) {
  if (a.integer.is_zero()) return {b.integer.negated(), b.exponent};
  if (b.integer.is_zero()) return a;
  if (a.exponent == b.exponent) return {a.integer - b.integer, a.exponent};
  if (a.exponent < b.exponent) {
    return {a.integer - b.integer.shifted_left(b.exponent - a.exponent), a.exponent};
  }
  return {a.integer.shifted_left(a.exponent - b.exponent) - b.integer, b.exponent};
}

IntegerTimesPower multiply(const IntegerTimesPower& a, const IntegerTimesPower& b) {
  return {a.integer * b.integer, a.exponent + b.exponent};
}

IntegerTimesPower multiply(const IntegerTimesPower& a, std::uint64_t factor) {
  return {a.integer * BigInteger(factor), a.exponent};
}

// value / (first_divisor * second_divisor)
ScaledNumber divide(const IntegerTimesPower& value, std::uint64_t first_divisor = 1, std::uint64_t second_divisor = 1) {
  return divide(value.integer, first_divisor, second_divisor, value.exponent);
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

bool has_statistics(const PartialSums& sums, Index channel, Index count, Nonfinite nonfinite) {
  return count > 0 && (nonfinite == Nonfinite::ignore || !has_nonfinite(sums, channel, 0));
}

}  // namespace

double inverse_deviation_of(double variance, const Options& options) noexcept {
  const double divisor = options.epsilon_placement == EpsilonPlacement::variance
                             ? std::sqrt(variance + options.epsilon)
                             : std::sqrt(variance) + options.epsilon;
  return divisor == 0 ? 0.0 : std::min(1.0 / divisor, largest_number);
}

ChannelStatistics finalize_statistics(const PartialSums& sums, Index channel, Index count, const Options& options,
                                      Nonfinite nonfinite) {
  if (!has_statistics(sums, channel, count, nonfinite)) return {not_a_number, not_a_number, not_a_number, not_a_number};
  const auto n = static_cast<std::uint64_t>(count);
  const IntegerTimesPower first = sum_of(sums, channel, 0);
  const double mean = divide(first, n).nearest;
  const double residual = divide(subtract(first, multiply(split(mean), n)), n).nearest;
  const IntegerTimesPower second = sum_of(sums, channel, 1);
  const ScaledNumber variance = divide(subtract(multiply(second, n), multiply(first, first)), n, n);
  return {mean, residual, variance.nearest, inverse_deviation_of_scaled(variance, options)};
}

namespace {

// What `training` of data that float32 holds makes of exact statistics.
ChannelStatistics on_grid_of_training(const ChannelStatistics& exact, const Options& options) {
  if (!(exact.variance > 0)) return exact;  // 0 is the variance of a constant channel
  ChannelStatistics rounded = exact;
  rounded.variance = variance_on_grid(exact.variance);
  const double unit = mean_unit(rounded.variance);
  if (std::abs(exact.mean) / unit < 0x1p52) {
    rounded.mean = on_grid(exact.mean, unit);
    rounded.mean_residual = 0;
  }
  rounded.inverse_deviation = inverse_deviation_of(rounded.variance, options);
  return rounded;
}

ScaledNumber divide(const IntegerTimesPower& value, const IntegerTimesPower& divisor) {
  return divide(value.integer, divisor.integer, value.exponent - divisor.exponent);
}

bool has_no_weighted_statistics(const PartialSums& products, const IntegerTimesPower& total, Index channel) {
  return total.integer.is_zero() || has_nonfinite(products, channel, 0) || has_nonfinite(products, channel, 1);
}

// total^2 times the variance.
IntegerTimesPower weighted_scatter(const PartialSums& products, const IntegerTimesPower& total, Index channel) {
  const IntegerTimesPower first = sum_of(products, channel, 0);
  return subtract(multiply(sum_of(products, channel, 1), total), multiply(first, first));
}

}  // namespace

ChannelStatistics finalize_normalizing_statistics(const PartialSums& sums, Index channel, Index count,
                                                  const Options& options, Nonfinite nonfinite) {
  const ChannelStatistics exact = finalize_statistics(sums, channel, count, options, nonfinite);
  return sums.range() == PartialSums::Range::extended ? exact : on_grid_of_training(exact, options);
}

ChannelStatistics finalize_weighted(const PartialSums& products, const PartialSums& weights, Index channel,
                                    const Options& options, bool is_on_grid) {
  const IntegerTimesPower total = sum_of(weights, 0, 0);
  if (has_no_weighted_statistics(products, total, channel)) {
    return {not_a_number, not_a_number, not_a_number, not_a_number};
  }
  const IntegerTimesPower first = sum_of(products, channel, 0);
  const double mean = divide(first, total).nearest;
  const double residual = divide(subtract(first, multiply(split(mean), total)), total).nearest;
  const ScaledNumber variance = divide(weighted_scatter(products, total, channel), multiply(total, total));
  const ChannelStatistics exact = {mean, residual, variance.nearest, inverse_deviation_of_scaled(variance, options)};
  return is_on_grid ? on_grid_of_training(exact, options) : exact;
}

ChannelDeviations finalize_weighted_deviations(const PartialSums& products, const PartialSums& weights, Index channel) {
  const IntegerTimesPower total = sum_of(weights, 0, 0);
  if (has_no_weighted_statistics(products, total, channel)) return {not_a_number, not_a_number};
  const IntegerTimesPower scatter = weighted_scatter(products, total, channel);
  const auto root = [&](const IntegerTimesPower& divisor) {
    return square_root(scatter.integer, divisor.integer, scatter.exponent - divisor.exponent);
  };
  const IntegerTimesPower less_one = subtract(total, split(1));
  const bool has_unbiased = !less_one.integer.is_zero() && !less_one.integer.is_negative();
  return {root(multiply(total, total)), has_unbiased ? root(multiply(total, less_one)) : not_a_number};
}

double finalize_sum(const PartialSums& sums, Index channel) { return divide(sum_of(sums, channel, 0)).nearest; }

ChannelDeviations finalize_deviations(const PartialSums& sums, Index channel, Index count, Nonfinite nonfinite) {
  if (!has_statistics(sums, channel, count, nonfinite)) return {not_a_number, not_a_number};
  const auto n = static_cast<std::uint64_t>(count);
  const IntegerTimesPower first = sum_of(sums, channel, 0);
  const IntegerTimesPower scatter =
      subtract(multiply(sum_of(sums, channel, 1), n), multiply(first, first));  // n^2 times the variance
  const auto root = [&](std::uint64_t divisor) { return square_root(scatter.integer, n, divisor, scatter.exponent); };
  return {root(n), n == 1 ? not_a_number : root(n - 1)};
}

namespace {

// Not on the grid.
ChannelGradients exact_gradients(const PartialSums& sums, Index channel, const ChannelStatistics& statistics) {
  if (has_nonfinite(sums, channel, 0)) return {not_a_number, not_a_number};
  const IntegerTimesPower sum_dy = sum_of(sums, channel, 0);
  const double dbeta = divide(sum_dy).nearest;
  if (has_nonfinite(sums, channel, 1) || !std::isfinite(statistics.mean) || !std::isfinite(statistics.mean_residual)) {
    return {not_a_number, dbeta};
  }
  const IntegerTimesPower mean = subtract(split(statistics.mean), split(-statistics.mean_residual));
  // The sum may exceed float64's range where its product with the inverse deviation does not.
  const ScaledNumber centred = divide(subtract(sum_of(sums, channel, 1), multiply(mean, sum_dy)));
  return {std::ldexp(centred.high * statistics.inverse_deviation, centred.exponent), dbeta};
}

}  // namespace

ChannelGradients finalize_gradients(const PartialSums& sums, Index channel, Index count,
                                    const ChannelStatistics& statistics) {
  const ChannelGradients exact = exact_gradients(sums, channel, statistics);
  if (sums.range() == PartialSums::Range::extended) return exact;
  const double unit = gradient_unit(static_cast<double>(count), divide(sum_of(sums, channel, 2)).nearest);
  const double factor = gamma_unit_factor(statistics.variance, statistics.inverse_deviation);
  return {on_grid(exact.dgamma, unit * factor), on_grid(exact.dbeta, unit)};
}

Statistics make_statistics(Index channels, Index count, const Options& options) {
  const auto size = static_cast<std::size_t>(channels);
  const auto empty = [&] { return std::vector<double>(size, not_a_number); };
  return {count, empty(), empty(), empty(), empty(), options.epsilon, options.epsilon_placement};
}

}  // namespace exactnorm

#include "randomized/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/integer.h"

namespace exactnorm::testing {

namespace {

// A power of two of which all finite values are multiples.
int unit_of(const std::vector<double>& values) {
  int unit = std::numeric_limits<int>::max();
  for (const double value : values) {
    if (value != 0 && std::isfinite(value)) unit = std::min(unit, std::ilogb(value) - 52);
  }
  return unit == std::numeric_limits<int>::max() ? 0 : std::max(unit, -1074);
}

Rational times_power(const Integer& integer, int exponent) {
  const auto power = static_cast<unsigned>(std::abs(exponent));
  return exponent >= 0 ? Rational(Integer(integer << power)) : Rational(integer, Integer(1) << power);
}

}  // namespace

ChannelSumsReference::ChannelSumsReference(const std::vector<double>& x_values, const std::vector<double>& dy_values)
    : count(static_cast<Index>(x_values.size())) {
  const int x_unit = unit_of(x_values);
  const int dy_unit = unit_of(dy_values);
  Integer sums[5];
  for (std::size_t i = 0; i < x_values.size(); ++i) {
    const bool x_is_finite = std::isfinite(x_values[i]);
    const bool dy_is_finite = std::isfinite(dy_values[i]);
    const Integer x_integer = x_is_finite ? in_units(x_values[i], x_unit) : Integer(0);
    const Integer dy_integer = dy_is_finite ? in_units(dy_values[i], dy_unit) : Integer(0);
    sums[0] += x_integer;
    sums[1] += x_integer * x_integer;
    sums[2] += dy_integer;
    sums[3] += dy_integer * x_integer;
    sums[4] += dy_integer * dy_integer;
    nonfinite_x += x_is_finite ? 0 : 1;
    nonfinite_dy += dy_is_finite ? 0 : 1;
  }
  x = times_power(sums[0], x_unit);
  x_x = times_power(sums[1], 2 * x_unit);
  dy = times_power(sums[2], dy_unit);
  dy_x = times_power(sums[3], dy_unit + x_unit);
  dy_dy = times_power(sums[4], 2 * dy_unit);
}

MomentsReference moments_of(const ChannelSumsReference& sums, const Options& options) {
  const Rational count(sums.count);
  const Rational mean = sums.x / count;
  return {{mean, Rational(sums.x_x / count - mean * mean)}, options};
}

GradientsReference::GradientsReference(const ChannelSumsReference& sums, const MomentsReference& moments, double gamma,
                                       bool frozen)
    : dbeta(sums.dy),
      centred(sums.dy_x - moments.exact.mean * sums.dy),
      dgamma(real(centred) * moments.channel.inverse_deviation),
      factor(Real(gamma) * moments.channel.inverse_deviation),
      mean(moments.channel.mean) {
  if (frozen) return;
  const Real count(sums.count);
  by_mean = factor * real(dbeta) / count;
  by_variance = factor * moments.channel.derivative * real(centred) / count;
}

}  // namespace exactnorm::testing

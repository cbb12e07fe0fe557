#pragma once

#include <boost/multiprecision/cpp_int.hpp>
#include <boost/multiprecision/mpfr.hpp>
#include <cmath>
#include <vector>

// The tests' idea of right: plain rationals over the numbers as given, and 300 digits for the square root.
// Nothing here is shared with the library.

namespace exactnorm::testing {

using Rational = boost::multiprecision::cpp_rational;
using Real = boost::multiprecision::number<boost::multiprecision::mpfr_float_backend<300>>;

/// Any finite float64 is a rational with a power of two below.
inline Rational rational(double value) {
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent);
  boost::multiprecision::cpp_int numerator = static_cast<std::int64_t>(std::ldexp(fraction, 53));
  boost::multiprecision::cpp_int denominator = 1;
  exponent -= 53;
  if (exponent >= 0) {
    numerator <<= exponent;
  } else {
    denominator <<= -exponent;
  }
  return {numerator, denominator};
}

inline Real real(const Rational& value) {
  return Real(boost::multiprecision::numerator(value)) / Real(boost::multiprecision::denominator(value));
}
inline Real real(double value) { return Real(value); }

struct ExactMoments {
  Rational mean;
  Rational variance;  // biased
};

/// Two passes, in rationals.
inline ExactMoments exact_moments(const std::vector<double>& values) {
  ExactMoments moments;
  const Rational count(static_cast<std::int64_t>(values.size()));
  for (const double value : values) moments.mean += rational(value);
  moments.mean /= count;
  for (const double value : values) {
    const Rational difference = rational(value) - moments.mean;
    moments.variance += difference * difference;
  }
  moments.variance /= count;
  return moments;
}

/// The float64 nearest to a rational.
inline double nearest(const Rational& value) { return real(value).convert_to<double>(); }

/// |computed - exact| in units in the last place of a T near the exact value.
template <typename T>
double error_in_ulps(T computed, const Real& exact) {
  if (!std::isfinite(computed)) return INFINITY;
  const T near = exact.convert_to<T>();
  const T ulp = std::max(std::nextafter(std::fabs(near), std::numeric_limits<T>::infinity()) - std::fabs(near),
                         std::numeric_limits<T>::denorm_min());
  return (abs(Real(computed) - exact) / Real(ulp)).template convert_to<double>();
}

}  // namespace exactnorm::testing

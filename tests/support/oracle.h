#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "exactnorm/options.h"
#include "support/exact.h"

// What normalization and its gradients are, in 300 digits, from the definitions.

namespace exactnorm::testing {

/// The float64 nearest to a rational, ties to even, infinite from halfway beyond the largest on: decided in
/// rationals.
inline double correctly_rounded(const Rational& exact) {
  const double guess = nearest(exact);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  // Beyond the range, the next number would be 2^1024.
  const auto as_rational = [](double value) -> Rational {
    if (std::isfinite(value)) return rational(value);
    const Rational beyond = rational(0x1p1023) * 2;
    return value < 0 ? Rational(-beyond) : beyond;
  };
  double best = guess;
  Rational best_distance = abs(Rational(as_rational(guess) - exact));
  for (const double candidate : {std::nextafter(guess, -infinity), std::nextafter(guess, infinity)}) {
    const Rational distance = abs(Rational(as_rational(candidate) - exact));
    const bool even = (std::bit_cast<std::uint64_t>(candidate) & 1) == 0;
    if (distance < best_distance || (distance == best_distance && even)) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

/// A number rounded to a multiple of a power of two: up from a fraction of 0.618 of it on.
inline double on_grid_of(double value, int unit_exponent) {
  const Rational unit = rational(std::ldexp(1.0, unit_exponent));
  const Rational magnitude = abs(rational(value)) / unit;
  Rational units(boost::multiprecision::cpp_int(numerator(magnitude) / denominator(magnitude)));
  if (magnitude - units >= rational(0.6180339887498949)) units += 1;
  return std::copysign(nearest(Rational(units * unit)), value) + 0.0;
}

/// The statistics that normalize float32 data: the exact ones, rounded to float64 and then to the grid.
struct GridMoments {
  double mean = 0;
  double mean_residual = 0;
  double variance = 0;

  explicit GridMoments(const ExactMoments& exact) {
    mean = correctly_rounded(exact.mean);
    mean_residual = correctly_rounded(Rational(exact.mean - rational(mean)));
    variance = correctly_rounded(exact.variance);
    if (variance == 0) return;
    variance = on_grid_of(variance, std::ilogb(variance) - 30);
    const int deviation_exponent = static_cast<int>(std::floor(std::ilogb(variance) / 2.0));
    if (std::fabs(mean) >= std::ldexp(1.0, deviation_exponent - 34 + 52)) return;
    mean = on_grid_of(mean, deviation_exponent - 34);
    mean_residual = 0;
  }
};

struct ExactChannel {
  Real mean;
  Real variance;
  Real inverse_deviation;  // 0 where the divisor is 0
  Real derivative;         // k of the header: -d(1 / divisor) / d(variance) * 2 / r

  ExactChannel(const std::vector<double>& x, const Options& options) : ExactChannel(exact_moments(x), options) {}
  ExactChannel(const ExactMoments& moments, const Options& options) {
    mean = real(moments.mean);
    variance = real(moments.variance);
    const Real epsilon(options.epsilon);
    const bool beside_variance = options.epsilon_placement == EpsilonPlacement::variance;
    const Real divisor = beside_variance ? Real(sqrt(variance + epsilon)) : Real(sqrt(variance) + epsilon);
    if (divisor != 0) inverse_deviation = 1 / divisor;
    if (beside_variance) {
      derivative = inverse_deviation * inverse_deviation;
    } else if (variance != 0) {
      derivative = inverse_deviation / sqrt(variance);
    }
  }

  [[nodiscard]] Real y(double x, double gamma, double beta) const {
    return Real(gamma) * (Real(x) - mean) * inverse_deviation + Real(beta);
  }
};

/// The largest of the three magnitudes that an error in y is measured by.
inline Real scale_of(const Real& y, double beta) {
  const Real magnitudes[] = {abs(y), abs(Real(beta)), abs(Real(y - beta))};
  return *std::max_element(std::begin(magnitudes), std::end(magnitudes));
}

struct ExactGradients {
  Real dgamma;
  Real dbeta;
  std::vector<Real> dx;
  std::vector<Real> dx_scale;  // per element: the sum of the magnitudes of the terms of dx
  std::vector<Real> dx_rest;   // the same without the term of dy

  ExactGradients(const std::vector<double>& dy, const std::vector<double>& x, double gamma, const Options& options,
                 bool frozen = false) {
    const ExactChannel channel(x, options);
    Real centred;
    for (std::size_t i = 0; i < x.size(); ++i) {
      dbeta += Real(dy[i]);
      centred += Real(dy[i]) * (Real(x[i]) - channel.mean);
    }
    dgamma = centred * channel.inverse_deviation;
    const Real count(x.size());
    const Real factor = Real(gamma) * channel.inverse_deviation;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const Real direct = factor * Real(dy[i]);
      const Real by_mean = frozen ? Real(0) : Real(factor * dbeta / count);
      const Real by_variance =
          frozen ? Real(0) : Real(factor * channel.derivative * (Real(x[i]) - channel.mean) * centred / count);
      dx.push_back(direct - by_mean - by_variance);
      dx_rest.push_back(abs(by_mean) + abs(by_variance));
      dx_scale.push_back(abs(direct) + dx_rest.back());
    }
  }
};

}  // namespace exactnorm::testing

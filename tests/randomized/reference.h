#pragma once

#include <vector>

#include "exactnorm/options.h"
#include "support/exact.h"
#include "support/oracle.h"

// Right results of one channel, in integers of any size and numbers of 300 digits.

namespace exactnorm::testing {

/// The sums of the finite elements of a channel, exact.
struct ChannelSumsReference {
  Index count = 0;        // of all elements
  Index nonfinite_x = 0;  // NaN and infinity
  Index nonfinite_dy = 0;
  Rational x, x_x, dy, dy_x;  // dy * x over elements of which both are finite
  Rational dy_dy;

  ChannelSumsReference(const std::vector<double>& x_values, const std::vector<double>& dy_values);
};

/// What normalizes a channel: of its own data, or given.
struct MomentsReference {
  ExactMoments exact;
  ExactChannel channel;

  MomentsReference(const ExactMoments& moments, const Options& options) : exact(moments), channel(exact, options) {}
};

/// Mean and biased variance of a channel without non-finite elements.
[[nodiscard]] MomentsReference moments_of(const ChannelSumsReference& sums, const Options& options);

struct GradientsReference {
  Rational dbeta;
  Rational centred;  // sum of dy * (x - mean)
  Real dgamma;
  Real factor;   // gamma / deviation
  Real by_mean;  // the terms of dx: factor * dy - by_mean - (x - mean) * by_variance
  Real by_variance;
  Real mean;

  /// `frozen`: mean and variance are constants.
  GradientsReference(const ChannelSumsReference& sums, const MomentsReference& moments, double gamma, bool frozen);

  [[nodiscard]] Real direct(double dy) const { return factor * Real(dy); }
  /// The magnitudes of the terms other than direct().
  [[nodiscard]] Real rest(double x) const { return abs(by_mean) + abs(Real((Real(x) - mean) * by_variance)); }
  [[nodiscard]] Real dx(double dy, double x) const { return direct(dy) - by_mean - (Real(x) - mean) * by_variance; }
};

}  // namespace exactnorm::testing

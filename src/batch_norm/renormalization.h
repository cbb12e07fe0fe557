#pragma once

#include <vector>

#include "exactnorm/renormalization.h"

namespace exactnorm {

/// Throws Error where limits are impossible.
void check_limits(const RenormalizationLimits& limits);

/// r and d of one channel.
struct ChannelRenormalization {
  double r = 1;
  double d = 0;
};
/// Means and inverse deviations of the batch and of the reference.
[[nodiscard]] ChannelRenormalization renormalize(double mean, double inverse_deviation, double reference_mean,
                                                 double reference_inverse_deviation,
                                                 const RenormalizationLimits& limits);

/// gamma and beta of the normalized x: gamma * (normalized * r + d) + beta.
struct RenormalizedParameters {
  std::vector<double> gamma;
  std::vector<double> beta;
};
[[nodiscard]] RenormalizedParameters renormalized(const std::vector<double>& gamma, const std::vector<double>& beta,
                                                  const Renormalization& renormalization);

/// dgamma of what renormalized() made of gamma, to that of gamma itself.
void set_renormalized_gradient(const Renormalization& renormalization, const std::vector<double>& dbeta,
                               std::vector<double>& dgamma);

}  // namespace exactnorm

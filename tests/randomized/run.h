#pragma once

#include <optional>
#include <string>
#include <vector>

#include "exactnorm/statistics.h"
#include "exactnorm/sums.h"
#include "randomized/case.h"
#include "support/environment.h"

namespace exactnorm::testing {

/// What must not change any result.
struct Setting {
  int threads = 1;
  std::string target;
  Environment environment = Environment::standard;
  std::uint64_t layout = 0;  // seed of the strides, and of how sums are cut into parts

  [[nodiscard]] std::string description() const;
};

/// Results of one case, outputs in row-major order whatever their strides.
struct Results {
  Statistics statistics;
  std::vector<double> y, inferred;
  std::vector<double> dx, dgamma, dbeta;
  std::vector<double> frozen_dx, frozen_dgamma, frozen_dbeta;
  // Of parts that were added and merged in some order, and what comes of them.
  PartialSums moments = PartialSums(0);
  PartialSums gradient_sums = PartialSums(0);
  Statistics of_moments;
  std::vector<double> dx_from_sums;

  /// The name of the first member whose bits differ, if any does; NaN is NaN.
  [[nodiscard]] std::optional<std::string> difference(const Results& other) const;
};

/// Training, inference, both backward passes and sums of parts.
[[nodiscard]] Results run(const Case& test, const Setting& setting);

}  // namespace exactnorm::testing

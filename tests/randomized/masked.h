#pragma once

#include <optional>
#include <string>
#include <vector>

#include "exactnorm/statistics.h"
#include "randomized/case.h"
#include "randomized/run.h"

namespace exactnorm::testing {

/// Results of a case's passes with an activation and a mask, in row-major order whatever the strides.
struct MaskedResults {
  Statistics statistics;
  std::vector<double> y, dx, d_residual, dgamma, dbeta;

  /// The name of the first member whose bits differ, if any does; NaN is NaN.
  [[nodiscard]] std::optional<std::string> difference(const MaskedResults& other) const;
};

/// Training and its backward pass with the activation, the residual and the mask. Outputs hold 7 before.
[[nodiscard]] MaskedResults run_masked(const Case& test, const Setting& setting);

/// What is wrong with results beside the passes over a dense tensor of the selected elements alone; empty where nothing
/// is.
[[nodiscard]] std::string check_masked(const Case& test, const MaskedResults& results);

}  // namespace exactnorm::testing

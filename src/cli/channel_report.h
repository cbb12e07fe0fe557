#pragma once

#include <string>

#include "exactnorm/sums.h"
#include "exactnorm/tensor.h"

namespace exactnorm::cli {

/// A channel by its index along each channel axis: "3", or "(1, 3)" where there are two.
[[nodiscard]] std::string channel_name(Index channel, const IndexList& sizes);

/// Says on stderr which channels hold NaN or infinity, if any.
void warn_of_non_finite(const PartialSums& sums, const IndexList& sizes, const std::string& consequence);

}  // namespace exactnorm::cli

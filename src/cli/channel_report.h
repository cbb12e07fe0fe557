#pragma once

#include <string>
#include <vector>

#include "exactnorm/partial_sums.h"
#include "exactnorm/tensor.h"
#include "sums/exact_finalize.h"

namespace exactnorm::cli {

/// The standard deviation of each channel, biased and unbiased: exact values, rounded once. Finite even where the
/// variance leaves float64's range.
[[nodiscard]] std::vector<ChannelDeviations> standard_deviations(const PartialSums& sums);

/// The sizes of the (resolved) channel axes, in their order.
[[nodiscard]] IndexList channel_sizes(const IndexList& axes, const IndexList& shape);

/// A channel by its index along each channel axis: "3", or "(1, 3)" where there are two.
[[nodiscard]] std::string channel_name(Index channel, const IndexList& sizes);

/// Says on stderr which channels hold NaN or infinity, if any.
void warn_of_non_finite(const PartialSums& sums, const IndexList& sizes, const std::string& consequence);

}  // namespace exactnorm::cli

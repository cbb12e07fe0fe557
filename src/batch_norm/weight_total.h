#pragma once

#include "exactnorm/sums.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// What weights are of all channels together.
struct WeightTotal {
  PartialSums sum;  // exact, in one channel
  Index count;      // the sum of integers, or how many others are not 0
};

/// Of weights that are spread over the shape of x, which has elements. Throws Error that names `weights` where one is
/// impossible.
[[nodiscard]] WeightTotal total_of(const TensorView& weights, const TensorView& spread, const IndexList& channel_axes,
                                   int threads);

}  // namespace exactnorm

#pragma once

#include "exactnorm/statistics.h"
#include "exactnorm/tensor.h"

// Statistics as a float64 array of five rows, since PyTorch's operators return tensors: mean, mean_residual, variance,
// inverse_deviation, count.

namespace exactnorm::python {

/// Throws Error unless the array has five rows of float64.
void check_statistics_rows(const TensorView& array);
void store_statistics(const Statistics& from, const MutableTensorView& to);
[[nodiscard]] Statistics load_statistics(const TensorView& from);

}  // namespace exactnorm::python

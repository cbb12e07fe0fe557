#pragma once

#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/tensor.h"

// What PyTorch's operators give and take. Statistics are a float64 array of five rows, since operators return tensors:
// mean, mean_residual, variance, inverse_deviation, count.

namespace exactnorm::python {

/// Channels on axis 1.
[[nodiscard]] Options tensor_options(double epsilon, int threads);

/// Throws Error unless the array has five rows of float64.
void check_statistics_rows(const TensorView& array);
void store_statistics(const Statistics& from, const MutableTensorView& to);
/// `epsilon` is not among the rows: operators are given it beside them.
[[nodiscard]] Statistics load_statistics(const TensorView& from, double epsilon);

/// Updates running statistics, of one value per channel each, where they lie; under the default floating-point
/// environment. Throws Error, and changes nothing, as RunningStatistics::update does.
void update_running(const Statistics& batch, const MutableTensorView& mean, const MutableTensorView& variance,
                    double momentum);

}  // namespace exactnorm::python

#pragma once

#include "exactnorm/exactnorm.h"
#include "torch_statistics.h"

// Operations by plans. The layers of a network are called again and again on tensors of the same shapes: each thread
// keeps the plans of its latest calls. For (64, 256) a plan that is made anew takes a tenth of the time of the call.

namespace exactnorm::python::torch {

/// `training`; returns the elements per channel.
Index run_training(const TensorView& x, const MutableTensorView& y, const Affine& affine, const Options& options,
                   const MutableStatisticsView& statistics);

/// `backward` or `backward_frozen`, without a residual. Throws Error, too, where the statistics of `backward` are over
/// another number of elements than x has.
void run_backward(const TensorView& dy, const TensorView& x, const Saved& saved, const Affine& affine,
                  const Gradients& gradients, const Options& options, BackwardKind kind);

}  // namespace exactnorm::python::torch

#pragma once

#include "exactnorm/tensor.h"

namespace exactnorm::python::torch {

/// The strides that PyTorch's own batch normalization gives its output: channels last where x has them, else
/// contiguous. Where sizes of 1 leave it open, its kernels for contiguous arguments choose otherwise than its others.
[[nodiscard]] IndexList output_strides(const TensorView& x, bool are_parameters_contiguous);

/// The strides that its backward pass gives the input's gradient.
[[nodiscard]] IndexList gradient_strides(const TensorView& x, const TensorView& dy);

/// x's own strides where it is dense, else channels last or contiguous.
[[nodiscard]] IndexList kept_strides(const TensorView& x);

}  // namespace exactnorm::python::torch

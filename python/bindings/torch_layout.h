#pragma once

#include "exactnorm/tensor.h"

namespace exactnorm::python::torch {

/// The strides that PyTorch's own batch normalization gives its output: channels last where those of x say so, else
/// contiguous (c10::TensorImpl's rules for ambiguous sizes included).
[[nodiscard]] IndexList output_strides(const IndexList& sizes, const IndexList& strides);

/// x's own strides where it is dense, else those above.
[[nodiscard]] IndexList kept_strides(const IndexList& sizes, const IndexList& strides);

}  // namespace exactnorm::python::torch

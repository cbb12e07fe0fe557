#pragma once

#include "affine/apply_kernels.h"
#include "exactnorm/options.h"
#include "exactnorm/tensor.h"

// The vector code of activations that no other kernel takes in. With v = value + residual:
//
//     activate:             out = activation(v)
//     activation_gradient:  out = dy * activation'(v)
//
// Each operation is rounded by itself; results are the same on all processors.

namespace exactnorm {

struct ActivationFunction {
  Activation activation = Activation::none;
  double slope = 0;
};

/// Rows of neighbouring elements. Each operand has the stride from a row to the next, in elements.
template <typename T>
struct ActivationRows {
  const T* value = nullptr;
  Index value_stride = 0;
  const T* residual = nullptr;  // null for zeros
  Index residual_stride = 0;
  const T* dy = nullptr;  // of gradients
  Index dy_stride = 0;
  T* out = nullptr;  // may be any of the others, unless it is streamed
  Index out_stride = 0;
  Index rows = 0;
  Index count = 0;
  // Of gradients: the elements that are prefetched meanwhile, of dy, of the residual, of x and, where that is said, of
  // the value, lie this far on from those at work. 0 for none.
  Index prefetch = 0;
  bool prefetches_value = false;
  const T* x = nullptr;
  Index x_stride = 0;

  /// The same as one row, where all rows follow each other without a gap.
  [[nodiscard]] ActivationRows joined() const noexcept {
    const auto follows = [this](const T* data, Index stride) { return data == nullptr || stride == count; };
    ActivationRows one = *this;
    if (follows(value, value_stride) && follows(residual, residual_stride) && follows(dy, dy_stride) &&
        follows(out, out_stride) && follows(x, x_stride)) {
      one.count *= rows;
      one.rows = 1;
    }
    return one;
  }
};

void activate(ActivationFunction function, const ActivationRows<float>& rows, Store store);
void activate(ActivationFunction function, const ActivationRows<double>& rows, Store store);

void activation_gradient(ActivationFunction function, const ActivationRows<float>& rows);
void activation_gradient(ActivationFunction function, const ActivationRows<double>& rows);
/// Elements of 16 bits are taken for float32, and out is rounded. Not for silu and hard_swish.
void activation_gradient(ActivationFunction function, const ActivationRows<bfloat16>& rows);
void activation_gradient(ActivationFunction function, const ActivationRows<float16>& rows);

}  // namespace exactnorm

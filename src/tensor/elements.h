#pragma once

#include <cstddef>

#include "exactnorm/tensor.h"

namespace exactnorm {

/// Calls visit(position, offset) for each element of a view in row-major order: its number, and how many elements of
/// memory it lies from the view's address.
template <typename Visit>
void for_each_element(const TensorView& x, const Visit& visit) {
  const Index count = element_count(x.shape);
  const bool is_scalar = x.rank() == 0;
  const std::size_t outer = is_scalar ? 0 : x.rank() - 1;
  const Index size = is_scalar ? 1 : x.shape[outer];
  const Index stride = is_scalar ? 0 : x.strides[outer];
  IndexList index = x.shape;
  for (Index& i : index) i = 0;
  Index start = 0;
  for (Index position = 0; position < count;) {
    for (Index i = 0; i < size; ++i) visit(position++, start + i * stride);
    // The next indices of the outer axes.
    for (std::size_t axis = outer; axis-- > 0;) {
      start += x.strides[axis];
      if (++index[axis] < x.shape[axis]) break;
      start -= index[axis] * x.strides[axis];
      index[axis] = 0;
    }
  }
}

/// The values of a view as float64, in row-major order; and the other way round, into a view of a floating type.
void read_values(const TensorView& x, double* values);
void write_values(const MutableTensorView& y, const double* values);

}  // namespace exactnorm

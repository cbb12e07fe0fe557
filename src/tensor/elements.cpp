#include "tensor/elements.h"

#include <algorithm>

#include "tensor/conversions.h"
#include "tensor/element_type.h"

namespace exactnorm {

namespace {

// Neighbours in memory, in row-major order.
bool is_dense(const TensorView& x) { return x.strides == contiguous_strides(x.shape); }

template <typename T>
void store(T* to, const TensorView& y, const double* values) {
  if (is_dense(y)) {
    std::transform(values, values + element_count(y.shape), to, convert<T, double>);
    return;
  }
  for_each_element(y, [&](Index position, Index offset) { to[offset] = convert<T>(values[position]); });
}

}  // namespace

void read_values(const TensorView& x, double* values) {
  visit_dtype(x.dtype, [&](auto element) {
    const auto* const from = static_cast<const decltype(element)*>(x.data);
    if (is_dense(x)) {
      std::transform(from, from + element_count(x.shape), values, convert<double, decltype(element)>);
      return;
    }
    for_each_element(x, [&](Index position, Index offset) { values[position] = convert<double>(from[offset]); });
  });
}

void write_values(const MutableTensorView& y, const double* values) {
  visit_floating(y.dtype, [&](auto element) { store(static_cast<decltype(element)*>(y.data), y, values); });
}

}  // namespace exactnorm

#include "tensor/elements.h"

#include <algorithm>

#include "tensor/element_type.h"

namespace exactnorm {

namespace {

// Neighbours in memory, in row-major order.
bool is_dense(const TensorView& x) { return x.strides == contiguous_strides(x.shape); }

template <typename T>
void store(T* to, const TensorView& y, const double* values) {
  if (is_dense(y)) {
    std::transform(values, values + element_count(y.shape), to, [](double value) { return static_cast<T>(value); });
    return;
  }
  for_each_element(y, [&](Index position, Index offset) { to[offset] = static_cast<T>(values[position]); });
}

}  // namespace

void read_values(const TensorView& x, double* values) {
  visit_dtype(x.dtype, [&](auto element) {
    const auto* const from = static_cast<const decltype(element)*>(x.data);
    const auto converted = [](auto value) { return static_cast<double>(value); };
    if (is_dense(x)) {
      std::transform(from, from + element_count(x.shape), values, converted);
      return;
    }
    for_each_element(x, [&](Index position, Index offset) { values[position] = converted(from[offset]); });
  });
}

void write_values(const MutableTensorView& y, const double* values) {
  y.dtype == DType::float32 ? store(static_cast<float*>(y.data), y, values)
                            : store(static_cast<double*>(y.data), y, values);
}

}  // namespace exactnorm

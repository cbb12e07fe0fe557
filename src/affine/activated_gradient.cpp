#include "affine/activated_gradient.h"

#include <algorithm>

#include "tensor/conversions.h"
#include "tensor/element_type.h"
#include "tensor/half_kernels.h"

namespace exactnorm {

void round_to(DType dtype, float* values, Index count) {
  visit_floating(dtype, [&](auto element) {
    using Element = decltype(element);
    if constexpr (is_half<Element>) {
      constexpr Index at_once = 256;
      Element rounded[at_once];
      for (Index i = 0; i < count; i += at_once) {
        const Index some = std::min(at_once, count - i);
        demote(values + i, some, rounded);
        promote(rounded, some, values + i);
      }
    }
  });
}

void round_to(DType dtype, double* values, Index count) {
  visit_floating(dtype, [&](auto element) {
    using Element = decltype(element);
    std::transform(values, values + count, values,
                   [](double value) { return convert<double>(convert<Element>(value)); });
  });
}

}  // namespace exactnorm

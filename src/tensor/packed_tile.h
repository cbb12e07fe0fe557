#pragma once

#include <algorithm>
#include <array>
#include <memory>

#include "exactnorm/tensor.h"
#include "tensor/element_type.h"

namespace exactnorm {

/// A small buffer, in L1 cache, through which elements pass that do not lie as vector code needs them
/// (strided, of an integer dtype, too few at a time): side by side, as float32 or float64.
template <typename T>
class PackedTile {
 public:
  static constexpr Index capacity = 16384 / static_cast<Index>(sizeof(T));

  [[nodiscard]] T* data() noexcept { return values_->data(); }

  /// Copies `count` elements that are `stride` apart to position `at` of the buffer.
  void put(const TensorView& x, Index offset, Index count, Index stride, Index at) {
    visit_dtype(x.dtype, [&](auto element) {
      using Element = decltype(element);
      if constexpr (sizeof(T) == 8 || fits_float32<Element>) {
        const Element* from = static_cast<const Element*>(x.data) + offset;
        T* to = values_->data() + at;
        if (stride == 1) {
          for (Index i = 0; i < count; ++i) to[i] = static_cast<T>(from[i]);
        } else {
          for (Index i = 0; i < count; ++i) to[i] = static_cast<T>(from[i * stride]);
        }
      }
    });
  }
  void put_zeros(Index count, Index at) { std::fill_n(values_->data() + at, count, T{0}); }

  /// Copies the first `count` elements of the buffer to a float32 or float64 output.
  void take(const MutableTensorView& y, Index offset, Index count, Index stride) const {
    if (y.dtype == DType::float32) {
      take_as<float>(y, offset, count, stride);
    } else {
      take_as<double>(y, offset, count, stride);
    }
  }

 private:
  template <typename Element>
  void take_as(const MutableTensorView& y, Index offset, Index count, Index stride) const {
    Element* to = static_cast<Element*>(y.data) + offset;
    const T* from = values_->data();
    for (Index i = 0; i < count; ++i) to[i * stride] = static_cast<Element>(from[i]);
  }

  struct alignas(64) Values : std::array<T, static_cast<std::size_t>(capacity)> {};
  std::unique_ptr<Values> values_ = std::make_unique_for_overwrite<Values>();
};

}  // namespace exactnorm

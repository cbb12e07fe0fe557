#pragma once

#include <algorithm>
#include <type_traits>

#include "exactnorm/tensor.h"
#include "tensor/conversions.h"
#include "tensor/element_type.h"
#include "tensor/half_kernels.h"
#include "tensor/operand.h"
#include "tensor/scratch.h"

namespace exactnorm {

/// A small buffer, in L1 cache, through which elements pass that do not lie as vector code needs them
/// (strided, of another type, too few at a time): side by side, as float32 or float64, or as bfloat16 or float16 where
/// all of a call's tensors are.
template <typename T>
class PackedTile {
 public:
  static constexpr Index capacity = 16384 / static_cast<Index>(sizeof(T));

  [[nodiscard]] T* data() noexcept { return values_.data(); }

  /// Copies `count` elements that are `stride` apart to position `at` of the buffer.
  void put(const Operand& x, Index offset, Index count, Index stride, Index at) {
    visit_dtype(x.dtype, [&](auto element) {
      using Element = decltype(element);
      if constexpr (holds<Element>) {
        const auto* const from = static_cast<const Element*>(x.data) + offset;
        if constexpr (is_half<Element> && std::is_same_v<T, float>) {
          if (stride == 1) {
            promote(from, count, values_.data() + at);
            return;
          }
        }
        copy(from, stride, values_.data() + at, 1, count);
      }
    });
  }
  void put_zeros(Index count, Index at) { std::fill_n(values_.data() + at, count, T{}); }

  /// Copies `count` elements from position `at` of the buffer on to an output.
  void take(const OutputOperand& y, Index offset, Index count, Index stride, Index at) {
    const T* const from = values_.data() + at;
    visit_floating(y.dtype, [&](auto element) {
      using Element = decltype(element);
      if constexpr (!is_half<T> || std::is_same_v<T, Element>) {
        auto* const to = static_cast<Element*>(y.data) + offset;
        if constexpr (is_half<Element> && std::is_same_v<T, float>) {
          if (stride == 1) {
            demote(from, count, to);
            return;
          }
        }
        copy(from, 1, to, stride, count);
      }
    });
  }

 private:
  template <typename Element>
  static constexpr bool holds = std::is_same_v<T, Element> || std::is_same_v<T, double> ||
                                (std::is_same_v<T, float> && fits_float32<Element>);

  // Not inlined, so that loops have registers for themselves; four elements at a time, as a loop of one costs more than
  // its copy.
  template <typename From, typename To>
  [[gnu::noinline]] static void copy(const From* from, Index from_stride, To* to, Index to_stride, Index count) {
    if (from_stride == 1 && to_stride == 1) {
      std::transform(from, from + count, to, convert<To, From>);
      return;
    }
    const auto one = [&](Index i) { to[i * to_stride] = convert<To>(from[i * from_stride]); };
    constexpr Index at_once = 4;
    for (; count >= at_once; count -= at_once) {
      for (Index i = 0; i < at_once; ++i) one(i);
      from += at_once * from_stride;
      to += at_once * to_stride;
    }
    for (Index i = 0; i < count; ++i) one(i);
  }

  ScratchArray<T> values_{capacity};
};

}  // namespace exactnorm

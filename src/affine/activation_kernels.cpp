#include "affine/activation_kernels.h"

#include <algorithm>

#include "simd/cache_line.h"
#include "simd/prefetch.h"
#include "simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "affine/activation_kernels.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "affine/activation_arithmetic-inl.h"
#include "simd/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <typename T>
using Tag = hn::CappedTag<T, 32>;

// Elements of one row. One vector at a time: `few` is less than a vector has.
template <bool kGradient, Activation kActivation, typename T>
class RowOfActivation {
 public:
  using D = Tag<Value<T>>;
  using V = hn::Vec<D>;

  HWY_INLINE RowOfActivation(const ActivationRows<T>& rows, Index row, double slope)
      : value_(rows.value + row * rows.value_stride),
        residual_(rows.residual == nullptr ? nullptr : rows.residual + row * rows.residual_stride),
        dy_(kGradient ? rows.dy + row * rows.dy_stride : nullptr),
        out_(rows.out + row * rows.out_stride),
        activation_(slope) {}

  HWY_INLINE V Whole(Index i) const {
    return Compute([i](const T* from) HWY_ATTR { return LoadElements(D(), from + i); });
  }
  HWY_INLINE V Few(Index i, std::size_t count) const {
    return Compute([i, count](const T* from) HWY_ATTR { return LoadFewElements(D(), from + i, count); });
  }

  [[nodiscard]] HWY_INLINE T* out() const { return out_; }

  // Elements from begin on, while there are whole vectors, and then those that are left.
  HWY_INLINE void Store(Index begin, Index end) const {
    const auto width = static_cast<Index>(hn::Lanes(D()));
    for (; begin + width <= end; begin += width) StoreElements(Whole(begin), D(), out_ + begin);
    if (begin == end) return;
    const auto count = static_cast<std::size_t>(end - begin);
    StoreFewElements(Few(begin, count), count, D(), out_ + begin);
  }
  // Whole lines.
  HWY_INLINE void Stream(Index begin, Index end) const {
    const auto width = static_cast<Index>(hn::Lanes(D()));
    for (; begin < end; begin += width) hn::Stream(Whole(begin), D(), out_ + begin);
  }

 private:
  template <typename Load>
  HWY_INLINE V Compute(const Load& load) const {
    V value = load(value_);
    if (residual_ != nullptr) value = hn::Add(value, load(residual_));
    if constexpr (kGradient) return activation_.Gradient(value, load(dy_));
    return activation_.Value(value);
  }

  const T* value_;
  const T* residual_;
  const T* dy_;
  T* out_;
  ActivationOf<kActivation, D> activation_;
};

template <typename T>
HWY_INLINE void PrefetchRow(const ActivationRows<T>& rows, Index row, Index begin, Index end) {
  for (Index i = begin + rows.prefetch; i < end + rows.prefetch; i += line_size<T>) {
    prefetch_to_l2(rows.dy + row * rows.dy_stride + i);
    prefetch_to_l2(rows.x + row * rows.x_stride + i);
    if (rows.residual != nullptr) prefetch_to_l2(rows.residual + row * rows.residual_stride + i);
    if (rows.prefetches_value) prefetch_to_l2(rows.value + row * rows.value_stride + i);
  }
}

template <Activation kActivation, typename T>
HWY_INLINE void ActivationGradient(const ActivationRows<T>& rows, double slope) {
  constexpr Index at_once = 256;  // so that prefetches are spread over the work
  for (Index row = 0; row < rows.rows; ++row) {
    const RowOfActivation<true, kActivation, T> elements(rows, row, slope);
    for (Index begin = 0; begin < rows.count; begin += at_once) {
      const Index end = std::min(begin + at_once, rows.count);
      if (rows.prefetch != 0) PrefetchRow(rows, row, begin, end);
      elements.Store(begin, end);
    }
  }
}

template <Activation kActivation, typename T>
HWY_INLINE void Activate(const ActivationRows<T>& rows, double slope, Store store) {
  for (Index row = 0; row < rows.rows; ++row) {
    const RowOfActivation<false, kActivation, T> elements(rows, row, slope);
    const Index head = std::min(elements_to_line(elements.out()), rows.count);
    const Index lines = store == Store::streamed ? (rows.count - head) / line_size<T> * line_size<T> : 0;
    if (lines == 0) {
      elements.Store(0, rows.count);
      continue;
    }
    elements.Store(0, head);
    elements.Stream(head, head + lines);
    elements.Store(head + lines, rows.count);
  }
}

// Calls call(constant) with the activation as a type.
template <Activation kActivation>
struct ActivationConstant {
  static constexpr Activation value = kActivation;
};
template <typename T, typename Call>
HWY_INLINE void ForActivation(Activation activation, const Call& call) {
  switch (activation) {
    case Activation::none:
      return call(ActivationConstant<Activation::none>());
    case Activation::relu:
      return call(ActivationConstant<Activation::relu>());
    case Activation::relu6:
      return call(ActivationConstant<Activation::relu6>());
    case Activation::leaky_relu:
      return call(ActivationConstant<Activation::leaky_relu>());
    case Activation::silu:
      if constexpr (!is_half<T>) call(ActivationConstant<Activation::silu>());
      return;
    case Activation::hard_swish:
      if constexpr (!is_half<T>) call(ActivationConstant<Activation::hard_swish>());
      return;
  }
}

template <typename T>
HWY_INLINE void ActivateAll(ActivationFunction function, const ActivationRows<T>& rows, Store store) {
  ForActivation<T>(function.activation,
                   [&](auto constant) HWY_ATTR { Activate<decltype(constant)::value>(rows, function.slope, store); });
}
template <typename T>
HWY_INLINE void ActivationGradientAll(ActivationFunction function, const ActivationRows<T>& rows) {
  ForActivation<T>(function.activation, [&](auto constant) HWY_ATTR {
    ActivationGradient<decltype(constant)::value>(rows, function.slope);
  });
}

void ActivateFloat(ActivationFunction function, const ActivationRows<float>& rows, Store store) {
  ActivateAll(function, rows, store);
}
void ActivateDouble(ActivationFunction function, const ActivationRows<double>& rows, Store store) {
  ActivateAll(function, rows, store);
}
void GradientFloat(ActivationFunction function, const ActivationRows<float>& rows) {
  ActivationGradientAll(function, rows);
}
void GradientDouble(ActivationFunction function, const ActivationRows<double>& rows) {
  ActivationGradientAll(function, rows);
}

void GradientBfloat16(ActivationFunction function, const ActivationRows<bfloat16>& rows) {
  ActivationGradientAll(function, rows);
}
void GradientFloat16(ActivationFunction function, const ActivationRows<float16>& rows) {
  ActivationGradientAll(function, rows);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(ActivateFloat);
HWY_EXPORT(ActivateDouble);
HWY_EXPORT(GradientFloat);
HWY_EXPORT(GradientDouble);
HWY_EXPORT(GradientBfloat16);
HWY_EXPORT(GradientFloat16);

void activate(ActivationFunction function, const ActivationRows<float>& rows, Store store) {
  HWY_DISPATCH_TABLE(ActivateFloat)[active_target_index()](function, rows, store);
}
void activate(ActivationFunction function, const ActivationRows<double>& rows, Store store) {
  HWY_DISPATCH_TABLE(ActivateDouble)[active_target_index()](function, rows, store);
}
void activation_gradient(ActivationFunction function, const ActivationRows<float>& rows) {
  HWY_DISPATCH_TABLE(GradientFloat)[active_target_index()](function, rows);
}
void activation_gradient(ActivationFunction function, const ActivationRows<double>& rows) {
  HWY_DISPATCH_TABLE(GradientDouble)[active_target_index()](function, rows);
}
void activation_gradient(ActivationFunction function, const ActivationRows<bfloat16>& rows) {
  HWY_DISPATCH_TABLE(GradientBfloat16)[active_target_index()](function, rows);
}
void activation_gradient(ActivationFunction function, const ActivationRows<float16>& rows) {
  HWY_DISPATCH_TABLE(GradientFloat16)[active_target_index()](function, rows);
}

}  // namespace exactnorm
#endif  // HWY_ONCE

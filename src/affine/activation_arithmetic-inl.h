// Per-target code: included once for each instruction set by activation_kernels.cpp. Activations and their derivatives,
// a vector at a time. What they make of NaN, infinity, -0 and jumps is PyTorch's.

#if defined(EXACTNORM_AFFINE_ACTIVATION_ARITHMETIC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_AFFINE_ACTIVATION_ARITHMETIC_INL_H_
#undef EXACTNORM_AFFINE_ACTIVATION_ARITHMETIC_INL_H_
#else
#define EXACTNORM_AFFINE_ACTIVATION_ARITHMETIC_INL_H_
#endif

#include <hwy/highway.h>

#include "exactnorm/options.h"
#include "simd/exponential-inl.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Value(v) and Gradient(v, dy) = dy * derivative at v.
template <Activation kActivation, class D>
struct ActivationOf;

template <class D>
struct ActivationOf<Activation::none, D> {
  using V = hn::Vec<D>;
  HWY_INLINE explicit ActivationOf(double /*slope*/) {}
  HWY_INLINE V Value(V v) const { return v; }
  HWY_INLINE V Gradient(V /*v*/, V dy) const { return dy; }
};

template <class D>
struct ActivationOf<Activation::relu, D> {
  using V = hn::Vec<D>;
  HWY_INLINE explicit ActivationOf(double /*slope*/) {}
  HWY_INLINE V Value(V v) const { return hn::IfThenZeroElse(hn::Lt(v, hn::Zero(D())), v); }
  HWY_INLINE V Gradient(V v, V dy) const { return hn::IfThenZeroElse(hn::Le(v, hn::Zero(D())), dy); }
};

template <class D>
struct ActivationOf<Activation::relu6, D> {
  using V = hn::Vec<D>;
  HWY_INLINE explicit ActivationOf(double /*slope*/) {}
  HWY_INLINE V Value(V v) const {
    const V six = hn::Set(D(), 6);
    const V at_least_0 = hn::IfThenZeroElse(hn::Lt(v, hn::Zero(D())), v);
    return hn::IfThenElse(hn::Gt(v, six), six, at_least_0);
  }
  HWY_INLINE V Gradient(V v, V dy) const {
    return hn::IfThenElseZero(hn::And(hn::Gt(v, hn::Zero(D())), hn::Lt(v, hn::Set(D(), 6))), dy);
  }
};

template <class D>
struct ActivationOf<Activation::leaky_relu, D> {
  using V = hn::Vec<D>;
  HWY_INLINE explicit ActivationOf(double slope) : slope_(hn::Set(D(), static_cast<hn::TFromD<D>>(slope))) {}
  HWY_INLINE V Value(V v) const { return hn::IfThenElse(hn::Gt(v, hn::Zero(D())), v, hn::Mul(v, slope_)); }
  HWY_INLINE V Gradient(V v, V dy) const { return hn::IfThenElse(hn::Gt(v, hn::Zero(D())), dy, hn::Mul(dy, slope_)); }

 private:
  V slope_;
};

template <class D>
struct ActivationOf<Activation::silu, D> {
  using V = hn::Vec<D>;
  HWY_INLINE explicit ActivationOf(double /*slope*/) {}
  // By exp(-|v|), which does not overflow: the sigmoid is 1 / (1 + exp(-|v|)), times exp(-|v|) where v is negative.
  HWY_INLINE V Value(V v) const {
    const V one = hn::Set(D(), 1);
    const auto exponential = ExponentialOfNegative(D(), hn::Neg(hn::Abs(v)));
    const V quotient = hn::Div(v, hn::Add(one, exponential.Value()));
    return hn::IfThenElse(hn::Lt(v, hn::Zero(D())), Scaled(quotient, exponential), quotient);
  }
  HWY_INLINE V Gradient(V v, V dy) const {
    const V one = hn::Set(D(), 1);
    const auto exponential = ExponentialOfNegative(D(), hn::Neg(hn::Abs(v)));
    // The sigmoid of |v|; that of -|v| is its complement.
    const V larger = hn::Div(one, hn::Add(one, exponential.Value()));
    const auto is_negative = hn::Lt(v, hn::Zero(D()));
    const V complement = hn::IfThenElse(is_negative, larger, Scaled(larger, exponential));
    const V product = hn::Mul(larger, hn::Add(one, hn::Mul(v, complement)));
    return hn::Mul(dy, hn::IfThenElse(is_negative, Scaled(product, exponential), product));
  }

 private:
  static HWY_INLINE V Scaled(V value, const Exponential<V>& by) {
    return hn::Mul(hn::Mul(value, by.fraction), by.scale);
  }
};

template <class D>
struct ActivationOf<Activation::hard_swish, D> {
  using V = hn::Vec<D>;
  HWY_INLINE explicit ActivationOf(double /*slope*/) {}
  HWY_INLINE V Value(V v) const {
    const V three = hn::Set(D(), 3);
    const V clamped = ActivationOf<Activation::relu6, D>(0).Value(hn::Add(v, three));
    return hn::Div(hn::Mul(v, clamped), hn::Set(D(), 6));
  }
  HWY_INLINE V Gradient(V v, V dy) const {
    const V three = hn::Set(D(), 3);
    const V between = hn::Mul(dy, hn::Add(hn::Div(v, three), hn::Set(D(), hn::TFromD<D>{0.5})));
    const V below_three = hn::IfThenElse(hn::Ge(v, three), dy, between);
    return hn::IfThenZeroElse(hn::Le(v, hn::Neg(three)), below_three);
  }
};

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_AFFINE_ACTIVATION_ARITHMETIC_INL_H_

// Per-target code: included once for each instruction set by apply_kernels.cpp. The formulas of apply_kernels.h, a
// vector at a time.

#if defined(EXACTNORM_AFFINE_APPLY_ARITHMETIC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_AFFINE_APPLY_ARITHMETIC_INL_H_
#undef EXACTNORM_AFFINE_APPLY_ARITHMETIC_INL_H_
#else
#define EXACTNORM_AFFINE_APPLY_ARITHMETIC_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <type_traits>

#include "affine/activation_arithmetic-inl.h"
#include "affine/apply_kernels.h"
#include "simd/elements-inl.h"
#include "simd/fused_multiply_add-inl.h"
#include "tensor/element_type.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr std::size_t kMostLanes = 32;
template <typename T>
using Tag = hn::CappedTag<T, kMostLanes>;
template <typename T>
using Vector = hn::Vec<Tag<T>>;

// What follows the normalized value. -0 and NaN stay.
template <Formula kFormula, class V>
HWY_INLINE V Finished(V value, V residual) {
  using D = hn::DFromV<V>;
  if constexpr (adds_residual(kFormula)) value = hn::Add(value, residual);
  if constexpr (kFormula == Formula::relu || kFormula == Formula::relu_of_sum) {
    return ActivationOf<Activation::relu, D>(0).Value(value);
  } else if constexpr (kFormula == Formula::relu6) {
    return ActivationOf<Activation::relu6, D>(0).Value(value);
  }
  return value;
}

// Whether a vector's coefficients are one channel's, or those of as many channels as it has lanes.
enum class Channels { one, each };

template <typename T>
HWY_INLINE Vector<T> LoadColumn(const T* column, Channels channels) {
  return channels == Channels::one ? hn::Set(Tag<T>(), *column) : hn::LoadU(Tag<T>(), column);
}

// Whether arithmetic in float32, where it is T's, serves all channels from `at` to before `end`.
template <typename T>
HWY_INLINE bool AreSingle(const Coefficients& coefficients, Index at, Index end) {
  if constexpr (std::is_same_v<T, double>) return false;
  const float* mean = coefficients.single.mean;
  const Tag<float> d;
  const auto width = static_cast<Index>(hn::Lanes(d));
  hn::Mask<Tag<float>> is_number = hn::Eq(hn::Zero(d), hn::Zero(d));
  for (; at + width <= end; at += width) {
    const Vector<float> means = hn::LoadU(d, mean + at);
    is_number = hn::And(is_number, hn::Eq(means, means));
  }
  bool single = hn::AllTrue(d, is_number);
  for (; at < end; ++at) single = single && mean[at] == mean[at];
  return single;
}

// Where coefficients lie, for a kernel to keep: addresses in memory might change with each store, as far as a
// compiler knows.
template <typename T>
struct Columns;
template <>
struct Columns<double> : Coefficients {
  HWY_INLINE explicit Columns(const Coefficients& from) : Coefficients(from) {}
};
template <>
struct Columns<float> {
  HWY_INLINE explicit Columns(const Coefficients& from) : single(from.single), window(from.window), all(from) {}
  SingleColumns single;
  WindowColumns window;
  const Coefficients& all;
};

// `kAllSingle`: arithmetic in float32 is known to serve, and nothing is asked.
template <Formula kFormula, typename T, bool kAllSingle = false>
class Arithmetic;

template <Formula kFormula, bool kAllSingle>
class Arithmetic<kFormula, double, kAllSingle> {
 public:
  // Of channel `at`, or of those from `at` on.
  HWY_INLINE Arithmetic(const Columns<double>& from, Index at, Channels channels, bool /*all_single*/)
      : mean_(LoadColumn(from.mean + at, channels)),
        x_scale_(LoadColumn(from.x_scale + at, channels)),
        shift_(LoadColumn(from.shift + at, channels)),
        normalized_scale_(is_gradient(kFormula) ? LoadColumn(from.normalized_scale + at, channels) : mean_),
        dy_scale_(is_gradient(kFormula) ? LoadColumn(from.dy_scale + at, channels) : mean_) {}

  HWY_INLINE Vector<double> operator()(Vector<double> x, Vector<double> second) const {
    Vector<double> value = hn::Mul(hn::Sub(x, mean_), x_scale_);
    if constexpr (is_gradient(kFormula)) value = hn::Mul(value, normalized_scale_);
    value = hn::Add(value, shift_);
    if constexpr (is_gradient(kFormula)) value = hn::Mul(hn::Add(second, value), dy_scale_);
    return Finished<kFormula>(value, second);
  }

 private:
  Vector<double> mean_;
  Vector<double> x_scale_;
  Vector<double> shift_;
  Vector<double> normalized_scale_;
  Vector<double> dy_scale_;
};

// A vector of float32 in float64 arithmetic.
template <Formula kFormula>
HWY_NOINLINE void ApplyInDouble(const float* x, const float* second, const Coefficients& coefficients, Index at,
                                Channels channels, float* to) {
  const Tag<double> d;
  const hn::Rebind<float, Tag<double>> narrow;
  for (std::size_t i = 0; i < hn::Lanes(Tag<float>()); i += hn::Lanes(d)) {
    const Index from = channels == Channels::one ? at : at + static_cast<Index>(i);
    const Arithmetic<kFormula, double> arithmetic(Columns<double>(coefficients), from, channels, false);
    const auto promoted = [&](const float* values) HWY_ATTR { return hn::PromoteTo(d, hn::LoadU(narrow, values + i)); };
    const Vector<double> value = arithmetic(promoted(x), reads_second(kFormula) ? promoted(second) : hn::Zero(d));
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
    // These targets' DemoteTo turns infinity into the largest float32; the language's conversion does not.
    HWY_ALIGN double lanes[kMostLanes];
    hn::Store(value, d, lanes);
    for (std::size_t j = 0; j < hn::Lanes(d); ++j) to[i + j] = static_cast<float>(lanes[j]);
#else
    hn::StoreU(hn::DemoteTo(narrow, value), narrow, to + i);
#endif
  }
}

template <Formula kFormula, bool kAllSingle>
class Arithmetic<kFormula, float, kAllSingle> {
  static constexpr bool is_windowed = kFormula == Formula::windowed_gradient;

 public:
  // Of channel `at`, or of those from `at` on. `all_single`: of no channel the mean is NaN.
  HWY_INLINE Arithmetic(const Columns<float>& from, Index at, Channels channels, bool all_single)
      : mean_(LoadColumn(from.single.mean + at, channels)),
        scale_(LoadColumn(from.single.scale + at, channels)),
        scale_rest_(LoadColumn(from.single.scale_rest + at, channels)),
        shift_(LoadColumn(from.single.shift + at, channels)),
        x_scale_(is_gradient(kFormula) ? LoadColumn(from.single.x_scale + at, channels) : mean_),
        lower_(is_windowed ? LoadColumn(from.window.lower + at, channels) : mean_),
        upper_(is_windowed ? LoadColumn(from.window.upper + at, channels) : mean_),
        all_single_(all_single),
        channels_(channels),
        at_(at),
        coefficients_(from.all) {}

  HWY_INLINE Vector<float> operator()(Vector<float> x, Vector<float> second) const {
    if constexpr (is_windowed) second = hn::IfThenElseZero(hn::And(hn::Gt(x, lower_), hn::Lt(x, upper_)), second);
    const Vector<float> difference = hn::Sub(x, mean_);
    Vector<float> value = shift_;
    if constexpr (is_gradient(kFormula)) {
      value = FusedMultiplyAdd(difference, x_scale_, value);
      value = FusedMultiplyAdd(second, scale_rest_, value);
      value = FusedMultiplyAdd(second, scale_, value);
    } else {
      value = FusedMultiplyAdd(difference, scale_rest_, value);
      value = FusedMultiplyAdd(difference, scale_, value);
    }
    if (HWY_UNLIKELY(!kAllSingle && !all_single_)) {
      value = hn::IfThenElse(hn::Eq(mean_, mean_), value, InDouble(x, second));
    }
    return Finished<kFormula>(value, second);
  }

 private:
  // The normalized value, or the gradient.
  HWY_INLINE Vector<float> InDouble(Vector<float> x, Vector<float> second) const {
    const Tag<float> d;
    HWY_ALIGN float lanes[2][kMostLanes];
    hn::Store(x, d, lanes[0]);
    hn::Store(second, d, lanes[1]);
    constexpr Formula formula = is_gradient(kFormula) ? kFormula : Formula::forward;
    ApplyInDouble<formula>(lanes[0], lanes[1], coefficients_, at_, channels_, lanes[0]);
    return hn::Load(d, lanes[0]);
  }

  Vector<float> mean_;
  Vector<float> scale_;
  Vector<float> scale_rest_;
  Vector<float> shift_;
  Vector<float> x_scale_;
  Vector<float> lower_;
  Vector<float> upper_;
  bool all_single_;
  Channels channels_;
  Index at_;
  const Coefficients& coefficients_;
};

// Coefficients of fewer channels than a vector has lanes, with zeros after them.
template <Formula kFormula, typename T>
class PaddedCoefficients {
 public:
  PaddedCoefficients(const Coefficients& from, Index at, Index channels) {
    const auto pad = [at, channels](auto& to, const auto* column) {
      std::copy_n(column + at, channels, to);
      std::fill(to + channels, to + hn::Lanes(Tag<T>()), 0);
    };
    if constexpr (std::is_same_v<T, float>) {
      pad(single_[0], from.single.mean);
      pad(single_[1], from.single.scale);
      pad(single_[2], from.single.scale_rest);
      pad(single_[3], from.single.shift);
      if constexpr (is_gradient(kFormula)) pad(single_[4], from.single.x_scale);
      if constexpr (kFormula == Formula::windowed_gradient) {
        pad(single_[5], from.window.lower);
        pad(single_[6], from.window.upper);
      }
      if (AreSingle<T>(from, at, at + channels)) return;
    }
    pad(values_[0], from.mean);
    pad(values_[1], from.x_scale);
    pad(values_[2], from.shift);
    if constexpr (is_gradient(kFormula)) pad(values_[3], from.normalized_scale);
    if constexpr (is_gradient(kFormula)) pad(values_[4], from.dy_scale);
  }
  [[nodiscard]] Coefficients view() const {
    return {values_[0],
            values_[1],
            values_[2],
            values_[3],
            values_[4],
            {single_[0], single_[1], single_[2], single_[3], single_[4]},
            {single_[5], single_[6]}};
  }

 private:
  double values_[5][kMostLanes];
  float single_[7][kMostLanes];
};

// ---- elements

template <bool kStreamed, typename Element>
HWY_INLINE void StoreValues(Vector<Value<Element>> values, Element* to) {
  if constexpr (kStreamed) {
    StreamElements(values, Tag<Value<Element>>(), to);
  } else {
    StoreElements(values, Tag<Value<Element>>(), to);
  }
}

template <Formula kFormula, typename Element, bool kAllSingle>
HWY_INLINE Vector<Value<Element>> Compute(const Element* x, const Element* second,
                                          const Arithmetic<kFormula, Value<Element>, kAllSingle>& arithmetic) {
  const Tag<Value<Element>> d;
  return arithmetic(LoadElements(d, x), reads_second(kFormula) ? LoadElements(d, second) : hn::Zero(d));
}

template <Formula kFormula, typename Element, bool kAllSingle>
HWY_INLINE void ApplyFew(const ApplyPointers<Element>& at, Index count,
                         const Arithmetic<kFormula, Value<Element>, kAllSingle>& arithmetic) {
  const Tag<Value<Element>> d;
  const auto few = static_cast<std::size_t>(count);
  const Vector<Value<Element>> x = LoadFewElements(d, at.x, few);
  StoreFewElements(arithmetic(x, reads_second(kFormula) ? LoadFewElements(d, at.second, few) : x), few, d, at.out);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_AFFINE_APPLY_ARITHMETIC_INL_H_

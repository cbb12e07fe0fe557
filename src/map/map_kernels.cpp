#include "map/map_kernels.h"

#include <algorithm>

#include "simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "map/map_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<double, map_period>;
using V = hn::Vec<D>;

HWY_INLINE V LoadValues(const double* from) { return hn::LoadU(D(), from); }
HWY_INLINE V LoadValues(const float* from) { return hn::PromoteTo(D(), hn::LoadU(hn::Rebind<float, D>(), from)); }
HWY_INLINE void StoreValues(V values, double* to) { hn::StoreU(values, D(), to); }
HWY_INLINE void StoreValues(V values, float* to) {
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
  // These targets' DemoteTo turns infinity into the largest float32; the language's conversion does not.
  HWY_ALIGN double lanes[map_period];
  hn::Store(values, D(), lanes);
  for (std::size_t i = 0; i < hn::Lanes(D()); ++i) to[i] = static_cast<float>(lanes[i]);
#else
  const hn::Rebind<float, D> narrow;
  hn::StoreU(hn::DemoteTo(narrow, values), narrow, to);
#endif
}

struct Coefficients {
  V mean;
  V x_scale;
  V shift;
  V normalized_scale;
  V dy_scale;
};

template <bool kWithGradient, typename T>
HWY_INLINE void MapVector(const T* x, const T* dy, T* out, const Coefficients& c) {
  V value = hn::Mul(hn::Sub(LoadValues(x), c.mean), c.x_scale);
  if constexpr (kWithGradient) value = hn::Mul(value, c.normalized_scale);
  value = hn::Add(value, c.shift);
  if constexpr (kWithGradient) value = hn::Mul(hn::Add(LoadValues(dy), value), c.dy_scale);
  StoreValues(value, out);
}

// Whole vectors in place, the rest through a buffer so that nothing beyond it is read or written.
// `coefficients_at(i)` gives those of element i and its neighbours.
template <bool kWithGradient, typename T, typename CoefficientsAt>
HWY_INLINE void MapAll(const T* x, const T* dy, T* out, Index count, const CoefficientsAt& coefficients_at) {
  const auto width = static_cast<Index>(hn::Lanes(D()));
  Index i = 0;
  for (; i + width <= count; i += width) {
    MapVector<kWithGradient>(x + i, kWithGradient ? dy + i : nullptr, out + i, coefficients_at(i));
  }
  if (i == count) return;
  T x_rest[map_period] = {};
  T dy_rest[map_period] = {};
  std::copy(x + i, x + count, x_rest);
  if constexpr (kWithGradient) std::copy(dy + i, dy + count, dy_rest);
  MapVector<kWithGradient>(x_rest, dy_rest, x_rest, coefficients_at(i));
  std::copy_n(x_rest, count - i, out + i);
}

template <bool kWithGradient, typename T>
HWY_INLINE void MapChannelAs(const T* x, const T* dy, T* out, Index count, const MapCoefficients& c) {
  const D d;
  const Coefficients all = {hn::Set(d, *c.mean), hn::Set(d, *c.x_scale), hn::Set(d, *c.shift),
                            hn::Set(d, kWithGradient ? *c.normalized_scale : 0.0),
                            hn::Set(d, kWithGradient ? *c.dy_scale : 0.0)};
  MapAll<kWithGradient>(x, dy, out, count, [&](Index) -> const Coefficients& { return all; });
}

template <bool kWithGradient>
HWY_INLINE Coefficients LoadCoefficients(const MapCoefficients& c) {
  const D d;
  return {hn::LoadU(d, c.mean), hn::LoadU(d, c.x_scale), hn::LoadU(d, c.shift),
          kWithGradient ? hn::LoadU(d, c.normalized_scale) : hn::Zero(d),
          kWithGradient ? hn::LoadU(d, c.dy_scale) : hn::Zero(d)};
}

template <bool kWithGradient, typename T>
HWY_INLINE void MapPeriodicAs(const T* x, const T* dy, T* out, Index count, const MapCoefficients& c, Index period) {
  const auto width = static_cast<Index>(hn::Lanes(D()));
  for (Index start = 0; start < count; start += period) {
    const Index size = std::min(period, count - start);
    MapAll<kWithGradient>(x + start, kWithGradient ? dy + start : nullptr, out + start, size, [&](Index i) {
      if (HWY_LIKELY(i + width <= period)) return LoadCoefficients<kWithGradient>(c.from(i));
      double rest[5][map_period] = {};
      const double* values[5] = {c.mean, c.x_scale, c.shift, c.normalized_scale, c.dy_scale};
      for (int j = 0; j < (kWithGradient ? 5 : 3); ++j) std::copy(values[j] + i, values[j] + period, rest[j]);
      return LoadCoefficients<kWithGradient>({rest[0], rest[1], rest[2], rest[3], rest[4]});
    });
  }
}

void ChannelFloat(const float* x, const float* dy, float* out, Index count, const MapCoefficients& c) {
  dy == nullptr ? MapChannelAs<false>(x, dy, out, count, c) : MapChannelAs<true>(x, dy, out, count, c);
}
void ChannelDouble(const double* x, const double* dy, double* out, Index count, const MapCoefficients& c) {
  dy == nullptr ? MapChannelAs<false>(x, dy, out, count, c) : MapChannelAs<true>(x, dy, out, count, c);
}
void PeriodicFloat(const float* x, const float* dy, float* out, Index count, const MapCoefficients& c, Index period) {
  dy == nullptr ? MapPeriodicAs<false>(x, dy, out, count, c, period)
                : MapPeriodicAs<true>(x, dy, out, count, c, period);
}
void PeriodicDouble(const double* x, const double* dy, double* out, Index count, const MapCoefficients& c,
                    Index period) {
  dy == nullptr ? MapPeriodicAs<false>(x, dy, out, count, c, period)
                : MapPeriodicAs<true>(x, dy, out, count, c, period);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(ChannelFloat);
HWY_EXPORT(ChannelDouble);
HWY_EXPORT(PeriodicFloat);
HWY_EXPORT(PeriodicDouble);

template <>
void map_channel(const float* x, const float* dy, float* out, Index count, const MapCoefficients& coefficients) {
  HWY_DISPATCH_TABLE(ChannelFloat)[active_target_index()](x, dy, out, count, coefficients);
}
template <>
void map_channel(const double* x, const double* dy, double* out, Index count, const MapCoefficients& coefficients) {
  HWY_DISPATCH_TABLE(ChannelDouble)[active_target_index()](x, dy, out, count, coefficients);
}
template <>
void map_periodic(const float* x, const float* dy, float* out, Index count, const MapCoefficients& coefficients,
                  Index period) {
  HWY_DISPATCH_TABLE(PeriodicFloat)[active_target_index()](x, dy, out, count, coefficients, period);
}
template <>
void map_periodic(const double* x, const double* dy, double* out, Index count, const MapCoefficients& coefficients,
                  Index period) {
  HWY_DISPATCH_TABLE(PeriodicDouble)[active_target_index()](x, dy, out, count, coefficients, period);
}

}  // namespace exactnorm
#endif  // HWY_ONCE

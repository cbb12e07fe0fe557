#include <algorithm>
#include <cstdint>
#include <limits>

#include "affine/single.h"
#include "simd/target.h"

// How near the results are. Let u be 2^-24, so that rounding to float32 changes a number by u of itself at most.
//
// Let m be the mean, and h the float32 number that stands for it: the nearest one, or, where m is within 8 deviations
// of zero, the nearest multiple of some 2^-20 deviations. d = x - h is exact for x from h / 2 to 2 h (Sterbenz), and
// for most others if h has few bits; elsewhere it is rounded. What h leaves of m goes into the shift. If h is the
// nearest number, then no x is nearer to m, and (m - h) * scale is no larger than y - beta; else it is below 2^-20 *
// |gamma|. `scale` and `scale_rest` together are the scale to 2^-46, and the second product is below 2^-22 of the
// first. So with E = |y - beta|, and but for 2^-43 * |gamma|, which is the rounding of what h leaves:
//
//   d rounded: u * E by d, u * |beta| for the shift, u * |beta| for the inner sum, u * |y| for the outer
//   d exact:   u * (|beta| + E) for the shift, as much for the inner sum, u * |y| for the outer
//
// which is at most 4 * u * max(|y|, |beta|, E) in both cases. Where beta is zero and h is not the nearest number, it is
// u * |y|, and u * E where d is rounded. Terms of 2^-46 come on top.
//
// Backward, let P be the product with dy, Q the one with x - m, and R the rest of the sum: u * |Q| each by d and by
// x_scale, u * (|Q| + |R|) each for the shift, the inner sum and the middle one, u * |dx| for the outer:
// u * (|dx| + 5 * |Q| + 3 * |R|).

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "affine/single_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr std::size_t kSingleLanes = 8;
using D = hn::CappedTag<double, kSingleLanes>;
using V = hn::Vec<D>;
using M = hn::Mask<D>;
using DU = hn::RebindToUnsigned<D>;

HWY_INLINE V Number(double value) { return hn::Set(D(), value); }

// Numbers that keep their products with each other, and with what is rounded of them, from overflow and
// underflow.
HWY_INLINE M IsAtMostLargest(V value) { return hn::Le(hn::Abs(value), Number(0x1p96)); }
HWY_INLINE M IsOrdinary(V value) {
  const M is_large_enough = hn::Or(hn::Ge(hn::Abs(value), Number(0x1p-96)), hn::Eq(value, hn::Zero(D())));
  return hn::And(IsAtMostLargest(value), is_large_enough);
}

HWY_INLINE V Rounded(V value) {
  const hn::Rebind<float, D> narrow;
  return hn::PromoteTo(D(), hn::DemoteTo(narrow, value));
}

// The next float32 number below `value` in magnitude. What it leaves has the same sign, and is not zero: an infinite x
// would otherwise meet one of another sign, or zero, and be no number.
HWY_INLINE V NextBelow(V value) {
  const DU d;
  const auto one = hn::Set(d, std::uint64_t{1});
  const auto kept = hn::Set(d, ~((std::uint64_t{1} << 29) - 1));
  const V below = hn::BitCast(D(), hn::And(hn::Sub(hn::BitCast(d, value), one), kept));
  return hn::IfThenElse(hn::Eq(value, hn::Zero(D())), value, below);
}

// The mean in float32, in no more digits than matter beside the deviation.
HWY_INLINE V AnchorOf(V mean, V variance) {
  const DU d;
  // Halves the exponent of the variance: a power of two from half the deviation to all of it, times 2^-20.
  const auto biased = hn::ShiftRight<52>(hn::BitCast(d, variance));
  const auto halved = hn::ShiftRight<1>(hn::Add(biased, hn::Set(d, std::uint64_t{1023})));
  const V step = hn::BitCast(D(), hn::ShiftLeft<52>(hn::Sub(halved, hn::Set(d, std::uint64_t{20}))));
  const M is_small = hn::And(hn::Lt(hn::Abs(mean), hn::Mul(step, Number(0x1p23))), hn::Gt(variance, hn::Zero(D())));
  const V start = hn::Mul(step, Number(0x1.8p52));
  return Rounded(hn::IfThenElse(is_small, hn::Sub(hn::Add(mean, start), start), mean));
}

HWY_INLINE void StoreSingle(V anchor, V scale, V x_scale, V shift, M fits, const SingleTargets& to, Index at) {
  const hn::Rebind<float, D> narrow;
  const auto store = [&](V value, float* column)
                         HWY_ATTR { hn::StoreU(hn::DemoteTo(narrow, value), narrow, column + at); };
  const M serves = hn::And(hn::And(fits, IsAtMostLargest(shift)), hn::And(IsOrdinary(scale), IsOrdinary(x_scale)));
  const V upper = NextBelow(scale);
  store(hn::IfThenElse(serves, anchor, Number(std::numeric_limits<double>::quiet_NaN())), to.mean);
  store(upper, to.scale);
  store(hn::Sub(scale, upper), to.scale_rest);
  store(shift, to.shift);
  store(x_scale, to.x_scale);
}

HWY_INLINE void SetVector(const ForwardColumns& from, Index at, const SingleTargets& to) {
  const D d;
  const V mean = hn::LoadU(d, from.mean + at);
  const V scale = hn::LoadU(d, from.scale + at);
  const V anchor = AnchorOf(mean, hn::LoadU(d, from.variance + at));
  const V shift = hn::Sub(hn::LoadU(d, from.shift + at), hn::Mul(hn::Sub(mean, anchor), scale));
  StoreSingle(anchor, scale, hn::Zero(d), shift, IsAtMostLargest(mean), to, at);
}

HWY_INLINE void SetVector(const BackwardColumns& from, Index at, const SingleTargets& to) {
  const D d;
  const V mean = hn::LoadU(d, from.mean + at);
  const V dy_scale = hn::LoadU(d, from.dy_scale + at);
  const V slope = hn::Mul(hn::LoadU(d, from.x_scale + at), hn::LoadU(d, from.normalized_scale + at));
  const V anchor = Rounded(mean);
  const V shift = hn::Sub(hn::LoadU(d, from.shift + at), hn::Mul(hn::Sub(mean, anchor), slope));
  StoreSingle(anchor, dy_scale, hn::Mul(slope, dy_scale), hn::Mul(shift, dy_scale), IsAtMostLargest(mean), to, at);
}

// Fewer channels than a vector has lanes: in copies, with zeros beside them.
struct FewColumns {
  double from[5][kSingleLanes] = {};
  float to[5][kSingleLanes] = {};

  FewColumns(std::initializer_list<const double*> columns, Index at, Index count) {
    double(*next)[kSingleLanes] = from;
    for (const double* column : columns) std::copy_n(column + at, count, *next++);
  }
  [[nodiscard]] SingleTargets targets() { return {to[0], to[1], to[2], to[3], to[4]}; }
  void Take(const SingleTargets& targets, Index at, Index count) const {
    const float(*next)[kSingleLanes] = to;
    for (float* column : {targets.mean, targets.scale, targets.scale_rest, targets.shift, targets.x_scale}) {
      std::copy_n(*next++, count, column + at);
    }
  }
};

template <typename Columns, typename SetFew>
HWY_INLINE void SetAll(const Columns& from, Index channels, const SingleTargets& to, const SetFew& set_few) {
  const auto width = static_cast<Index>(hn::Lanes(D()));
  Index at = 0;
  for (; at + width <= channels; at += width) SetVector(from, at, to);
  if (at < channels) set_few(at, channels - at);
}

void SetForward(const ForwardColumns& from, Index channels, const SingleTargets& to) {
  SetAll(from, channels, to, [&](Index at, Index count) HWY_ATTR {
    FewColumns few({from.mean, from.scale, from.shift, from.variance}, at, count);
    SetVector(ForwardColumns{few.from[0], few.from[1], few.from[2], few.from[3]}, 0, few.targets());
    few.Take(to, at, count);
  });
}

void SetBackward(const BackwardColumns& from, Index channels, const SingleTargets& to) {
  SetAll(from, channels, to, [&](Index at, Index count) HWY_ATTR {
    FewColumns few({from.mean, from.x_scale, from.shift, from.normalized_scale, from.dy_scale}, at, count);
    SetVector(BackwardColumns{few.from[0], few.from[1], few.from[2], few.from[3], few.from[4]}, 0, few.targets());
    few.Take(to, at, count);
  });
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(SetForward);
HWY_EXPORT(SetBackward);

void set_single(const ForwardColumns& from, Index channels, const SingleTargets& to) {
  HWY_DISPATCH_TABLE(SetForward)[active_target_index()](from, channels, to);
}
void set_single(const BackwardColumns& from, Index channels, const SingleTargets& to) {
  HWY_DISPATCH_TABLE(SetBackward)[active_target_index()](from, channels, to);
}

}  // namespace exactnorm
#endif  // HWY_ONCE

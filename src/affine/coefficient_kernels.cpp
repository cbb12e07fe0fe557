#include <algorithm>
#include <cstdint>
#include <limits>

#include "affine/coefficients.h"
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
#define HWY_TARGET_INCLUDE "affine/coefficient_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "simd/few_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<double, 8>;
using V = hn::Vec<D>;
using M = hn::Mask<D>;
using DU = hn::RebindToUnsigned<D>;

HWY_INLINE V Number(double value) { return hn::Set(D(), value); }

// Some of a vector's channels: all, or those that are left at the end.
class Channels {
 public:
  HWY_INLINE Channels(Index first, Index count) : first_(first), count_(static_cast<std::size_t>(count)) {}

  HWY_INLINE V Load(const double* column) const {
    return IsWhole() ? hn::LoadU(D(), column + first_) : LoadFew(D(), column + first_, count_);
  }
  HWY_INLINE void Store(V value, double* column) const {
    IsWhole() ? hn::StoreU(value, D(), column + first_) : StoreFew(value, count_, D(), column + first_);
  }
  HWY_INLINE void StoreSingle(V value, float* column) const {
    const hn::Rebind<float, D> narrow;
    const auto single = hn::DemoteTo(narrow, value);
    IsWhole() ? hn::StoreU(single, narrow, column + first_) : StoreFew(single, count_, narrow, column + first_);
  }

 private:
  [[nodiscard]] HWY_INLINE bool IsWhole() const { return count_ == hn::Lanes(D()); }

  Index first_;
  std::size_t count_;
};

template <typename Set>
HWY_INLINE void ForAll(Index channels, const Set& set) {
  const auto width = static_cast<Index>(hn::Lanes(D()));
  for (Index at = 0; at < channels; at += width) set(Channels(at, std::min(width, channels - at)));
}

// ---- float64

void SetForwardColumns(const StatisticsView& statistics, const double* gammas, const double* betas, Index channels,
                       const ForwardColumns& to) {
  const V largest = Number(std::numeric_limits<double>::max());
  const V smallest = Number(std::numeric_limits<double>::lowest());
  ForAll(channels, [&](const Channels& at) HWY_ATTR {
    const V gamma = at.Load(gammas);
    const V beta = at.Load(betas);
    const V scale = hn::Mul(gamma, at.Load(statistics.inverse_deviation));
    // Finite, so that a constant channel, where it meets 0, is beta.
    const V below = hn::IfThenElse(hn::Gt(scale, largest), largest, scale);
    const V finite = hn::IfThenElse(hn::Lt(below, smallest), smallest, below);
    const V shift = hn::Sub(beta, hn::Mul(at.Load(statistics.mean_residual), finite));
    // gamma * (x - mean) / deviation + beta as IEEE arithmetic has it: not a number where x is the mean, rounded to
    // float64.
    const M is_finite = hn::IsFinite(gamma);
    at.Store(at.Load(statistics.mean), to.mean);
    at.Store(hn::IfThenElse(is_finite, finite, scale), to.scale);
    at.Store(hn::IfThenElse(is_finite, shift, beta), to.shift);
    at.Store(at.Load(statistics.variance), to.variance);
  });
}

// deviation / (deviation + epsilon). A variance of extraordinary size tells the deviation no longer, but then epsilon
// is either far below it, or so far above that what cancels here has no weight.
HWY_INLINE V NormalizedDeviation(V variance, V inverse_deviation, double epsilon) {
  const M is_ordinary = hn::And(hn::Gt(variance, Number(0x1p-900)), hn::Lt(variance, Number(0x1p900)));
  const V of_epsilon = hn::Sub(Number(1), hn::Mul(inverse_deviation, Number(epsilon)));
  return hn::IfThenElse(is_ordinary, hn::Mul(inverse_deviation, hn::Sqrt(variance)), of_epsilon);
}

// dgamma is r * G, with G the sum of dy * (x - mean) and r the inverse deviation; (x - mean) * r is normalized, and k *
// G is left: dgamma, or dgamma / (r * deviation).
void SetBackwardColumns(const BackwardInputs& from, Index channels, const Options& options, const BackwardColumns& to) {
  const StatisticsView& statistics = from.statistics;
  const V n = Number(static_cast<double>(from.count));
  const V zero = hn::Zero(D());
  ForAll(channels, [&](const Channels& at) HWY_ATTR {
    const V inverse = at.Load(statistics.inverse_deviation);
    V normalized_scale = hn::Div(hn::Neg(at.Load(from.dgamma)), n);
    if (options.epsilon_placement == EpsilonPlacement::deviation) {
      const V product = NormalizedDeviation(at.Load(statistics.variance), inverse, options.epsilon);
      normalized_scale = hn::IfThenElse(hn::Eq(product, zero), zero, hn::Div(normalized_scale, product));
    }
    const V of_residual = hn::Mul(hn::Mul(at.Load(statistics.mean_residual), inverse), normalized_scale);
    at.Store(at.Load(statistics.mean), to.mean);
    at.Store(inverse, to.x_scale);
    at.Store(hn::Sub(hn::Div(hn::Neg(at.Load(from.dbeta)), n), of_residual), to.shift);
    at.Store(normalized_scale, to.normalized_scale);
    at.Store(hn::Mul(at.Load(from.gamma), inverse), to.dy_scale);
  });
}

// ---- float32

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

HWY_INLINE void SetTargets(V anchor, V scale, V x_scale, V shift, M fits, const Channels& at, const SingleTargets& to) {
  const M serves = hn::And(hn::And(fits, IsAtMostLargest(shift)), hn::And(IsOrdinary(scale), IsOrdinary(x_scale)));
  const V upper = NextBelow(scale);
  at.StoreSingle(hn::IfThenElse(serves, anchor, Number(std::numeric_limits<double>::quiet_NaN())), to.mean);
  at.StoreSingle(upper, to.scale);
  at.StoreSingle(hn::Sub(scale, upper), to.scale_rest);
  at.StoreSingle(shift, to.shift);
  at.StoreSingle(x_scale, to.x_scale);
}

void SetForward(const ForwardColumns& from, Index channels, const SingleTargets& to) {
  ForAll(channels, [&](const Channels& at) HWY_ATTR {
    const V mean = at.Load(from.mean);
    const V scale = at.Load(from.scale);
    const V anchor = AnchorOf(mean, at.Load(from.variance));
    const V shift = hn::Sub(at.Load(from.shift), hn::Mul(hn::Sub(mean, anchor), scale));
    SetTargets(anchor, scale, hn::Zero(D()), shift, IsAtMostLargest(mean), at, to);
  });
}

void SetBackward(const BackwardColumns& from, Index channels, const SingleTargets& to) {
  ForAll(channels, [&](const Channels& at) HWY_ATTR {
    const V mean = at.Load(from.mean);
    const V dy_scale = at.Load(from.dy_scale);
    const V slope = hn::Mul(at.Load(from.x_scale), at.Load(from.normalized_scale));
    const V anchor = Rounded(mean);
    const V shift = hn::Sub(at.Load(from.shift), hn::Mul(hn::Sub(mean, anchor), slope));
    SetTargets(anchor, dy_scale, hn::Mul(slope, dy_scale), hn::Mul(shift, dy_scale), IsAtMostLargest(mean), at, to);
  });
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(SetForwardColumns);
HWY_EXPORT(SetBackwardColumns);
HWY_EXPORT(SetForward);
HWY_EXPORT(SetBackward);

void set_forward_columns(const StatisticsView& statistics, const double* gamma, const double* beta, Index channels,
                         const ForwardColumns& to) {
  HWY_DISPATCH_TABLE(SetForwardColumns)[active_target_index()](statistics, gamma, beta, channels, to);
}
void set_backward_columns(const BackwardInputs& from, Index channels, const Options& options,
                          const BackwardColumns& to) {
  HWY_DISPATCH_TABLE(SetBackwardColumns)[active_target_index()](from, channels, options, to);
}
void set_single(const ForwardColumns& from, Index channels, const SingleTargets& to) {
  HWY_DISPATCH_TABLE(SetForward)[active_target_index()](from, channels, to);
}
void set_single(const BackwardColumns& from, Index channels, const SingleTargets& to) {
  HWY_DISPATCH_TABLE(SetBackward)[active_target_index()](from, channels, to);
}

}  // namespace exactnorm
#endif  // HWY_ONCE

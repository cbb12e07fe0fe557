#include "sums/quick_finalize.h"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "simd/target.h"
#include "sums/grid.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "sums/quick_finalize.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "simd/few_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The functions of grid.h, a vector at a time, with the same roundings.
using D = hn::CappedTag<double, 8>;
using V = hn::Vec<D>;
using M = hn::Mask<D>;
using Bits = hn::RebindToUnsigned<D>;

HWY_INLINE V Number(double value) { return hn::Set(D(), value); }

HWY_INLINE V VarianceOnGrid(V variance) {
  const auto bits = hn::Add(hn::BitCast(Bits(), variance), hn::Set(Bits(), variance_round_up));
  return hn::BitCast(D(), hn::ShiftLeft<variance_dropped_bits>(hn::ShiftRight<variance_dropped_bits>(bits)));
}

// 1 / unit of a power of two: 2^-1000 to 2^1000.
HWY_INLINE V Inverse(V unit) {
  return hn::BitCast(D(), hn::Sub(hn::Set(Bits(), std::uint64_t{2046} << 52), hn::BitCast(Bits(), unit)));
}

// `inverse` is 1 / unit; where it is infinite, the value stays as it is.
HWY_INLINE V OnGrid(V value, V unit, V inverse) {
  const V units = hn::Mul(hn::Abs(value), inverse);
  const V below = hn::Floor(units);
  const M rounds_up = hn::Ge(hn::Sub(units, below), Number(grid_fraction));
  const V rounded = hn::Mul(hn::Add(below, hn::IfThenElseZero(rounds_up, Number(1))), unit);
  const V with_sign = hn::Add(hn::Or(rounded, hn::And(value, Number(-0.0))), hn::Zero(D()));
  return hn::IfThenElse(hn::Lt(units, Number(0x1p52)), with_sign, value);
}

HWY_INLINE V MeanUnit(V variance) {
  const auto exponent = hn::ShiftRight<1>(
      hn::Add(hn::ShiftRight<52>(hn::BitCast(Bits(), variance)), hn::Set(Bits(), std::uint64_t{1023})));
  return hn::BitCast(D(), hn::ShiftLeft<52>(hn::Sub(exponent, hn::Set(Bits(), std::uint64_t{mean_grid_bits}))));
}

HWY_INLINE V SumOf(const QuickColumns& sums, int which, std::size_t at) {
  return hn::Add(hn::LoadU(D(), sums.high[which] + at), hn::LoadU(D(), sums.low[which] + at));
}

HWY_INLINE void StoreDecided(M decided, std::size_t count, std::uint8_t* to) {
  if (count == hn::Lanes(D()) && hn::AllTrue(D(), decided)) {
    std::fill_n(to, hn::Lanes(D()), std::uint8_t{1});
    return;
  }
  HWY_ALIGN double lanes[hn::MaxLanes(D())];
  hn::Store(hn::IfThenElse(decided, Number(1), hn::Zero(D())), D(), lanes);
  for (std::size_t i = 0; i < count; ++i) to[i] = lanes[i] != 0 ? 1 : 0;
}

HWY_INLINE void StoreLanes(V values, std::size_t count, double* to) {
  if (count == hn::Lanes(D())) {
    hn::StoreU(values, D(), to);
  } else {
    StoreFew(values, count, D(), to);
  }
}

void FinalizeStatistics(const QuickColumns& sums, const double* centres, Index channels, Index count,
                        const Options& options, const QuickStatistics& to) {
  const V share = Number(1 / static_cast<double>(count));
  const V epsilon = Number(options.epsilon);
  const V infinity = Number(std::numeric_limits<double>::infinity());
  const V not_a_number = Number(std::numeric_limits<double>::quiet_NaN());
  const bool beside_variance = options.epsilon_placement == EpsilonPlacement::variance;
  const auto size = static_cast<std::size_t>(channels);
  const std::size_t width = hn::Lanes(D());
  for (std::size_t at = 0; at < size; at += width) {
    const std::size_t few = std::min(width, size - at);
    const V a = hn::Mul(SumOf(sums, 1, at), share);
    const V q = hn::Mul(SumOf(sums, 0, at), share);
    const V centre = centres == nullptr ? hn::Zero(D()) : hn::LoadU(D(), centres + at);
    const V computed = hn::Sub(a, hn::Mul(q, q));
    const V variance_bound = hn::Mul(a, Number(150 * 0x1p-53));
    const V mean_bound = hn::Mul(hn::Sqrt(a), Number(50 * 0x1p-53));

    const V low = hn::Sub(computed, variance_bound);
    const V low_variance = VarianceOnGrid(low);
    const V high_variance = VarianceOnGrid(hn::Add(computed, variance_bound));
    const V unit = MeanUnit(low_variance);
    const V inverse_unit = Inverse(unit);
    const V low_mean = OnGrid(hn::Add(centre, hn::Sub(q, mean_bound)), unit, inverse_unit);
    const V high_mean = OnGrid(hn::Add(centre, hn::Add(q, mean_bound)), unit, inverse_unit);
    // Where units are no coarser than float64's at the mean, the exact mean has a residual.
    const M is_coarse = hn::Lt(hn::Abs(low_mean), hn::Mul(unit, Number(0x1p51)));
    M decided = hn::And(hn::Gt(low, hn::Zero(D())), hn::Eq(low_variance, high_variance));
    decided = hn::And(hn::And(decided, hn::Eq(low_mean, high_mean)), is_coarse);

    const M is_constant = hn::Eq(a, hn::Zero(D()));  // every x is the centre
    const M is_finite = hn::Lt(a, infinity);
    V variance = hn::IfThenZeroElse(is_constant, low_variance);
    V mean = hn::IfThenElse(is_constant, hn::Add(centre, hn::Zero(D())), low_mean);
    const V divisor = beside_variance ? hn::Sqrt(hn::Add(variance, epsilon)) : hn::Add(hn::Sqrt(variance), epsilon);
    V inverse = hn::Min(hn::Div(Number(1), divisor), Number(std::numeric_limits<double>::max()));
    inverse = hn::IfThenZeroElse(hn::Eq(divisor, hn::Zero(D())), inverse);
    mean = hn::IfThenElse(is_finite, mean, not_a_number);
    variance = hn::IfThenElse(is_finite, variance, not_a_number);
    inverse = hn::IfThenElse(is_finite, inverse, not_a_number);

    StoreLanes(mean, few, to.mean + at);
    StoreLanes(variance, few, to.variance + at);
    StoreLanes(inverse, few, to.inverse_deviation + at);
    StoreDecided(hn::Or(hn::Or(decided, is_constant), hn::Not(is_finite)), few, to.decided + at);
  }
}

HWY_INLINE V GradientUnit(V n, V squares) {
  const V below = hn::Mul(hn::Mul(n, squares), Number(grid_fraction));
  const auto exponent =
      hn::ShiftRight<1>(hn::Add(hn::ShiftRight<52>(hn::BitCast(Bits(), below)), hn::Set(Bits(), std::uint64_t{1023})));
  return hn::BitCast(D(), hn::ShiftLeft<52>(hn::Sub(exponent, hn::Set(Bits(), std::uint64_t{gradient_grid_bits}))));
}

HWY_INLINE V GammaUnitFactor(V variance, V inverse_deviation) {
  const V share = hn::Mul(hn::Sqrt(variance), inverse_deviation);
  const V power = hn::BitCast(D(), hn::ShiftLeft<52>(hn::ShiftRight<52>(hn::BitCast(Bits(), share))));
  return hn::IfThenElseZero(hn::Le(share, Number(2)), power);
}

void FinalizeGradients(const QuickColumns& sums, const StatisticsView& reference, Index channels, Index count,
                       const QuickGradients& to) {
  const V n = Number(static_cast<double>(count));
  const V largest = Number(std::numeric_limits<double>::max());
  const auto size = static_cast<std::size_t>(channels);
  const std::size_t width = hn::Lanes(D());
  const V factor = Number(48 * 0x1p-53);
  for (std::size_t at = 0; at < size; at += width) {
    const std::size_t few = std::min(width, size - at);
    const auto load = [few](const double* from)
                          HWY_ATTR { return few == hn::Lanes(D()) ? hn::LoadU(D(), from) : LoadFew(D(), from, few); };
    const V sum_dy = SumOf(sums, 0, at);
    const V squares = SumOf(sums, 2, at);
    const V mean = hn::Abs(load(reference.mean + at));
    const V residual = load(reference.mean_residual + at);
    const V scale = load(reference.inverse_deviation + at);
    const V sum_bound = hn::Mul(hn::Sqrt(hn::Mul(n, squares)), factor);
    const V of_residual = hn::Mul(hn::Abs(residual), hn::Add(sum_bound, hn::Mul(hn::Abs(sum_dy), Number(0x1p-50))));
    const V centred = hn::Sub(SumOf(sums, 1, at), hn::Mul(residual, sum_dy));
    const V centred_bound = hn::Add(hn::Mul(hn::Sqrt(hn::Mul(squares, SumOf(sums, 3, at))), factor), of_residual);

    const V low_dbeta = hn::Sub(sum_dy, sum_bound);
    const V low_dgamma = hn::Mul(hn::Sub(centred, centred_bound), scale);
    const V high_dgamma = hn::Mul(hn::Add(centred, centred_bound), scale);
    const V unit = GradientUnit(n, hn::Sub(squares, hn::Mul(squares, factor)));
    const V high_unit = GradientUnit(n, hn::Add(squares, hn::Mul(squares, factor)));
    const V gamma_unit = hn::Mul(unit, GammaUnitFactor(load(reference.variance + at), scale));
    const V inverse_unit = Inverse(unit);
    const M is_rounded = hn::Ge(gamma_unit, Number(0x1p-1000));
    const V inverse_gamma_unit =
        hn::IfThenElse(is_rounded, Inverse(gamma_unit), Number(std::numeric_limits<double>::infinity()));
    const V dbeta = OnGrid(low_dbeta, unit, inverse_unit);
    const V dgamma = OnGrid(low_dgamma, gamma_unit, inverse_gamma_unit);
    M decided = hn::And(hn::Eq(unit, high_unit), hn::Eq(dbeta, OnGrid(hn::Add(sum_dy, sum_bound), unit, inverse_unit)));
    decided = hn::And(decided, hn::Eq(dgamma, OnGrid(high_dgamma, gamma_unit, inverse_gamma_unit)));
    decided = hn::And(decided, hn::Or(is_rounded, hn::Eq(gamma_unit, hn::Zero(D()))));
    const V magnitude = hn::Max(hn::Abs(dbeta), hn::Max(hn::Abs(low_dgamma), hn::Abs(high_dgamma)));
    decided = hn::And(decided, hn::And(hn::Le(magnitude, largest), hn::Le(hn::Abs(scale), largest)));
    decided = hn::And(decided, hn::Or(hn::Ge(mean, Number(0x1p-300)), hn::Eq(mean, hn::Zero(D()))));

    StoreLanes(dgamma, few, to.dgamma + at);
    StoreLanes(dbeta, few, to.dbeta + at);
    StoreDecided(decided, few, to.decided + at);
  }
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(FinalizeStatistics);
HWY_EXPORT(FinalizeGradients);

void finalize_quick_statistics(const QuickColumns& sums, const double* centres, Index channels, Index count,
                               const Options& options, const QuickStatistics& to) {
  HWY_DISPATCH_TABLE(FinalizeStatistics)[active_target_index()](sums, centres, channels, count, options, to);
}

void finalize_quick_gradients(const QuickColumns& sums, const StatisticsView& reference, Index channels, Index count,
                              const QuickGradients& to) {
  HWY_DISPATCH_TABLE(FinalizeGradients)[active_target_index()](sums, reference, channels, count, to);
}

}  // namespace exactnorm
#endif  // HWY_ONCE

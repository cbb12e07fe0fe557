// Per-target code: included once for each instruction set by what multiplies and adds in one rounding.

#if defined(EXACTNORM_SIMD_FUSED_MULTIPLY_ADD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_SIMD_FUSED_MULTIPLY_ADD_INL_H_
#undef EXACTNORM_SIMD_FUSED_MULTIPLY_ADD_INL_H_
#else
#define EXACTNORM_SIMD_FUSED_MULTIPLY_ADD_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if !HWY_NATIVE_FMA && HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128

// a * b + c for as many float32 as a vector of float64 has lanes. The product is exact in float64, and the sum is
// rounded to odd: where it is not exact, to the neighbour whose last bit is 1. Rounding that to float32, which has far
// fewer bits, gives what rounding the exact sum would have given (Boldo and Melquiond, "Emulation of FMA and
// correctly rounded sums: proved algorithms using rounding to odd", IEEE Trans. Computers 57(4), 2008).
template <typename Half>
HWY_INLINE Half FusedHalf(Half a, Half b, Half c) {
  const hn::DFromV<Half> narrow;
  const hn::Rebind<double, decltype(narrow)> d;
  const hn::RebindToSigned<decltype(d)> di;
  const auto product = hn::Mul(hn::PromoteTo(d, a), hn::PromoteTo(d, b));
  const auto addend = hn::PromoteTo(d, c);
  const auto sum = hn::Add(product, addend);
  const auto of_addend = hn::Sub(sum, product);
  const auto error = hn::Add(hn::Sub(product, hn::Sub(sum, of_addend)), hn::Sub(addend, of_addend));
  const auto zero = hn::Zero(d);
  const auto bits = hn::BitCast(di, sum);
  const auto one = hn::Set(di, 1);
  // Not where the sum is infinite or no number: the error is no number there.
  const auto inexact = hn::Or(hn::Lt(error, zero), hn::Lt(zero, error));
  const auto is_even = hn::Eq(hn::And(bits, one), hn::Zero(di));
  const auto grows = hn::Eq(hn::BroadcastSignBit(hn::BitCast(di, error)), hn::BroadcastSignBit(bits));
  const auto odd = hn::IfThenElse(grows, hn::Add(bits, one), hn::Sub(bits, one));
  const auto rounded = hn::IfThenElse(hn::And(hn::RebindMask(di, inexact), is_even), odd, bits);
  return hn::DemoteTo(narrow, hn::BitCast(d, rounded));
}

#endif

// a * b + c of float32 numbers, rounded once: the same bits on processors that have no such instruction.
template <typename Vector>
HWY_INLINE Vector FusedMultiplyAdd(Vector a, Vector b, Vector c) {
#if HWY_NATIVE_FMA
  return hn::MulAdd(a, b, c);
#elif HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
  const hn::DFromV<Vector> d;
  HWY_ALIGN float lanes[3][hn::MaxLanes(d)];
  hn::Store(a, d, lanes[0]);
  hn::Store(b, d, lanes[1]);
  hn::Store(c, d, lanes[2]);
  for (std::size_t i = 0; i < hn::Lanes(d); ++i) lanes[0][i] = std::fma(lanes[0][i], lanes[1][i], lanes[2][i]);
  return hn::Load(d, lanes[0]);
#else
  const hn::DFromV<Vector> d;
  const hn::Half<decltype(d)> half;
  const auto lower = FusedHalf(hn::LowerHalf(half, a), hn::LowerHalf(half, b), hn::LowerHalf(half, c));
  const auto upper = FusedHalf(hn::UpperHalf(half, a), hn::UpperHalf(half, b), hn::UpperHalf(half, c));
  return hn::Combine(d, upper, lower);
#endif
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_SIMD_FUSED_MULTIPLY_ADD_INL_H_

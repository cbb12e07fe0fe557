// Per-target code: included once for each instruction set by solve_short_kernels.cpp.

#if defined(EXACTNORM_SOLVE_SHORT_ARITHMETIC_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_SOLVE_SHORT_ARITHMETIC_INL_H_
#undef EXACTNORM_SOLVE_SHORT_ARITHMETIC_INL_H_
#else
#define EXACTNORM_SOLVE_SHORT_ARITHMETIC_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "simd/product_error-inl.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A channel per lane.
inline constexpr std::size_t solve_lanes = 8;
using D = hn::CappedTag<double, solve_lanes>;
using DI = hn::RebindToSigned<D>;
using DU = hn::RebindToUnsigned<D>;
using V = hn::Vec<D>;
using VI = hn::Vec<DI>;
using VU = hn::Vec<DU>;
using M = hn::Mask<D>;

HWY_INLINE V Number(double value) { return hn::Set(D(), value); }
HWY_INLINE VU Word(std::uint64_t value) { return hn::Set(DU(), value); }

// ---- Long integers, in limbs of 32 bits that lie in lanes of 64.

HWY_INLINE VU LowHalf(VU value) { return hn::And(value, Word(0xffffffff)); }
HWY_INLINE VU HighHalf(VU value) { return hn::ShiftRight<32>(value); }
HWY_INLINE VI LowHalf(VI value) { return hn::And(value, hn::Set(DI(), 0xffffffff)); }
// Rounds down.
HWY_INLINE VI HighHalf(VI value) { return hn::ShiftRight<32>(value); }

// The product of the low halves.
HWY_INLINE VU MulHalves(VU a, VU b) {
#if HWY_TARGET == HWY_SCALAR
  return Word(hn::GetLane(LowHalf(a)) * hn::GetLane(LowHalf(b)));
#else
  const hn::Repartition<std::uint32_t, DU> halves;
  return hn::MulEven(hn::BitCast(halves, a), hn::BitCast(halves, b));
#endif
}

// An integer from 0 to 2^52 - 1: as the mantissa of a number of the binade of 2^52.
HWY_INLINE V ToNumber(VU integer) {
  return hn::Sub(hn::BitCast(D(), hn::Or(integer, Word(0x4330000000000000))), Number(0x1p52));
}
HWY_INLINE V ToNumber(VI integer) { return ToNumber(hn::BitCast(DU(), integer)); }
// One from -2^51 to 2^51 - 1.
HWY_INLINE V ToSignedNumber(VI integer) {
  const VI biased = hn::Add(integer, hn::Set(DI(), std::int64_t{1} << 51));
  return hn::Sub(hn::BitCast(D(), hn::Or(hn::BitCast(DU(), biased), Word(0x4330000000000000))), Number(0x1.8p52));
}

// 2^exponent, of a normal number: other exponents give anything.
HWY_INLINE V PowerOfTwo(VI exponent) {
  return hn::BitCast(D(), hn::ShiftLeft<52>(hn::Add(exponent, hn::Set(DI(), 1023))));
}

// An integer as limbs: limb[0] + limb[1] * 2^32 + limb[2] * 2^64 + limb[3] * 2^96, of which all but the last are
// from 0 to 2^32 - 1.
struct Limbs {
  VI limb[4];
};

// upper * 2^45 + lower; |limb[3]| <= 2^12.
HWY_INLINE Limbs SecondSum(VI upper, VI lower) {
  const VI middle = hn::Add(LowHalf(hn::ShiftLeft<13>(upper)), HighHalf(lower));
  const VI high = hn::Add(LowHalf(hn::ShiftRight<19>(upper)), HighHalf(middle));
  return {{LowHalf(lower), LowHalf(middle), LowHalf(high), hn::Add(hn::ShiftRight<51>(upper), HighHalf(high))}};
}

// n * a for 0 <= n < 2^30 and 0 <= a < 2^109: no product exceeds 2^62, so that carries fit.
HWY_INLINE Limbs MulSmall(const Limbs& a, VU n) {
  const auto product = [&](int i) { return MulHalves(hn::BitCast(DU(), a.limb[i]), n); };
  const VU first = product(0);
  const VU second = hn::Add(product(1), HighHalf(first));
  const VU third = hn::Add(product(2), HighHalf(second));
  const VU fourth = hn::Add(product(3), HighHalf(third));
  const DI d;
  return {{hn::BitCast(d, LowHalf(first)), hn::BitCast(d, LowHalf(second)), hn::BitCast(d, LowHalf(third)),
           hn::BitCast(d, fourth)}};
}

// a^2 for 0 <= a <= 2^63. The product of the halves, twice, fits beside a carry: it is at most
// 2 * (2^31 - 1) * (2^32 - 1) < 2^64 - 2^33, or 0 for 2^63.
HWY_INLINE Limbs Square(VU a) {
  const VU high = HighHalf(a);
  const VU first = MulHalves(a, a);
  const VU second = hn::Add(hn::ShiftLeft<1>(MulHalves(a, high)), HighHalf(first));
  const VU third = hn::Add(MulHalves(high, high), HighHalf(second));
  const DI d;
  return {{hn::BitCast(d, LowHalf(first)), hn::BitCast(d, LowHalf(second)), hn::BitCast(d, LowHalf(third)),
           hn::BitCast(d, HighHalf(third))}};
}

// a - 2 * b
HWY_INLINE Limbs SubTwice(const Limbs& a, const Limbs& b) {
  Limbs result;
  VI carry = hn::Zero(DI());
  for (int i = 0; i < 4; ++i) {
    const VI difference = hn::Add(hn::Sub(a.limb[i], hn::ShiftLeft<1>(b.limb[i])), carry);
    carry = HighHalf(difference);
    result.limb[i] = i < 3 ? LowHalf(difference) : difference;
  }
  return result;
}

// ---- Numbers without rounding.

// high + low, |low| at most half of the last bit of high.
struct Pair {
  V high;
  V low;
};

// a + b exactly, for |a| >= |b| or a = 0 (Dekker).
HWY_INLINE Pair FastTwoSum(V a, V b) {
  const V sum = hn::Add(a, b);
  return {sum, hn::Sub(b, hn::Sub(sum, a))};
}

// a + b exactly, whatever they are (Knuth).
HWY_INLINE Pair TwoSum(V a, V b) {
  const V sum = hn::Add(a, b);
  const V b_part = hn::Sub(sum, a);
  const V a_part = hn::Sub(sum, b_part);
  return {sum, hn::Add(hn::Sub(a, a_part), hn::Sub(b, b_part))};
}

// a * b exactly.
HWY_INLINE Pair TwoProduct(V a, V b) {
  const V product = hn::Mul(a, b);
  return {product, ProductError(a, b, product)};
}

// An integer exactly: two halves of 32 bits, of which the upper is 0 or larger than the lower.
HWY_INLINE VU Magnitude(VI integer) {
  const VI sign = hn::BroadcastSignBit(integer);
  return hn::BitCast(DU(), hn::Sub(hn::Xor(integer, sign), sign));
}
HWY_INLINE Pair ToPair(VI integer) {
  const VU magnitude = Magnitude(integer);
  const Pair pair = FastTwoSum(hn::Mul(ToNumber(HighHalf(magnitude)), Number(0x1p32)), ToNumber(LowHalf(magnitude)));
  const V sign = hn::And(hn::BitCast(D(), integer), hn::SignBit(D()));
  return {hn::Xor(pair.high, sign), hn::Xor(pair.low, sign)};
}

// Whether all numbers within `error` of the pair's round to pair.high (Ziv, 1991). Rounding is monotonic: it is
// enough to look at both ends. The sums with `error` are rounded themselves, by 2^-53 of them, which the caller's
// bounds leave room for.
HWY_INLINE M RoundsAlike(Pair pair, V error) {
  const V above = hn::Add(pair.high, hn::Add(pair.low, error));
  const V below = hn::Add(pair.high, hn::Sub(pair.low, error));
  return hn::And(hn::Eq(above, pair.high), hn::Eq(below, pair.high));
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_SOLVE_SHORT_ARITHMETIC_INL_H_

// Per-target code: included once for each instruction set by guarded_sums.cpp.

#if defined(EXACTNORM_REDUCE_EXACT_CHAIN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_REDUCE_EXACT_CHAIN_INL_H_
#undef EXACTNORM_REDUCE_EXACT_CHAIN_INL_H_
#else
#define EXACTNORM_REDUCE_EXACT_CHAIN_INL_H_
#endif

#include <hwy/highway.h>

#include "combine/short_sums.h"
#include "reduce/guarded_sums.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<double, tile_lanes>;
using V = hn::Vec<D>;
using DInteger = hn::RebindToSigned<D>;
using VInteger = hn::Vec<DInteger>;

// Exact accumulators of a column of numbers a and products a * b, with |a| < 2^(e+1), |b| < 2^(f+1), over at most 2^7
// rows; a and b are multiples of 2^(e-43) and 2^(f-43) (near), or of 2^(e-66) and 2^(f-66) (far).
//
// Each starts at 1.5 * 2^52 of its units and must stay within 2^51 of them from there: then it is in one binade, each
// addition rounds to a multiple of the unit, and its bits, less those of its start, are the sum as an integer.
//   linear  unit 2^(e-43): near, a is a multiple, and 2^7 rows below 2^(e+1) stay below 2^(e+8) = 2^51 units. Far, it
//           takes a rounded to a multiple of its unit, as an anchor does (Rump, Ogita and Oishi, 2008).
//   linear_rest  unit 2^(e-88): takes what that left, exactly: at most 2^(e-44) each, below 2^51 units in all,
//           multiples of 2^(e-66).
//   upper   unit 2^(e+f-42): takes each product (48 bits, exact in float64) rounded to a multiple of its
//           unit; below 2^(e+f+2) each, 2^51 units in all.
//   lower   unit 2^(e+f-87): takes what that left: at most 2^(e+f-43) each, 2^51 units in all. Near, exactly, as these
//   are
//           multiples of 2^(e+f-86). Far, rounded.
//   lowest  unit 2^(e+f-132): takes what that left, exactly: at most 2^(e+f-88) each, 2^51 units in all, multiples of
//           its unit.
template <Reach kReach>
struct Chain {
  V linear;
  V upper;
  V lower;
  V linear_rest;
  V lowest;

  HWY_INLINE void Add(V a, V b) {
    // As a multiplication, since the units for additions are the busier ones. Exact where `near` is.
    const V next_linear = hn::MulAdd(a, hn::Set(D(), 1.0), linear);
    const V next_upper = hn::MulAdd(a, b, upper);
    const V rest = hn::MulSub(a, b, hn::Sub(next_upper, upper));
    const V next_lower = hn::Add(lower, rest);
    if constexpr (kReach == Reach::far) {
      linear_rest = hn::Add(linear_rest, hn::Sub(a, hn::Sub(next_linear, linear)));
      lowest = hn::Add(lowest, hn::Sub(rest, hn::Sub(next_lower, lower)));
    }
    linear = next_linear;
    upper = next_upper;
    lower = next_lower;
  }
};

// Those of a near chain have no last two terms.
struct Totals {
  VInteger linear;
  VInteger upper;
  VInteger lower;
  VInteger linear_rest;
  VInteger lowest;
};

// The bits of 1.5 * 2^52 units.
HWY_INLINE std::int64_t AnchorBits(int unit_exponent) {
  return (static_cast<std::int64_t>(1023 + 52 + unit_exponent) << 52) | (std::int64_t{1} << 51);
}
HWY_INLINE V ValueOf(VInteger bits) { return hn::BitCast(D(), bits); }

HWY_INLINE Totals AnchorsOf(int a_exponent, int b_exponent) {
  const DInteger d;
  const int both = a_exponent + b_exponent;
  return {hn::Set(d, AnchorBits(a_exponent + short_linear_unit)), hn::Set(d, AnchorBits(both + short_upper_unit)),
          hn::Set(d, AnchorBits(both + short_lower_unit)), hn::Set(d, AnchorBits(a_exponent + linear_rest_unit)),
          hn::Set(d, AnchorBits(both + lowest_unit))};
}
template <Reach kReach>
HWY_INLINE Chain<kReach> ChainFrom(const Totals& anchors) {
  return {ValueOf(anchors.linear), ValueOf(anchors.upper), ValueOf(anchors.lower), ValueOf(anchors.linear_rest),
          ValueOf(anchors.lowest)};
}

template <Reach kReach>
HWY_INLINE Totals TotalsOf(const Chain<kReach>& chain, const Totals& anchors) {
  const DInteger d;
  const auto since = [&](V value, VInteger anchor) HWY_ATTR { return hn::Sub(hn::BitCast(d, value), anchor); };
  Totals totals = {since(chain.linear, anchors.linear), since(chain.upper, anchors.upper),
                   since(chain.lower, anchors.lower), hn::Zero(d), hn::Zero(d)};
  if constexpr (kReach == Reach::far) {
    totals.linear_rest = since(chain.linear_rest, anchors.linear_rest);
    totals.lowest = since(chain.lowest, anchors.lowest);
  }
  return totals;
}
HWY_INLINE Totals Sum(const Totals& a, const Totals& b) {
  return {hn::Add(a.linear, b.linear), hn::Add(a.upper, b.upper), hn::Add(a.lower, b.lower),
          hn::Add(a.linear_rest, b.linear_rest), hn::Add(a.lowest, b.lowest)};
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_REDUCE_EXACT_CHAIN_INL_H_

#include <algorithm>
#include <limits>

#include "simd/target.h"
#include "solve/solve_short.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "solve/solve_short_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "solve/short_arithmetic-inl.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Exponents of which no power of two below overflows or underflows, and no variance is extraordinary (solve.cpp):
// it is from 2^(-2 * 370 - 87 - 60) to 2^(2 * 370 - 87 + 138).
inline constexpr int largest_exponent = 370;

HWY_INLINE VI LoadExponents(const int* from) {
  static_assert(sizeof(int) == 4);
  return hn::PromoteTo(DI(), hn::LoadU(hn::Rebind<std::int32_t, D>(), from));
}

// Not negative where the exponent is within the limits.
HWY_INLINE VI Allowed(VI exponent) {
  const VI limit = hn::Set(DI(), largest_exponent);
  return hn::Or(hn::Sub(limit, exponent), hn::Add(limit, exponent));
}
HWY_INLINE M IsNotNegative(VI value) { return hn::Not(hn::RebindMask(D(), hn::Lt(value, hn::Zero(DI())))); }

// Adds up what block(sums, number of the first channel) returns for a vector of channels at a time: the last ones
// stand in a copy with zeros beside them, and their size says how many there are.
template <typename Block>
HWY_INLINE Index ForEachVector(const ShortView& sums, const Block& block) {
  const auto width = static_cast<Index>(hn::Lanes(D()));
  Index solved = 0;
  Index i = 0;
  for (; i + width <= sums.size; i += width) {
    solved += block(ShortView{sums.linear + i, sums.upper + i, sums.lower + i, sums.first_exponents + i,
                              sums.second_exponents + i, width},
                    i);
  }
  if (i == sums.size) return solved;
  std::int64_t integers[3][solve_lanes] = {};
  int exponents[2][solve_lanes] = {};
  std::copy(sums.linear + i, sums.linear + sums.size, integers[0]);
  std::copy(sums.upper + i, sums.upper + sums.size, integers[1]);
  std::copy(sums.lower + i, sums.lower + sums.size, integers[2]);
  std::copy(sums.first_exponents + i, sums.first_exponents + sums.size, exponents[0]);
  std::copy(sums.second_exponents + i, sums.second_exponents + sums.size, exponents[1]);
  return solved + block(ShortView{integers[0], integers[1], integers[2], exponents[0], exponents[1], sums.size - i}, i);
}

// As many lanes as there are channels.
HWY_INLINE void StoreLanes(V values, double* to, Index count) {
  if (HWY_LIKELY(count == static_cast<Index>(hn::Lanes(D())))) {
    hn::StoreU(values, D(), to);
    return;
  }
  HWY_ALIGN double lanes[solve_lanes];
  hn::Store(values, D(), lanes);
  std::copy_n(lanes, count, to);
}
HWY_INLINE V LoadLanes(const double* from, Index count) {
  if (HWY_LIKELY(count == static_cast<Index>(hn::Lanes(D())))) return hn::LoadU(D(), from);
  HWY_ALIGN double lanes[solve_lanes] = {};
  std::copy_n(from, count, lanes);
  return hn::Load(D(), lanes);
}
// Returns how many of them are true.
HWY_INLINE Index StoreMask(M mask, std::uint8_t* to, Index count) {
  std::uint8_t bytes[8] = {};
  hn::StoreMaskBits(D(), mask, bytes);
  Index solved = 0;
  for (Index i = 0; i < count; ++i) {
    to[i] = static_cast<std::uint8_t>(bytes[0] >> i & 1);
    solved += to[i];
  }
  return solved;
}

// 1 / n^2 as high + low: exactly for a power of two, and else to 2^-102 of it. n^2 is square.high + square.low,
// exactly. 1 - high * square.high is at most 2^-53 in magnitude, so that its rounding, that of
// high * square.low (as much at most), of their difference and of the quotient, and the use of square.high as a
// divisor, cost no more than 2^-104 each.
HWY_INLINE Pair InverseOf(Pair square) {
  const V one = Number(1);
  const V high = hn::Div(one, square.high);
  const Pair product = TwoProduct(high, square.high);
  const V rest = hn::Sub(hn::Sub(hn::Sub(one, product.high), product.low), hn::Mul(high, square.low));
  return {high, hn::Div(rest, square.high)};
}

// Of sums over n elements, 1 <= n < 2^30, in units of the first sum:
// mean = L / n, and variance = (n * Q - 2 * L^2) / n^2 in halves of the unit's square, Q = upper * 2^45 + lower.
struct Divisor {
  explicit HWY_INLINE Divisor(Index count)
      : integer(Word(static_cast<std::uint64_t>(count))), number(Number(static_cast<double>(count))) {
    const Index square = count * count;
    const auto high = static_cast<double>(square);
    inverse_square = InverseOf({Number(high), Number(static_cast<double>(square - static_cast<Index>(high)))});
    is_power_of_two = (count & (count - 1)) == 0;
  }
  VU integer;
  V number;
  Pair inverse_square;
  bool is_power_of_two;
};

// L / n, rounded once, and what that leaves, rounded once as well.
//
// The guess g is within two units in the last place of L / n, for L.high is L to 2^-53 and the quotient is rounded
// once more. So g * n is near enough to L.high that their difference is exact (Sterbenz), and all that follows to
// `rest`, L - g * n, are multiples of min(1, ulp(g)), at most 4 * n * ulp(g): 32 bits where ulp(g) <= 1, and else 15,
// as g < 2^63 / n then has n * ulp(g) <= 2^11. The rest is exact.
//
// The quotient rest / n may be rounded to a double, for that does not take it across a boundary between roundings of
// g + rest / n: boundaries lie at multiples of ulp(g) / 4 from g, and a rest that is not at one is away from it by
// a quarter of min(1, ulp(g)), more than 2^-36 of it. If it is at one, the quotient is exact. What the mean
// leaves is then exact too, by the same count of bits, and its quotient is rounded once.
HWY_INLINE Pair MeanOf(Pair linear, V n) {
  const V guess = hn::Div(linear.high, n);
  const Pair product = TwoProduct(guess, n);
  const V rest = hn::Add(hn::Sub(linear.high, product.high), hn::Sub(linear.low, product.low));
  const V mean = hn::Add(guess, hn::Div(rest, n));
  const V left = hn::Sub(rest, hn::Mul(hn::Sub(mean, guess), n));
  return {mean, hn::Div(left, n)};
}

struct Rounded {
  V value;
  M proven;
};

// numerator / n^2, 0 <= numerator < 2^138.
//
// As numbers, its limbs are added from the top. The first sum leaves a multiple of 2^64 up to 2^84, which
// the third limb makes a multiple of 2^32 below 2^85: exact. The last sum may leave an error of 2^-53 of 2^-52 of the
// numerator.
// The product with the inverse has that error, the inverse's of 2^-102, a product of low parts that is not made,
// and the roundings of two products and two sums of 2^-52 of the whole: 2^-100 in all, to which 2^-96 is
// large enough. Where n is a power of two and the last sum exact, there is none: ties are then rounded as they should
// be.
HWY_INLINE Rounded VarianceOf(const Limbs& numerator, const Divisor& n) {
  const Pair first = FastTwoSum(hn::Mul(ToNumber(numerator.limb[3]), Number(0x1p96)),
                                hn::Mul(ToNumber(numerator.limb[2]), Number(0x1p64)));
  const Pair second = FastTwoSum(first.high, hn::Add(first.low, hn::Mul(ToNumber(numerator.limb[1]), Number(0x1p32))));
  const Pair last = FastTwoSum(second.low, ToNumber(numerator.limb[0]));
  const Pair all = FastTwoSum(second.high, last.high);

  const Pair& inverse = n.inverse_square;
  const Pair product = TwoProduct(all.high, inverse.high);
  const V low = hn::Add(product.low, hn::Add(hn::Mul(all.high, inverse.low), hn::Mul(all.low, inverse.high)));
  const Pair quotient = FastTwoSum(product.high, low);
  V error = hn::Mul(quotient.high, Number(0x1p-96));
  if (n.is_power_of_two) error = hn::IfThenZeroElse(hn::Eq(last.low, hn::Zero(D())), error);
  return {quotient.high, RoundsAlike(quotient, error)};
}

// inverse_deviation_of, operation for operation.
HWY_INLINE V InverseDeviation(V variance, V epsilon, EpsilonPlacement placement) {
  const V divisor = placement == EpsilonPlacement::variance ? hn::Sqrt(hn::Add(variance, epsilon))
                                                            : hn::Add(hn::Sqrt(variance), epsilon);
  const V inverse = hn::Min(hn::Div(Number(1), divisor), Number(std::numeric_limits<double>::max()));
  return hn::IfThenZeroElse(hn::Eq(divisor, hn::Zero(D())), inverse);
}

Index SolveStatistics(const ShortView& sums, Index count, double epsilon, EpsilonPlacement placement,
                      const ShortStatistics& to) {
  const Divisor n(count);
  return ForEachVector(sums, [&](const ShortView& from, Index at) HWY_ATTR {
    const DI d;
    const VI linear = hn::LoadU(d, from.linear);
    const VI exponent = LoadExponents(from.first_exponents);
    const VI other = LoadExponents(from.second_exponents);
    const Limbs second = SecondSum(hn::LoadU(d, from.upper), hn::LoadU(d, from.lower));
    const Limbs numerator = SubTwice(MulSmall(second, n.integer), Square(Magnitude(linear)));
    // Sums of squares are not negative, nor is the variance: where these are, they are not sums of moments.
    const VI equal = hn::Or(hn::Sub(exponent, other), hn::Sub(other, exponent));
    const VI sound = hn::Or(hn::Or(second.limb[3], numerator.limb[3]), hn::Or(equal, Allowed(exponent)));

    const Pair mean = MeanOf(ToPair(linear), n.number);
    const Rounded spread = VarianceOf(numerator, n);
    const V unit = PowerOfTwo(hn::Add(exponent, hn::Set(d, short_linear_unit)));
    const V unit_of_squares = PowerOfTwo(hn::Add(hn::ShiftLeft<1>(exponent), hn::Set(d, short_lower_unit)));
    const V variance = hn::Mul(spread.value, unit_of_squares);
    StoreLanes(hn::Mul(mean.high, unit), to.mean + at, from.size);
    StoreLanes(hn::Mul(mean.low, unit), to.mean_residual + at, from.size);
    StoreLanes(variance, to.variance + at, from.size);
    StoreLanes(InverseDeviation(variance, Number(epsilon), placement), to.inverse_deviation + at, from.size);
    return StoreMask(hn::And(spread.proven, IsNotNegative(sound)), to.solved + at, from.size);
  });
}

// Q - (mean + residual) * L, Q = upper * 2^45 + lower, of numbers from 2^-400 to 2^100 in magnitude or 0.
//
// Q is three numbers, the product seven and the rounding of the last. Six exact additions to the largest leave
// a sum and their errors; these and the rest are added as they come. That is nine numbers, of which S shall be the
// sum of magnitudes: eight additions and the rounding of one product cost less than 9 * 2^-53 * S < 2^-49 * S. The
// rounding in RoundsAlike is of a number below S, and 2^-48 * S is enough for all. Where S is 0 there is no error:
// as long as numbers are short, sums that are zero, or ties, are found so. For that, what cancels comes first.
HWY_INLINE Rounded CentredSum(const Limbs& second, Pair linear, V mean, V residual) {
  // The first two limbs are one number of 45 bits.
  const Pair top = FastTwoSum(hn::Add(hn::Mul(ToSignedNumber(second.limb[3]), Number(0x1p96)),
                                      hn::Mul(ToNumber(second.limb[2]), Number(0x1p64))),
                              hn::Mul(ToNumber(second.limb[1]), Number(0x1p32)));
  const V minus_mean = hn::Neg(mean);
  const V minus_residual = hn::Neg(residual);
  const Pair product = TwoProduct(minus_mean, linear.high);
  const Pair product_of_low = TwoProduct(minus_mean, linear.low);
  const Pair product_of_residual = TwoProduct(minus_residual, linear.high);
  const V product_of_both = hn::Mul(minus_residual, linear.low);

  const V large[] = {
      product.high, top.low, product.low, product_of_low.high, product_of_residual.high, ToNumber(second.limb[0])};
  V sum = top.high;
  V low = hn::Add(hn::Add(product_of_low.low, product_of_residual.low), product_of_both);
  V magnitude =
      hn::Add(hn::Add(hn::Abs(product_of_low.low), hn::Abs(product_of_residual.low)), hn::Abs(product_of_both));
  for (const V& value : large) {
    const Pair next = TwoSum(sum, value);
    sum = next.high;
    low = hn::Add(low, next.low);
    magnitude = hn::Add(magnitude, hn::Abs(next.low));
  }
  const Pair centred = TwoSum(sum, low);
  return {centred.high, RoundsAlike(centred, hn::Mul(magnitude, Number(0x1p-48)))};
}

// Whether a scaled number lies from 2^-400 to 2^100, or was zero before.
HWY_INLINE M IsOrdinary(V scaled, V before) {
  const V magnitude = hn::Abs(scaled);
  const M within = hn::And(hn::Ge(magnitude, Number(0x1p-400)), hn::Le(magnitude, Number(0x1p100)));
  return hn::Or(within, hn::Eq(before, hn::Zero(D())));
}

Index SolveGradients(const ShortView& sums, const double* means, const double* residuals, const ShortGradients& to) {
  return ForEachVector(sums, [&](const ShortView& from, Index at) HWY_ATTR {
    const DI d;
    const VI e = LoadExponents(from.first_exponents);
    const VI f = LoadExponents(from.second_exponents);
    const Pair linear = ToPair(hn::LoadU(d, from.linear));
    const Limbs second = SecondSum(hn::LoadU(d, from.upper), hn::LoadU(d, from.lower));
    // The unit of the second sum, 2^(e + f - 87), is that of the first times 2^(f - 44).
    const V to_unit = PowerOfTwo(hn::Sub(hn::Set(d, short_linear_unit - short_lower_unit), f));
    const V mean = LoadLanes(means + at, from.size);
    const V residual = LoadLanes(residuals + at, from.size);
    const V scaled_mean = hn::Mul(mean, to_unit);
    const V scaled_residual = hn::Mul(residual, to_unit);
    const Rounded centred = CentredSum(second, linear, scaled_mean, scaled_residual);

    const V first_unit = PowerOfTwo(hn::Add(e, hn::Set(d, short_linear_unit)));
    const V second_unit = PowerOfTwo(hn::Add(hn::Add(e, f), hn::Set(d, short_lower_unit)));
    StoreLanes(hn::Mul(linear.high, first_unit), to.sum_dy + at, from.size);
    StoreLanes(hn::Mul(centred.value, second_unit), to.centred + at, from.size);
    // So that it remains a normal number.
    const M large_enough =
        hn::Or(hn::Ge(hn::Abs(centred.value), Number(0x1p-180)), hn::Eq(centred.value, hn::Zero(D())));
    const M ordinary = hn::And(IsOrdinary(scaled_mean, mean), IsOrdinary(scaled_residual, residual));
    const M sound = hn::And(IsNotNegative(hn::Or(Allowed(e), Allowed(f))), hn::And(ordinary, large_enough));
    return StoreMask(hn::And(centred.proven, sound), to.solved + at, from.size);
  });
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(SolveStatistics);
HWY_EXPORT(SolveGradients);

Index solve_short_statistics(const ShortView& sums, Index count, const Options& options, const ShortStatistics& to) {
  constexpr Index largest_count = (Index{1} << 30) - 1;
  if (count < 1 || count > largest_count) {
    std::fill_n(to.solved, sums.size, std::uint8_t{0});
    return 0;
  }
  return HWY_DISPATCH_TABLE(SolveStatistics)[active_target_index()](sums, count, options.epsilon,
                                                                    options.epsilon_placement, to);
}

Index solve_short_gradients(const ShortView& sums, const double* mean, const double* mean_residual,
                            const ShortGradients& to) {
  return HWY_DISPATCH_TABLE(SolveGradients)[active_target_index()](sums, mean, mean_residual, to);
}

}  // namespace exactnorm
#endif  // HWY_ONCE

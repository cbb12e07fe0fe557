// Per-target code: included once for each instruction set by what needs exponentials.

#if defined(EXACTNORM_SIMD_EXPONENTIAL_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_SIMD_EXPONENTIAL_INL_H_
#undef EXACTNORM_SIMD_EXPONENTIAL_INL_H_
#else
#define EXACTNORM_SIMD_EXPONENTIAL_INL_H_
#endif

#include <hwy/highway.h>

#include <array>
#include <cstddef>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// exp(v) = 2^k * exp(r), with k the integer nearest to v / ln 2, and |r| <= ln 2 / 2.
template <typename T>
struct ExponentialConstants;
template <>
struct ExponentialConstants<float> {
  static constexpr float smallest = -110;         // exp(v) is 0 from here on down, and v * exp(v) rounds to 0
  static constexpr float to_integer = 0x1.8p23F;  // a sum with it has units of 1
  static constexpr int fraction_bits = 23;
  static constexpr std::int32_t bias = 127;
  // ln 2 in two parts, of which the first has few bits: its product with k is exact.
  static constexpr float ln2_high = 0x1.63p-1F;
  static constexpr float ln2_low = -0x1.bd0106p-13F;
  static constexpr std::size_t degree = 7;
};
template <>
struct ExponentialConstants<double> {
  static constexpr double smallest = -760;
  static constexpr double to_integer = 0x1.8p52;
  static constexpr int fraction_bits = 52;
  static constexpr std::int64_t bias = 1023;
  static constexpr double ln2_high = 0x1.62e42fee00000p-1;
  static constexpr double ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr std::size_t degree = 13;
};

// 1 / n!
template <typename T>
constexpr std::array<T, ExponentialConstants<T>::degree + 1> InverseFactorials() {
  std::array<T, ExponentialConstants<T>::degree + 1> inverse{};
  T factorial = 1;
  for (std::size_t n = 0; n < inverse.size(); ++n) {
    if (n > 0) factorial *= static_cast<T>(n);
    inverse[n] = 1 / factorial;
  }
  return inverse;
}

// 2^k of integers k, as lanes of the size of D's.
template <class D, class VI>
HWY_INLINE hn::Vec<D> PowerOfTwo(D d, VI k) {
  using Constants = ExponentialConstants<hn::TFromD<D>>;
  const hn::RebindToSigned<D> di;
  return hn::BitCast(d, hn::ShiftLeft<Constants::fraction_bits>(hn::Add(k, hn::Set(di, Constants::bias))));
}

// The value fraction * scale, which may be subnormal, where neither factor is. Who multiplies it multiplies the
// fraction, which has all digits, and scales last.
template <class V>
struct Exponential {
  V fraction;
  V scale;

  HWY_INLINE V Value() const { return hn::Mul(fraction, scale); }
};

// exp(v) of v <= 0, to 2 units in the last place: Taylor's series of exp(r) in Horner's form, with each operation
// rounded by itself, so that all processors have the same bits. Of NaN 0.
template <class D>
HWY_INLINE Exponential<hn::Vec<D>> ExponentialOfNegative(D d, hn::Vec<D> v) {
  using T = hn::TFromD<D>;
  using Constants = ExponentialConstants<T>;
  const hn::RebindToSigned<D> di;
  const auto smallest = hn::Set(d, Constants::smallest);
  const auto is_in_range = hn::Gt(v, smallest);
  v = hn::IfThenElse(is_in_range, v, smallest);
  const auto to_integer = hn::Set(d, Constants::to_integer);
  const auto shifted = hn::Add(hn::Mul(v, hn::Set(d, static_cast<T>(0x1.71547652b82fep+0))), to_integer);
  const auto k = hn::Sub(shifted, to_integer);
  const auto k_bits = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, to_integer));
  const auto r =
      hn::Sub(hn::Sub(v, hn::Mul(k, hn::Set(d, Constants::ln2_high))), hn::Mul(k, hn::Set(d, Constants::ln2_low)));
  constexpr auto coefficients = InverseFactorials<T>();
  auto sum = hn::Set(d, coefficients[Constants::degree]);
  for (std::size_t n = Constants::degree; n-- > 0;) sum = hn::Add(hn::Mul(sum, r), hn::Set(d, coefficients[n]));
  const auto half = hn::ShiftRight<1>(k_bits);
  const auto scale = PowerOfTwo(d, hn::Sub(k_bits, half));
  return {hn::Mul(sum, PowerOfTwo(d, half)), hn::IfThenElseZero(is_in_range, scale)};
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_SIMD_EXPONENTIAL_INL_H_

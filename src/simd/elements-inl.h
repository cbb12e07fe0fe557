// Per-target code: included once for each instruction set by what loads or stores elements as vectors of numbers:
// float32 and float64 as they are, bfloat16 and float16 as float32, with the bits of tensor/conversions.h. F16C serves
// float16 where there is AVX2. AVX-512's conversion to bfloat16 does not serve: it takes subnormal numbers for zeros.

#if defined(EXACTNORM_SIMD_ELEMENTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_SIMD_ELEMENTS_INL_H_
#undef EXACTNORM_SIMD_ELEMENTS_INL_H_
#else
#define EXACTNORM_SIMD_ELEMENTS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "simd/few_lanes-inl.h"
#include "tensor/element_type.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// What arithmetic takes elements for.
template <typename Element>
using Value = std::conditional_t<is_half<Element>, float, Element>;

// As many halves, as their bits, as D has lanes of float32.
template <class D>
using HalfBits = hn::Rebind<std::uint16_t, D>;
template <class D>
using WideBits = hn::RebindToUnsigned<D>;

template <class D>
HWY_INLINE hn::Vec<D> Promote(D d, bfloat16 /*type*/, hn::Vec<HalfBits<D>> bits) {
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(WideBits<D>(), bits)));
}

template <class D>
HWY_INLINE hn::Vec<HalfBits<D>> Narrowed(D /*d*/, hn::Vec<WideBits<D>> bits) {
  return hn::DemoteTo(HalfBits<D>(), hn::BitCast(hn::RebindToSigned<D>(), bits));
}

template <class D>
HWY_INLINE hn::Vec<HalfBits<D>> Demote(D d, bfloat16 /*type*/, hn::Vec<D> value) {
  const WideBits<D> du;
  const auto bits = hn::BitCast(du, value);
  const auto upper = hn::ShiftRight<16>(bits);
  const auto half_unit = hn::Add(hn::Set(du, 0x7fff), hn::And(upper, hn::Set(du, 1)));
  const auto is_number = hn::RebindMask(du, hn::Eq(value, value));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, half_unit));
  return Narrowed(d, hn::IfThenElse(is_number, rounded, hn::Or(upper, hn::Set(du, 0x40))));
}

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2 && !defined(HWY_DISABLE_F16C)

template <class D>
HWY_INLINE hn::Vec<D> Promote(D d, float16 /*type*/, hn::Vec<HalfBits<D>> bits) {
  return hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, D>(), bits));
}

template <class D>
HWY_INLINE hn::Vec<HalfBits<D>> Demote(D /*d*/, float16 /*type*/, hn::Vec<D> value) {
  return hn::BitCast(HalfBits<D>(), hn::DemoteTo(hn::Rebind<hwy::float16_t, D>(), value));
}

#else

template <class D>
HWY_INLINE hn::Vec<D> Promote(D d, float16 /*type*/, hn::Vec<HalfBits<D>> bits) {
  const WideBits<D> du;
  const auto wide = hn::PromoteTo(du, bits);
  const auto sign = hn::ShiftLeft<16>(hn::And(wide, hn::Set(du, 0x8000)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(wide, hn::Set(du, 0x7fff)));
  const auto infinite = hn::Set(du, 0x7c00U << 13U);
  const auto finite = hn::BitCast(du, hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112F)));
  const auto quiet = hn::IfThenElseZero(hn::Gt(magnitude, infinite), hn::Set(du, 0x00400000));
  const auto other = hn::Or(hn::Or(magnitude, quiet), hn::Set(du, 0x7f800000));
  return hn::BitCast(d, hn::Or(sign, hn::IfThenElse(hn::Lt(magnitude, infinite), finite, other)));
}

template <class D>
HWY_INLINE hn::Vec<HalfBits<D>> Demote(D d, float16 /*type*/, hn::Vec<D> value) {
  const WideBits<D> du;
  const auto bits = hn::BitCast(du, value);
  const auto sign = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 0x8000));
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7fffffff));
  const auto shifted = hn::ShiftRight<13>(magnitude);
  const auto half_unit = hn::Add(hn::Set(du, 0xfff), hn::And(shifted, hn::Set(du, 1)));
  const auto normal = hn::ShiftRight<13>(hn::Add(hn::Sub(magnitude, hn::Set(du, 112U << 23U)), half_unit));
  const auto beside_half = hn::Add(hn::BitCast(d, magnitude), hn::Set(d, 0.5F));
  const auto subnormal = hn::Sub(hn::BitCast(du, beside_half), hn::Set(du, 0x3f000000));
  const auto nan = hn::Or(hn::Set(du, 0x7e00), hn::And(shifted, hn::Set(du, 0x3ff)));
  const auto infinite = hn::IfThenElse(hn::Gt(magnitude, hn::Set(du, 0x7f800000)), nan, hn::Set(du, 0x7c00));
  const auto finite = hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x38800000)), subnormal, normal);
  return Narrowed(d, hn::Or(sign, hn::IfThenElse(hn::Lt(magnitude, hn::Set(du, 0x47800000)), finite, infinite)));
}

#endif

inline const std::uint16_t* BitsOf(const bfloat16* elements) { return &elements->bits; }
inline const std::uint16_t* BitsOf(const float16* elements) { return &elements->bits; }
inline std::uint16_t* BitsOf(bfloat16* elements) { return &elements->bits; }
inline std::uint16_t* BitsOf(float16* elements) { return &elements->bits; }

// A vector of elements.
template <class D, typename E>
HWY_INLINE hn::Vec<D> LoadElements(D d, const E* from) {
  if constexpr (is_half<E>) {
    return Promote(d, E(), hn::LoadU(HalfBits<D>(), BitsOf(from)));
  } else {
    return hn::LoadU(d, from);
  }
}
template <class D, typename E>
HWY_INLINE void StoreElements(hn::Vec<D> values, D d, E* to) {
  if constexpr (is_half<E>) {
    hn::StoreU(Demote(d, E(), values), HalfBits<D>(), BitsOf(to));
  } else {
    hn::StoreU(values, d, to);
  }
}

// The first `count` elements of a vector; nothing beyond them is read or written.
template <class D, typename E>
HWY_INLINE hn::Vec<D> LoadFewElements(D d, const E* from, std::size_t count) {
  if constexpr (is_half<E>) {
    return Promote(d, E(), LoadFew(HalfBits<D>(), BitsOf(from), count));
  } else {
    return LoadFew(d, from, count);
  }
}
template <class D, typename E>
HWY_INLINE void StoreFewElements(hn::Vec<D> values, std::size_t count, D d, E* to) {
  if constexpr (is_half<E>) {
    StoreFew(Demote(d, E(), values), count, HalfBits<D>(), BitsOf(to));
  } else {
    StoreFew(values, count, d, to);
  }
}

// Past the caches. `to` is aligned to the size of the vector of elements.
template <class D, typename E>
HWY_INLINE void StreamElements(hn::Vec<D> values, D d, E* to) {
  if constexpr (!is_half<E>) {
    hn::Stream(values, d, to);
  } else if constexpr (hn::MaxLanes(D()) * sizeof(E) >= 16) {
    hn::Stream(Demote(d, E(), values), HalfBits<D>(), BitsOf(to));
  } else {  // Stream writes 16 bytes at least
    StoreElements(values, d, to);
  }
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_SIMD_ELEMENTS_INL_H_

#include "tensor/half_kernels.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "simd/target.h"
#include "tensor/conversions.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tensor/half_kernels.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;
using DU = hn::RebindToUnsigned<DF>;
using DI = hn::RebindToSigned<DF>;
using DH = hn::Rebind<std::uint16_t, DF>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;
using VH = hn::Vec<DH>;

HWY_INLINE VU Bits(std::uint32_t value) { return hn::Set(DU(), value); }

// The same formulas as in tensor/conversions.h.
struct Bfloat16 {
  using Element = bfloat16;
  static HWY_INLINE VF Promote(VH bits) { return hn::BitCast(DF(), hn::ShiftLeft<16>(hn::PromoteTo(DU(), bits))); }
  static HWY_INLINE VU Demote(VF value) {
    const VU bits = hn::BitCast(DU(), value);
    const VU upper = hn::ShiftRight<16>(bits);
    const VU rounded = hn::Add(bits, hn::Add(Bits(0x7fff), hn::And(upper, Bits(1))));
    const auto is_number = hn::RebindMask(DU(), hn::Eq(value, value));
    return hn::IfThenElse(is_number, hn::ShiftRight<16>(rounded), hn::Or(upper, Bits(0x40)));
  }
};

#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2 && !defined(HWY_DISABLE_F16C)
struct Float16 {
  using Element = float16;
  using D16 = hn::Rebind<hwy::float16_t, DF>;
  static HWY_INLINE VF Promote(VH bits) { return hn::PromoteTo(DF(), hn::BitCast(D16(), bits)); }
  static HWY_INLINE VU Demote(VF value) { return hn::PromoteTo(DU(), hn::BitCast(DH(), hn::DemoteTo(D16(), value))); }
};
#else
struct Float16 {
  using Element = float16;
  static HWY_INLINE VF Promote(VH bits) {
    const VU wide = hn::PromoteTo(DU(), bits);
    const VU sign = hn::ShiftLeft<16>(hn::And(wide, Bits(0x8000)));
    const VU magnitude = hn::ShiftLeft<13>(hn::And(wide, Bits(0x7fff)));
    const VU finite = hn::BitCast(DU(), hn::Mul(hn::BitCast(DF(), magnitude), hn::Set(DF(), 0x1p112F)));
    const VU other = hn::Or(magnitude, hn::IfThenElseZero(hn::Gt(magnitude, Bits(0x7c00U << 13U)), Bits(0x00400000)));
    const VU result = hn::IfThenElse(hn::Lt(magnitude, Bits(0x7c00U << 13U)), finite, hn::Or(other, Bits(0x7f800000)));
    return hn::BitCast(DF(), hn::Or(sign, result));
  }
  static HWY_INLINE VU Demote(VF value) {
    const VU bits = hn::BitCast(DU(), value);
    const VU sign = hn::And(hn::ShiftRight<16>(bits), Bits(0x8000));
    const VU magnitude = hn::And(bits, Bits(0x7fffffff));
    const VU shifted = hn::ShiftRight<13>(magnitude);
    const VU normal = hn::ShiftRight<13>(
        hn::Add(hn::Sub(magnitude, Bits(112U << 23U)), hn::Add(Bits(0xfff), hn::And(shifted, Bits(1)))));
    const VF beside_half = hn::Add(hn::BitCast(DF(), magnitude), hn::Set(DF(), 0.5F));
    const VU subnormal = hn::Sub(hn::BitCast(DU(), beside_half), Bits(0x3f000000));
    const VU infinite = hn::IfThenElse(hn::Gt(magnitude, Bits(0x7f800000)),
                                       hn::Or(Bits(0x7e00), hn::And(shifted, Bits(0x3ff))), Bits(0x7c00));
    const VU finite = hn::IfThenElse(hn::Lt(magnitude, Bits(0x38800000)), subnormal, normal);
    return hn::Or(sign, hn::IfThenElse(hn::Lt(magnitude, Bits(0x47800000)), finite, infinite));
  }
};
#endif

// Vectors of which the last one may share elements with the one before; single elements where there are fewer than a
// vector has.
template <typename One, typename Many>
HWY_INLINE void ForVectors(Index count, const One& one, const Many& many) {
  const auto width = static_cast<Index>(hn::Lanes(DF()));
  if (count < width) {
    for (Index i = 0; i < count; ++i) one(i);
    return;
  }
  for (Index i = 0; i + width <= count; i += width) many(i);
  if (count % width != 0) many(count - width);
}

template <typename Type>
HWY_INLINE void PromoteAll(const std::uint16_t* from, Index count, float* to) {
  ForVectors(
      count, [&](Index i) { to[i] = to_float32(typename Type::Element{from[i]}); },
      [&](Index i) HWY_ATTR { hn::StoreU(Type::Promote(hn::LoadU(DH(), from + i)), DF(), to + i); });
}

template <typename Type>
HWY_INLINE VH DemoteVector(const float* from) {
  return hn::DemoteTo(DH(), hn::BitCast(DI(), Type::Demote(hn::LoadU(DF(), from))));
}

template <typename Type>
HWY_INLINE void DemoteAll(const float* from, Index count, std::uint16_t* to, bool streamed) {
  using Element = typename Type::Element;
  // Stream writes 16 bytes at least.
  constexpr bool can_stream = hn::MaxLanes(DH()) * sizeof(std::uint16_t) >= 16;
  const auto one = [&](Index i) { to[i] = convert<Element>(from[i]).bits; };
  const auto many = [&](Index i) HWY_ATTR { hn::StoreU(DemoteVector<Type>(from + i), DH(), to + i); };
  if (!can_stream || !streamed) {
    ForVectors(count, one, many);
    return;
  }
  // Whole lines past the caches.
  constexpr std::size_t line = 64;
  const auto line_elements = static_cast<Index>(line / sizeof(std::uint16_t));
  const auto beyond = static_cast<Index>(reinterpret_cast<std::uintptr_t>(to) % line / sizeof(std::uint16_t));
  const Index head = std::min((line_elements - beyond) % line_elements, count);
  ForVectors(head, one, many);
  const Index end = head + (count - head) / line_elements * line_elements;
  const auto width = static_cast<Index>(hn::Lanes(DF()));
  for (Index i = head; i < end; i += width) hn::Stream(DemoteVector<Type>(from + i), DH(), to + i);
  from += end;
  to += end;
  ForVectors(count - end, one, many);
}

void PromoteBfloat16(const std::uint16_t* from, Index count, float* to) { PromoteAll<Bfloat16>(from, count, to); }
void PromoteFloat16(const std::uint16_t* from, Index count, float* to) { PromoteAll<Float16>(from, count, to); }
void DemoteBfloat16(const float* from, Index count, std::uint16_t* to, bool streamed) {
  DemoteAll<Bfloat16>(from, count, to, streamed);
}
void DemoteFloat16(const float* from, Index count, std::uint16_t* to, bool streamed) {
  DemoteAll<Float16>(from, count, to, streamed);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(PromoteBfloat16);
HWY_EXPORT(PromoteFloat16);
HWY_EXPORT(DemoteBfloat16);
HWY_EXPORT(DemoteFloat16);

void promote(const bfloat16* from, Index count, float* to) {
  HWY_DISPATCH_TABLE(PromoteBfloat16)[active_target_index()](&from->bits, count, to);
}
void promote(const float16* from, Index count, float* to) {
  HWY_DISPATCH_TABLE(PromoteFloat16)[active_target_index()](&from->bits, count, to);
}
void demote(const float* from, Index count, bfloat16* to, bool streamed) {
  HWY_DISPATCH_TABLE(DemoteBfloat16)[active_target_index()](from, count, &to->bits, streamed);
}
void demote(const float* from, Index count, float16* to, bool streamed) {
  HWY_DISPATCH_TABLE(DemoteFloat16)[active_target_index()](from, count, &to->bits, streamed);
}

}  // namespace exactnorm
#endif  // HWY_ONCE

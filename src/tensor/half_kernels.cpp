#include "tensor/half_kernels.h"

#include "simd/target.h"
#include "tensor/conversions.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tensor/half_kernels.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "simd/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DF = hn::CappedTag<float, 16>;

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

template <typename E>
HWY_INLINE void PromoteAll(const E* from, Index count, float* to) {
  ForVectors(
      count, [&](Index i) { to[i] = convert<float>(from[i]); },
      [&](Index i) HWY_ATTR { hn::StoreU(LoadElements(DF(), from + i), DF(), to + i); });
}

template <typename E>
HWY_INLINE void DemoteAll(const float* from, Index count, E* to) {
  ForVectors(
      count, [&](Index i) { to[i] = convert<E>(from[i]); },
      [&](Index i) HWY_ATTR { StoreElements(hn::LoadU(DF(), from + i), DF(), to + i); });
}

void PromoteBfloat16(const bfloat16* from, Index count, float* to) { PromoteAll(from, count, to); }
void PromoteFloat16(const float16* from, Index count, float* to) { PromoteAll(from, count, to); }
void DemoteBfloat16(const float* from, Index count, bfloat16* to) { DemoteAll(from, count, to); }
void DemoteFloat16(const float* from, Index count, float16* to) { DemoteAll(from, count, to); }

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(PromoteBfloat16);
HWY_EXPORT(PromoteFloat16);
HWY_EXPORT(DemoteBfloat16);
HWY_EXPORT(DemoteFloat16);

void promote(const bfloat16* from, Index count, float* to) {
  HWY_DISPATCH_TABLE(PromoteBfloat16)[active_target_index()](from, count, to);
}
void promote(const float16* from, Index count, float* to) {
  HWY_DISPATCH_TABLE(PromoteFloat16)[active_target_index()](from, count, to);
}
void demote(const float* from, Index count, bfloat16* to) {
  HWY_DISPATCH_TABLE(DemoteBfloat16)[active_target_index()](from, count, to);
}
void demote(const float* from, Index count, float16* to) {
  HWY_DISPATCH_TABLE(DemoteFloat16)[active_target_index()](from, count, to);
}

}  // namespace exactnorm
#endif  // HWY_ONCE

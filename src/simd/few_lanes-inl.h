// Per-target code: included once for each instruction set by what loads or stores fewer elements than a vector has.

#if defined(EXACTNORM_SIMD_FEW_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_SIMD_FEW_LANES_INL_H_
#undef EXACTNORM_SIMD_FEW_LANES_INL_H_
#else
#define EXACTNORM_SIMD_FEW_LANES_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The first `count` lanes from memory, zeros in the others. Nothing beyond `count` elements is read.
template <class D>
HWY_INLINE hn::Vec<D> LoadFew(D d, const hn::TFromD<D>* from, std::size_t count) {
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN hn::TFromD<D> lanes[hn::MaxLanes(D())] = {};
  std::copy_n(from, count, lanes);
  return hn::Load(d, lanes);
#else
  return hn::MaskedLoad(hn::FirstN(d, count), d, from);
#endif
}

// The first `count` lanes to memory. Nothing beyond `count` elements is written.
template <class D>
HWY_INLINE void StoreFew(hn::Vec<D> values, std::size_t count, D d, hn::TFromD<D>* to) {
#if HWY_MEM_OPS_MIGHT_FAULT
  HWY_ALIGN hn::TFromD<D> lanes[hn::MaxLanes(D())];
  hn::Store(values, d, lanes);
  std::copy_n(lanes, count, to);
#else
  hn::BlendedStore(values, hn::FirstN(d, count), d, to);
#endif
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_SIMD_FEW_LANES_INL_H_

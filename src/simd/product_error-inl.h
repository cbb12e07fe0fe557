// Per-target code: included once for each instruction set by what multiplies exactly.

#if defined(EXACTNORM_SIMD_PRODUCT_ERROR_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_SIMD_PRODUCT_ERROR_INL_H_
#undef EXACTNORM_SIMD_PRODUCT_ERROR_INL_H_
#else
#define EXACTNORM_SIMD_PRODUCT_ERROR_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {

// a * b = product + error, exactly (Veltkamp and Dekker, 1971, where there is no fused multiply-add). `product`
// is a * b as float64 rounds it.
template <typename Vector>
HWY_INLINE Vector ProductError(Vector a, Vector b, Vector product) {
  namespace hn = hwy::HWY_NAMESPACE;
#if HWY_NATIVE_FMA
  return hn::MulSub(a, b, product);
#else
  const Vector splitter = hn::Set(hn::DFromV<Vector>(), 134217729.0);  // 2^27 + 1
  const Vector a_scaled = hn::Mul(a, splitter);
  const Vector b_scaled = hn::Mul(b, splitter);
  const Vector a_high = hn::Sub(a_scaled, hn::Sub(a_scaled, a));
  const Vector b_high = hn::Sub(b_scaled, hn::Sub(b_scaled, b));
  const Vector a_low = hn::Sub(a, a_high);
  const Vector b_low = hn::Sub(b, b_high);
  const Vector first = hn::Sub(hn::Mul(a_high, b_high), product);
  const Vector second = hn::Add(first, hn::Mul(a_high, b_low));
  return hn::Add(hn::Add(second, hn::Mul(a_low, b_high)), hn::Mul(a_low, b_low));
#endif
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_SIMD_PRODUCT_ERROR_INL_H_

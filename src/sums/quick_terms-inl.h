// Per-target code: included once for each instruction set by quick_kernels.cpp. What a vector of elements adds to sums.

#if defined(EXACTNORM_SUMS_QUICK_TERMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_SUMS_QUICK_TERMS_INL_H_
#undef EXACTNORM_SUMS_QUICK_TERMS_INL_H_
#else
#define EXACTNORM_SUMS_QUICK_TERMS_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>

#include "simd/elements-inl.h"
#include "sums/quick_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using QuickD = hn::CappedTag<double, 8>;
using QuickV = hn::Vec<QuickD>;
using QuickM = hn::Mask<QuickD>;
using QuickNarrow = hn::Rebind<float, QuickD>;

// high + low += value, where only the sum of the low parts rounds (Knuth's two-sum).
HWY_INLINE void AddToPair(QuickV value, QuickV& high, QuickV& low) {
  const QuickV sum = hn::Add(high, value);
  const QuickV of_value = hn::Sub(sum, high);
  const QuickV error = hn::Add(hn::Sub(high, hn::Sub(sum, of_value)), hn::Sub(value, of_value));
  high = sum;
  low = hn::Add(low, error);
}

template <typename Element>
HWY_INLINE QuickV Promoted(const Element* from) {
  return hn::PromoteTo(QuickD(), LoadElements(QuickNarrow(), from));
}
template <typename Element>
HWY_INLINE QuickV PromotedFew(const Element* from, std::size_t count) {
  return hn::PromoteTo(QuickD(), LoadFewElements(QuickNarrow(), from, count));
}

// sum + value. Conversions and additions share execution units on some processors (AMD Zen 4), where a multiplication
// by one that is fused with the addition takes another: the same bits, and 1.1 times as fast.
class Adder {
 public:
#if HWY_NATIVE_FMA
  HWY_INLINE Adder() {
    double one = 1;
    // Compilers would make an addition of a product with a constant of one.
    __asm__("" : "+x"(one));
    one_ = hn::Set(QuickD(), one);
  }
  HWY_INLINE QuickV operator()(QuickV sum, QuickV value) const { return hn::MulAdd(value, one_, sum); }
  // value - centre
  HWY_INLINE QuickV Difference(QuickV value, QuickV centre) const { return hn::MulSub(value, one_, centre); }

 private:
  QuickV one_;
#else
  HWY_INLINE QuickV operator()(QuickV sum, QuickV value) const { return hn::Add(sum, value); }
  HWY_INLINE QuickV Difference(QuickV value, QuickV centre) const { return hn::Sub(value, centre); }
#endif
};

// What a vector of elements adds to the sums of its slots.
template <typename Element, bool kGradients, bool kCentred>
struct Terms {
  static constexpr int sums = kGradients ? static_cast<int>(gradient_sums_count) : static_cast<int>(moment_sums);

  // The centre is subtracted by one kind of units or the other, for vectors in `turn`.
  static HWY_INLINE void Add(const Adder& add, int turn, const Element* x, const Element* dy, QuickV centre,
                             QuickV* to) {
    QuickV d = Promoted(x);
    if constexpr (kCentred) d = turn % 2 == 0 ? hn::Sub(d, centre) : add.Difference(d, centre);
    AddTerms(add, kGradients ? Promoted(dy) : d, d, to);
  }

  // The first `count` elements of a vector; nothing beyond them is read.
  static HWY_INLINE void AddFew(const Adder& add, const Element* x, const Element* dy, std::size_t count, QuickV centre,
                                QuickV* to) {
    QuickV d = PromotedFew(x, count);
    if constexpr (kCentred) d = hn::IfThenElseZero(hn::FirstN(QuickD(), count), hn::Sub(d, centre));
    AddTerms(add, kGradients ? PromotedFew(dy, count) : d, d, to);
  }

  // The lanes of a vector that `is_new` names; elements of the others were added before. Loads of whole vectors take
  // less time than those of a few elements.
  static HWY_INLINE void AddNew(const Adder& add, const Element* x, const Element* dy, QuickM is_new, QuickV centre,
                                QuickV* to) {
    QuickV d = Promoted(x);
    if constexpr (kCentred) d = hn::Sub(d, centre);
    d = hn::IfThenElseZero(is_new, d);
    AddTerms(add, kGradients ? hn::IfThenElseZero(is_new, Promoted(dy)) : d, d, to);
  }

 private:
  static HWY_INLINE void AddTerms(const Adder& add, QuickV dy, QuickV d, QuickV* to) {
    if constexpr (kGradients) {
      to[0] = add(to[0], dy);
      to[1] = hn::MulAdd(dy, d, to[1]);
      to[2] = hn::MulAdd(dy, dy, to[2]);
      to[3] = hn::MulAdd(d, d, to[3]);
    } else {
      to[0] = add(to[0], d);
      to[1] = hn::MulAdd(d, d, to[1]);
    }
  }
};

// The last `few` lanes.
HWY_INLINE QuickM LastLanes(Index few) {
  return hn::Not(hn::FirstN(QuickD(), hn::Lanes(QuickD()) - static_cast<std::size_t>(few)));
}

// dy + by; null where there is no dy.
template <typename Element>
HWY_INLINE const Element* Later(const Element* dy, Index by) {
  return dy == nullptr ? nullptr : dy + by;
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_SUMS_QUICK_TERMS_INL_H_

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

// What is summed: moments about 0 or about a centre, or gradients, of all elements or of those in the window of their
// slot.
enum class QuickKind { moments, centred_moments, gradients, windowed_gradients };
template <QuickKind kKind>
inline constexpr bool is_gradient = kKind == QuickKind::gradients || kKind == QuickKind::windowed_gradients;
template <QuickKind kKind>
inline constexpr bool is_centred = kKind != QuickKind::moments;
template <QuickKind kKind>
inline constexpr bool is_windowed = kKind == QuickKind::windowed_gradients;

// What the sums of the slots of a vector need: their centres and windows.
template <QuickKind kKind>
struct SlotVectors {
  using Narrow = hn::Vec<QuickNarrow>;

  // Of one slot, and of those from `at` on.
  static HWY_INLINE SlotVectors OfOne(const QuickSlots& slots, Index at) {
    return {is_centred<kKind> ? hn::Set(QuickD(), slots.centres[at]) : hn::Zero(QuickD()),
            is_windowed<kKind> ? hn::Set(QuickNarrow(), slots.lower[at]) : hn::Zero(QuickNarrow()),
            is_windowed<kKind> ? hn::Set(QuickNarrow(), slots.upper[at]) : hn::Zero(QuickNarrow())};
  }
  static HWY_INLINE SlotVectors OfEach(const QuickSlots& slots, Index at) {
    return {is_centred<kKind> ? hn::LoadU(QuickD(), slots.centres + at) : hn::Zero(QuickD()),
            is_windowed<kKind> ? hn::LoadU(QuickNarrow(), slots.lower + at) : hn::Zero(QuickNarrow()),
            is_windowed<kKind> ? hn::LoadU(QuickNarrow(), slots.upper + at) : hn::Zero(QuickNarrow())};
  }

  HWY_INLINE Narrow InWindow(Narrow x, Narrow dy) const {
    if constexpr (!is_windowed<kKind>) return dy;
    return hn::IfThenElseZero(hn::And(hn::Gt(x, lower), hn::Lt(x, upper)), dy);
  }

  QuickV centre;
  Narrow lower;
  Narrow upper;
};

// What a vector of elements adds to the sums of its slots.
template <typename Element, QuickKind kKind>
struct Terms {
  using Slots = SlotVectors<kKind>;
  using Narrow = hn::Vec<QuickNarrow>;
  static constexpr int sums =
      is_gradient<kKind> ? static_cast<int>(gradient_sums_count) : static_cast<int>(moment_sums);

  // The centre is subtracted by one kind of units or the other, for vectors in `turn`.
  static HWY_INLINE void Add(const Adder& add, int turn, const Element* x, const Element* dy, const Slots& slots,
                             QuickV* to) {
    const Narrow narrow = LoadElements(QuickNarrow(), x);
    QuickV d = hn::PromoteTo(QuickD(), narrow);
    if constexpr (is_centred<kKind>) d = turn % 2 == 0 ? hn::Sub(d, slots.centre) : add.Difference(d, slots.centre);
    AddTerms(add, is_gradient<kKind> ? PromotedDy(dy, narrow, slots) : d, d, to);
  }

  // The first `count` elements of a vector; nothing beyond them is read.
  static HWY_INLINE void AddFew(const Adder& add, const Element* x, const Element* dy, std::size_t count,
                                const Slots& slots, QuickV* to) {
    const Narrow narrow = LoadFewElements(QuickNarrow(), x, count);
    QuickV d = hn::PromoteTo(QuickD(), narrow);
    if constexpr (is_centred<kKind>) {
      d = hn::IfThenElseZero(hn::FirstN(QuickD(), count), hn::Sub(d, slots.centre));
    }
    QuickV first = d;
    if constexpr (is_gradient<kKind>) {
      first = hn::PromoteTo(QuickD(), slots.InWindow(narrow, LoadFewElements(QuickNarrow(), dy, count)));
    }
    AddTerms(add, first, d, to);
  }

  // The lanes of a vector that `is_new` names; elements of the others were added before. Loads of whole vectors take
  // less time than those of a few elements.
  static HWY_INLINE void AddNew(const Adder& add, const Element* x, const Element* dy, QuickM is_new,
                                const Slots& slots, QuickV* to) {
    const Narrow narrow = LoadElements(QuickNarrow(), x);
    QuickV d = hn::PromoteTo(QuickD(), narrow);
    if constexpr (is_centred<kKind>) d = hn::Sub(d, slots.centre);
    d = hn::IfThenElseZero(is_new, d);
    AddTerms(add, is_gradient<kKind> ? hn::IfThenElseZero(is_new, PromotedDy(dy, narrow, slots)) : d, d, to);
  }

 private:
  static HWY_INLINE QuickV PromotedDy(const Element* dy, Narrow x, const Slots& slots) {
    return hn::PromoteTo(QuickD(), slots.InWindow(x, LoadElements(QuickNarrow(), dy)));
  }

  static HWY_INLINE void AddTerms(const Adder& add, QuickV dy, QuickV d, QuickV* to) {
    if constexpr (is_gradient<kKind>) {
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

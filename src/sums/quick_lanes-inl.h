// Per-target code: included once for each instruction set by quick_kernels.cpp. Lanes: each lane belongs to a slot
// of its own.

#if defined(EXACTNORM_SUMS_QUICK_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_SUMS_QUICK_LANES_INL_H_
#undef EXACTNORM_SUMS_QUICK_LANES_INL_H_
#else
#define EXACTNORM_SUMS_QUICK_LANES_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>

#include "simd/cache_line.h"
#include "simd/prefetch.h"
#include "sums/quick_terms-inl.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A few vectors of columns at a time go down the rows, with their sums in registers.
template <typename Element, QuickKind kKind>
class LaneAdder {
 public:
  static HWY_INLINE void Run(const QuickBlock<Element>& block, const QuickSlots& slots, const QuickColumns& to) {
    // Rows whose lines stay in L1 cache from one strip to the next, as strips share lines.
    for (Index row = 0; row < block.rows; row += kMostRows) {
      QuickBlock<Element> some = block;
      some.x += row * block.x_stride;
      some.dy = Later(block.dy, row * block.dy_stride);
      some.rows = std::min(kMostRows, block.rows - row);
      AddRows(some, slots, to);
    }
  }

 private:
  using Term = Terms<Element, kKind>;
  static constexpr int kSums = Term::sums;
  static constexpr Index kWidth = static_cast<Index>(hn::MaxLanes(QuickD()));
  // As many as registers hold the sums of.
  static constexpr int kVectors = (HWY_TARGET <= HWY_AVX3 ? 16 : 8) / kSums;
  static constexpr Index kLine = line_size<Element>;
  static constexpr Index kMostRows = 32;
  static_assert(kMostRows + 2 <= quick_chain);

  static HWY_INLINE void AddRows(const QuickBlock<Element>& block, const QuickSlots& slots, const QuickColumns& to) {
    Index at = 0;
    Index prefetched = 0;
    for (; at + kVectors * kWidth <= block.count; at += kVectors * kWidth) {
      AddStrip<kVectors>(block, slots, to, at, kWidth, prefetched);
    }
    for (; at < block.count; at += kWidth) {
      AddStrip<1>(block, slots, to, at, std::min(kWidth, block.count - at), prefetched);
    }
  }

  // `few` columns of the last vector.
  template <int kCount>
  static HWY_INLINE void AddStrip(const QuickBlock<Element>& block, const QuickSlots& slots, const QuickColumns& to,
                                  Index at, Index few, Index& prefetched) {
    const Adder add;
    QuickV sums[kCount][kSums];
    SlotVectors<kKind> of_slots[kCount];
    for (int i = 0; i < kCount; ++i) {
      of_slots[i] = SlotVectors<kKind>::OfEach(slots, at + i * kWidth);
      for (int s = 0; s < kSums; ++s) sums[i][s] = hn::Zero(QuickD());
    }
    const Element* x = block.x + at;
    const Element* dy = Later(block.dy, at);
    const bool is_whole = kCount > 1 || few == kWidth;
    for (Index row = 0; row < block.rows; ++row) {
      if (is_whole) {
        if (block.prefetch != 0) Prefetch(block, kCount * kWidth, prefetched);
        for (int i = 0; i < kCount; ++i) Term::Add(add, i, x + i * kWidth, Later(dy, i * kWidth), of_slots[i], sums[i]);
      } else {
        Term::AddFew(add, x, dy, static_cast<std::size_t>(few), of_slots[0], sums[0]);
      }
      x += block.x_stride;
      dy = Later(dy, block.dy_stride);
    }
    for (int i = 0; i < kCount; ++i) {
      for (int s = 0; s < kSums; ++s) {
        double* const high_at = to.high[s] + at + i * kWidth;
        double* const low_at = to.low[s] + at + i * kWidth;
        QuickV high = hn::LoadU(QuickD(), high_at);
        QuickV low = hn::LoadU(QuickD(), low_at);
        AddToPair(sums[i][s], high, low);
        hn::StoreU(high, QuickD(), high_at);
        hn::StoreU(low, QuickD(), low_at);
      }
    }
  }

  // The lines of the next block, in the order of memory.
  static HWY_INLINE void Prefetch(const QuickBlock<Element>& block, Index count, Index& prefetched) {
    for (Index i = 0; i < count; i += kLine) {
      prefetch_to_l2(block.x + block.prefetch + prefetched);
      if constexpr (is_gradient<kKind>) prefetch_to_l2(block.dy + block.prefetch + prefetched);
      prefetched += kLine;
    }
  }
};

template <QuickKind kKind, typename Element>
HWY_NOINLINE void AddLanes(const QuickBlock<Element>& block, const QuickSlots& slots, const QuickColumns& to) {
  LaneAdder<Element, kKind>::Run(block, slots, to);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_SUMS_QUICK_LANES_INL_H_

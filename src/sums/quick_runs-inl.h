// Per-target code: included once for each instruction set by quick_kernels.cpp. Runs: all lanes belong to one slot.

#if defined(EXACTNORM_SUMS_QUICK_RUNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_SUMS_QUICK_RUNS_INL_H_
#undef EXACTNORM_SUMS_QUICK_RUNS_INL_H_
#else
#define EXACTNORM_SUMS_QUICK_RUNS_INL_H_
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

template <typename Element, QuickKind kKind>
class RunAdder {
 public:
  HWY_INLINE explicit RunAdder(const QuickSlots& slots) : slot_(SlotVectors<kKind>::OfOne(slots, 0)) {
    for (int s = 0; s < kSums; ++s) {
      high_[s] = low_[s] = hn::Zero(QuickD());
      for (int i = 0; i < kChains; ++i) chains_[i][s] = hn::Zero(QuickD());
    }
  }

  HWY_INLINE void Add(const QuickBlock<Element>& block) {
    // Rows of more steps than a chain takes come in parts.
    const Index part = kMostSteps * kChains * static_cast<Index>(hn::Lanes(QuickD()));
    if (block.count <= part) {
      AddRows(block);
      return;
    }
    QuickBlock<Element> row = block;
    row.rows = 1;
    for (Index i = 0; i < block.rows; ++i) {
      for (Index at = 0; at < block.count; at += part) {
        row.x = block.x + i * block.x_stride + at;
        row.dy = Later(block.dy, i * block.dy_stride + at);
        row.count = std::min(part, block.count - at);
        AddRows(row);
      }
    }
  }

  HWY_INLINE void Store(const QuickColumns& to) {
    const bool has_low = flushed_;
    Flush();
    for (int s = 0; s < kSums; ++s) {
      const double sum = hn::GetLane(hn::SumOfLanes(QuickD(), high_[s]));
      const double low = has_low ? hn::GetLane(hn::SumOfLanes(QuickD(), low_[s])) : 0.0;
      add_to_pair(sum, *to.high[s], *to.low[s]);
      *to.low[s] += low;
    }
  }

 private:
  using Term = Terms<Element, kKind>;
  static constexpr int kSums = Term::sums;
  static constexpr int kChains = is_gradient<kKind> ? 2 : 4;
  static constexpr Index kLine = line_size<Element>;
  // Beside the steps of a chain: joining the chains, and the lanes of their sum.
  static constexpr Index kMostSteps = 32;
  static_assert(kMostSteps + 2 + 3 + 1 <= quick_chain);

  // Rows of at most kMostSteps * kChains vectors. What follows the last whole step of each is known before: up to
  // kChains - 1 vectors, and a part of one.
  HWY_INLINE void AddRows(const QuickBlock<Element>& block) {
    const auto width = static_cast<Index>(hn::Lanes(QuickD()));
    const Index rest = block.count % (kChains * width);
    const Index vectors = rest / width;
    if constexpr (kChains == 4) {
      if (vectors == 3) return AddRowsOf<3>(block, rest - 3 * width);
      if (vectors == 2) return AddRowsOf<2>(block, rest - 2 * width);
    }
    vectors == 1 ? AddRowsOf<1>(block, rest - width) : AddRowsOf<0>(block, rest);
  }

  template <int kVectors>
  HWY_INLINE void AddRowsOf(const QuickBlock<Element>& block, Index few) {
    const auto width = static_cast<Index>(hn::Lanes(QuickD()));
    const Index steps = block.count / (kChains * width);
    const Index whole = steps * kChains * width;
    const Index steps_of_row = steps + (whole < block.count ? 1 : 0);
    const QuickM is_new = LastLanes(few);
    const Element* x = block.x;
    const Element* dy = block.dy;
    for (Index row = 0; row < block.rows; ++row) {
      if (steps_ + steps_of_row > kMostSteps) Flush();
      steps_ += steps_of_row;
      for (Index at = 0; at < whole; at += kChains * width) {
        if (block.prefetch != 0) Prefetch(x + at + block.prefetch, Later(dy, at + block.prefetch), kChains * width);
        for (int i = 0; i < kChains; ++i) AddVector(x + at + i * width, Later(dy, at + i * width), i);
      }
      if (block.prefetch != 0 && whole < block.count) {
        Prefetch(x + whole + block.prefetch, Later(dy, whole + block.prefetch), block.count - whole);
      }
      for (int i = 0; i < kVectors; ++i) AddVector(x + whole + i * width, Later(dy, whole + i * width), i);
      if (few != 0 && block.count >= width) {
        const Index last = block.count - width;
        Term::AddNew(add_, x + last, Later(dy, last), is_new, slot_, chains_[kChains - 1]);
      } else if (few != 0) {
        Term::AddFew(add_, x, dy, static_cast<std::size_t>(few), slot_, chains_[kChains - 1]);
      }
      x += block.x_stride;
      dy = Later(dy, block.dy_stride);
    }
  }

  static HWY_INLINE void Prefetch(const Element* x, const Element* dy, Index count) {
    for (Index line = 0; line < count; line += kLine) {
      prefetch_to_l2(x + line);
      if constexpr (is_gradient<kKind>) prefetch_to_l2(dy + line);
    }
  }

  HWY_INLINE void AddVector(const Element* x, const Element* dy, int chain) {
    Term::Add(add_, chain, x, dy, slot_, chains_[chain]);
  }

  HWY_INLINE void Flush() {
    for (int s = 0; s < kSums; ++s) {
      QuickV sum = hn::Add(chains_[0][s], chains_[1][s]);
      if constexpr (kChains == 4) sum = hn::Add(sum, hn::Add(chains_[2][s], chains_[3][s]));
      if (flushed_) {
        AddToPair(sum, high_[s], low_[s]);
      } else {
        high_[s] = sum;
      }
      for (int i = 0; i < kChains; ++i) chains_[i][s] = hn::Zero(QuickD());
    }
    flushed_ = true;
    steps_ = 0;
  }

  Adder add_;
  SlotVectors<kKind> slot_;
  QuickV chains_[kChains][kSums];
  QuickV high_[kSums];
  QuickV low_[kSums];
  Index steps_ = 0;
  bool flushed_ = false;
};

template <QuickKind kKind, typename Element>
HWY_NOINLINE void AddRuns(const QuickBlock<Element>& block, const QuickSlots& slots, const QuickColumns& to) {
  RunAdder<Element, kKind> adder(slots);
  adder.Add(block);
  adder.Store(to);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_SUMS_QUICK_RUNS_INL_H_

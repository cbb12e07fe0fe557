// Per-target code: included once for each instruction set by quick_kernels.cpp. Short runs: some channels at a time, a
// vector of sums for each.

#if defined(EXACTNORM_SUMS_QUICK_SHORT_RUNS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_SUMS_QUICK_SHORT_RUNS_INL_H_
#undef EXACTNORM_SUMS_QUICK_SHORT_RUNS_INL_H_
#else
#define EXACTNORM_SUMS_QUICK_SHORT_RUNS_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cstddef>

#include "sums/quick_runs-inl.h"
#include "sums/quick_terms-inl.h"
#include "traverse/tuning.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <typename Element, QuickKind kKind>
class ShortRunAdder {
 public:
  static HWY_INLINE void Run(const QuickBlock<Element>& block, const QuickSlots& slots, const QuickColumns& to) {
    if constexpr (kWidth < 4) {  // rows are too long for the chains of narrow vectors
      QuickBlock<Element> channel = block;
      for (Index i = 0; i < block.channels; ++i) {
        AddRuns<kKind>(channel, slots.from(i), to.from(i));
        channel.x += block.x_channel_stride;
        channel.dy = Later(channel.dy, block.dy_channel_stride);
      }
      return;
    }
    for (Index first = 0; first < block.channels; first += kChannels) {
      QuickBlock<Element> strip = block;
      strip.x += first * block.x_channel_stride;
      strip.dy = Later(block.dy, first * block.dy_channel_stride);
      strip.channels = std::min(kChannels, block.channels - first);
      RunStrip(strip, slots.from(first), to.from(first));
    }
  }

 private:
  using Term = Terms<Element, kKind>;
  static constexpr int kSums = Term::sums;
  // Channels whose sums fit in L1 cache.
  static constexpr Index kChannels = is_gradient<kKind> ? 32 : 64;
  // Additions of a chain, beside the joining of lanes.
  static constexpr Index kMostSteps = 34;
  static_assert(kMostSteps + 1 + 3 + 2 <= quick_chain);
  static constexpr Index kWidth = static_cast<Index>(hn::MaxLanes(QuickD()));

  using Sums = double[kSums][kChannels][kWidth];

  // How many vectors of a row one chain takes, of which a row has two.
  static constexpr Index StepsOf(Index count) {
    const Index vectors = (count + kWidth - 1) / kWidth;
    return vectors / 2 + 1;
  }

  static HWY_INLINE void RunStrip(const QuickBlock<Element>& block, const QuickSlots& slots, const QuickColumns& to) {
    static_assert(kWidth < 4 || StepsOf(longest_short_run) < kMostSteps);
    HWY_ALIGN Sums sums;
    const Index most_rows = kMostSteps - StepsOf(block.count);
    for (Index row = 0; row < block.rows; row += most_rows) {
      const Index end = std::min(block.rows, row + most_rows);
      for (Index i = row; i < end; ++i) AddRow(block, i, slots, i == row, sums);
      AddToPairs(sums, block.channels, to);
    }
  }

  static HWY_INLINE void AddRow(const QuickBlock<Element>& block, Index row, const QuickSlots& slots, bool is_first,
                                Sums& sums) {
    const Element* x = block.x + row * block.x_stride;
    const Element* dy = Later(block.dy, row * block.dy_stride);
    const Adder add;
    const Index few = block.count % kWidth;
    const Index whole = block.count - few;
    const QuickM is_new = LastLanes(few);
    for (Index channel = 0; channel < block.channels; ++channel) {
      const auto slot = SlotVectors<kKind>::OfOne(slots, channel);
      QuickV chains[2][kSums];
      for (int s = 0; s < kSums; ++s) chains[0][s] = chains[1][s] = hn::Zero(QuickD());
      Index at = 0;
      for (; at + 2 * kWidth <= whole; at += 2 * kWidth) {
        Term::Add(add, 0, x + at, Later(dy, at), slot, chains[0]);
        Term::Add(add, 1, x + at + kWidth, Later(dy, at + kWidth), slot, chains[1]);
      }
      if (at < whole) Term::Add(add, 0, x + at, Later(dy, at), slot, chains[0]);
      if (few != 0 && whole != 0) {
        const Index last = block.count - kWidth;
        Term::AddNew(add, x + last, Later(dy, last), is_new, slot, chains[1]);
      } else if (few != 0) {
        Term::AddFew(add, x, dy, static_cast<std::size_t>(few), slot, chains[1]);
      }
      for (int s = 0; s < kSums; ++s) {
        QuickV sum = add(chains[0][s], chains[1][s]);
        if (!is_first) sum = hn::Add(sum, hn::Load(QuickD(), sums[s][channel]));
        hn::Store(sum, QuickD(), sums[s][channel]);
      }
      x += block.x_channel_stride;
      dy = Later(dy, block.dy_channel_stride);
    }
  }

  static HWY_INLINE void AddToPairs(const Sums& sums, Index channels, const QuickColumns& to) {
    for (int s = 0; s < kSums; ++s) {
      for (Index channel = 0; channel < channels; ++channel) {
        const double sum = hn::GetLane(hn::SumOfLanes(QuickD(), hn::Load(QuickD(), sums[s][channel])));
        add_to_pair(sum, to.high[s][channel], to.low[s][channel]);
      }
    }
  }
};

template <QuickKind kKind, typename Element>
HWY_NOINLINE void AddShortRuns(const QuickBlock<Element>& block, const QuickSlots& slots, const QuickColumns& to) {
  ShortRunAdder<Element, kKind>::Run(block, slots, to);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_SUMS_QUICK_SHORT_RUNS_INL_H_

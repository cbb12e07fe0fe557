#include "sums/quick_kernels.h"

#include <algorithm>

#include "simd/cache_line.h"
#include "simd/prefetch.h"
#include "simd/target.h"
#include "traverse/tuning.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "sums/quick_kernels.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "simd/elements-inl.h"

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

// ---- runs: all lanes belong to one slot

template <typename Element, bool kGradients, bool kCentred>
class RunAdder {
 public:
  HWY_INLINE explicit RunAdder(const double* centre) : centre_(hn::Set(QuickD(), kCentred ? *centre : 0.0)) {
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
  using Term = Terms<Element, kGradients, kCentred>;
  static constexpr int kSums = Term::sums;
  static constexpr int kChains = kGradients ? 2 : 4;
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
        Term::AddNew(add_, x + last, Later(dy, last), is_new, centre_, chains_[kChains - 1]);
      } else if (few != 0) {
        Term::AddFew(add_, x, dy, static_cast<std::size_t>(few), centre_, chains_[kChains - 1]);
      }
      x += block.x_stride;
      dy = Later(dy, block.dy_stride);
    }
  }

  static HWY_INLINE void Prefetch(const Element* x, const Element* dy, Index count) {
    for (Index line = 0; line < count; line += kLine) {
      prefetch_to_l2(x + line);
      if constexpr (kGradients) prefetch_to_l2(dy + line);
    }
  }

  HWY_INLINE void AddVector(const Element* x, const Element* dy, int chain) {
    Term::Add(add_, chain, x, dy, centre_, chains_[chain]);
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
  QuickV centre_;
  QuickV chains_[kChains][kSums];
  QuickV high_[kSums];
  QuickV low_[kSums];
  Index steps_ = 0;
  bool flushed_ = false;
};

template <bool kGradients, bool kCentred, typename Element>
HWY_INLINE void AddRuns(const QuickBlock<Element>& block, const double* centre, const QuickColumns& to) {
  RunAdder<Element, kGradients, kCentred> adder(centre);
  adder.Add(block);
  adder.Store(to);
}

// ---- lanes: each lane belongs to a slot of its own

// A few vectors of columns at a time go down the rows, with their sums in registers.
template <typename Element, bool kGradients, bool kCentred>
class LaneAdder {
 public:
  static HWY_INLINE void Run(const QuickBlock<Element>& block, const double* centres, const QuickColumns& to) {
    // Rows whose lines stay in L1 cache from one strip to the next, as strips share lines.
    for (Index row = 0; row < block.rows; row += kMostRows) {
      QuickBlock<Element> some = block;
      some.x += row * block.x_stride;
      some.dy = Later(block.dy, row * block.dy_stride);
      some.rows = std::min(kMostRows, block.rows - row);
      AddRows(some, centres, to);
    }
  }

 private:
  using Term = Terms<Element, kGradients, kCentred>;
  static constexpr int kSums = Term::sums;
  static constexpr Index kWidth = static_cast<Index>(hn::MaxLanes(QuickD()));
  // As many as registers hold the sums of.
  static constexpr int kVectors = (HWY_TARGET <= HWY_AVX3 ? 16 : 8) / kSums;
  static constexpr Index kLine = line_size<Element>;
  static constexpr Index kMostRows = 32;
  static_assert(kMostRows + 2 <= quick_chain);

  static HWY_INLINE void AddRows(const QuickBlock<Element>& block, const double* centres, const QuickColumns& to) {
    Index at = 0;
    Index prefetched = 0;
    for (; at + kVectors * kWidth <= block.count; at += kVectors * kWidth) {
      AddStrip<kVectors>(block, centres, to, at, kWidth, prefetched);
    }
    for (; at < block.count; at += kWidth) {
      AddStrip<1>(block, centres, to, at, std::min(kWidth, block.count - at), prefetched);
    }
  }

  // `few` columns of the last vector.
  template <int kCount>
  static HWY_INLINE void AddStrip(const QuickBlock<Element>& block, const double* centres, const QuickColumns& to,
                                  Index at, Index few, Index& prefetched) {
    const Adder add;
    QuickV sums[kCount][kSums];
    QuickV centre[kCount];
    for (int i = 0; i < kCount; ++i) {
      centre[i] = kCentred ? hn::LoadU(QuickD(), centres + at + i * kWidth) : hn::Zero(QuickD());
      for (int s = 0; s < kSums; ++s) sums[i][s] = hn::Zero(QuickD());
    }
    const Element* x = block.x + at;
    const Element* dy = Later(block.dy, at);
    const bool is_whole = kCount > 1 || few == kWidth;
    for (Index row = 0; row < block.rows; ++row) {
      if (is_whole) {
        if (block.prefetch != 0) Prefetch(block, kCount * kWidth, prefetched);
        for (int i = 0; i < kCount; ++i) Term::Add(add, i, x + i * kWidth, Later(dy, i * kWidth), centre[i], sums[i]);
      } else {
        Term::AddFew(add, x, dy, static_cast<std::size_t>(few), centre[0], sums[0]);
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
      if constexpr (kGradients) prefetch_to_l2(block.dy + block.prefetch + prefetched);
      prefetched += kLine;
    }
  }
};

// ---- short runs: some channels at a time, a vector of sums for each

template <typename Element, bool kGradients, bool kCentred>
class ShortRunAdder {
 public:
  static HWY_INLINE void Run(const QuickBlock<Element>& block, const double* centres, const QuickColumns& to) {
    if constexpr (kWidth < 4) {  // rows are too long for the chains of narrow vectors
      QuickBlock<Element> channel = block;
      for (Index i = 0; i < block.channels; ++i) {
        AddRuns<kGradients, kCentred>(channel, kCentred ? centres + i : nullptr, to.from(i));
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
      RunStrip(strip, kCentred ? centres + first : nullptr, to.from(first));
    }
  }

 private:
  using Term = Terms<Element, kGradients, kCentred>;
  static constexpr int kSums = Term::sums;
  // Channels whose sums fit in L1 cache.
  static constexpr Index kChannels = kGradients ? 32 : 64;
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

  static HWY_INLINE void RunStrip(const QuickBlock<Element>& block, const double* centres, const QuickColumns& to) {
    static_assert(kWidth < 4 || StepsOf(longest_short_run) < kMostSteps);
    HWY_ALIGN Sums sums;
    const Index most_rows = kMostSteps - StepsOf(block.count);
    for (Index row = 0; row < block.rows; row += most_rows) {
      const Index end = std::min(block.rows, row + most_rows);
      for (Index i = row; i < end; ++i) AddRow(block, i, centres, i == row, sums);
      AddToPairs(sums, block.channels, to);
    }
  }

  static HWY_INLINE void AddRow(const QuickBlock<Element>& block, Index row, const double* centres, bool is_first,
                                Sums& sums) {
    const Element* x = block.x + row * block.x_stride;
    const Element* dy = Later(block.dy, row * block.dy_stride);
    const Adder add;
    const Index few = block.count % kWidth;
    const Index whole = block.count - few;
    const QuickM is_new = LastLanes(few);
    for (Index channel = 0; channel < block.channels; ++channel) {
      const QuickV centre = hn::Set(QuickD(), kCentred ? centres[channel] : 0.0);
      QuickV chains[2][kSums];
      for (int s = 0; s < kSums; ++s) chains[0][s] = chains[1][s] = hn::Zero(QuickD());
      Index at = 0;
      for (; at + 2 * kWidth <= whole; at += 2 * kWidth) {
        Term::Add(add, 0, x + at, Later(dy, at), centre, chains[0]);
        Term::Add(add, 1, x + at + kWidth, Later(dy, at + kWidth), centre, chains[1]);
      }
      if (at < whole) Term::Add(add, 0, x + at, Later(dy, at), centre, chains[0]);
      if (few != 0 && whole != 0) {
        const Index last = block.count - kWidth;
        Term::AddNew(add, x + last, Later(dy, last), is_new, centre, chains[1]);
      } else if (few != 0) {
        Term::AddFew(add, x, dy, static_cast<std::size_t>(few), centre, chains[1]);
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

template <bool kGradients, bool kCentred, typename Element>
HWY_INLINE void AddBlock(QuickWay way, const QuickBlock<Element>& block, const double* centres,
                         const QuickColumns& to) {
  switch (way) {
    case QuickWay::runs:
      return AddRuns<kGradients, kCentred>(block, centres, to);
    case QuickWay::short_runs:
      return ShortRunAdder<Element, kGradients, kCentred>::Run(block, centres, to);
    case QuickWay::lanes:
      return LaneAdder<Element, kGradients, kCentred>::Run(block, centres, to);
  }
}

template <typename Element>
HWY_INLINE void Add(QuickWay way, const QuickBlock<Element>& block, const double* centres, const QuickColumns& to) {
  if (block.dy != nullptr) {
    AddBlock<true, true>(way, block, centres, to);
  } else if (centres != nullptr) {
    AddBlock<false, true>(way, block, centres, to);
  } else {
    AddBlock<false, false>(way, block, centres, to);
  }
}

void AddFloat(QuickWay way, const QuickBlock<float>& block, const double* centres, const QuickColumns& to) {
  Add(way, block, centres, to);
}
void AddBfloat16(QuickWay way, const QuickBlock<bfloat16>& block, const double* centres, const QuickColumns& to) {
  Add(way, block, centres, to);
}
void AddFloat16(QuickWay way, const QuickBlock<float16>& block, const double* centres, const QuickColumns& to) {
  Add(way, block, centres, to);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(AddFloat);
HWY_EXPORT(AddBfloat16);
HWY_EXPORT(AddFloat16);

template <>
void add_quick(QuickWay way, const QuickBlock<float>& block, const double* centres, const QuickColumns& to) {
  HWY_DISPATCH_TABLE(AddFloat)[active_target_index()](way, block, centres, to);
}
template <>
void add_quick(QuickWay way, const QuickBlock<bfloat16>& block, const double* centres, const QuickColumns& to) {
  HWY_DISPATCH_TABLE(AddBfloat16)[active_target_index()](way, block, centres, to);
}
template <>
void add_quick(QuickWay way, const QuickBlock<float16>& block, const double* centres, const QuickColumns& to) {
  HWY_DISPATCH_TABLE(AddFloat16)[active_target_index()](way, block, centres, to);
}

}  // namespace exactnorm
#endif  // HWY_ONCE

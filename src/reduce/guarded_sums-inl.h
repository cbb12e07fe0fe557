// Per-target code: included once for each instruction set by guarded_sums.cpp.

#if defined(EXACTNORM_REDUCE_GUARDED_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_REDUCE_GUARDED_SUMS_INL_H_
#undef EXACTNORM_REDUCE_GUARDED_SUMS_INL_H_
#else
#define EXACTNORM_REDUCE_GUARDED_SUMS_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>

#include "combine/short_sums.h"
#include "reduce/exact_chain-inl.h"
#include "reduce/guarded_sums.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DNarrow = hn::Rebind<float, D>;
using VNarrow = hn::Vec<DNarrow>;
using DMagnitude = hn::CappedTag<std::uint32_t, tile_lanes>;
using VMagnitude = hn::Vec<DMagnitude>;
using DNarrowMagnitude = hn::Rebind<std::uint32_t, D>;

// Vectors side by side, whose chains of dependent additions overlap; as many as there are registers for.
inline constexpr int kChains = hn::MaxLanes(D()) >= 8 ? 4 : 2;
inline constexpr std::size_t kMagnitudes = kChains * hn::MaxLanes(D()) / hn::MaxLanes(DMagnitude());
inline constexpr Index kStep = kChains * static_cast<Index>(hn::MaxLanes(D()));
static_assert(kStep <= tile_lanes && kMagnitudes <= 2);

HWY_INLINE V Widen(VNarrow values) { return hn::PromoteTo(D(), values); }

// The largest magnitude, and the smallest one less 1, so that zero counts as the largest of all.
template <typename DM>
struct Guard {
  using VM = hn::Vec<DM>;
  VM largest;
  VM smallest;

  HWY_INLINE Guard() : largest(hn::Zero(DM())), smallest(hn::Set(DM(), ~std::uint32_t{0})) {}

  HWY_INLINE void Watch(VM bits) {
    const VM magnitude = hn::And(bits, hn::Set(DM(), 0x7fffffff));
    largest = hn::Max(largest, magnitude);
    smallest = hn::Min(smallest, hn::Sub(magnitude, hn::Set(DM(), 1)));
  }
};

// Whether magnitudes keep within exponents, one per lane or the same in all.
template <Reach kReach, typename DM>
HWY_INLINE bool Keeps(const Guard<DM>& guard, hn::Vec<hn::RebindToSigned<DM>> exponents) {
  const DM d;
  const hn::RebindToSigned<DM> di;
  const auto above = hn::ShiftLeft<23>(hn::Add(exponents, hn::Set(di, 128)));
  const auto low = hn::Add(exponents, hn::Set(di, 127 - guarded_bits(kReach)));
  const auto below = hn::IfThenElseZero(hn::Gt(low, hn::Zero(di)), hn::Sub(hn::ShiftLeft<23>(low), hn::Set(di, 1)));
  const auto too_large = hn::Not(hn::Gt(above, hn::BitCast(di, guard.largest)));
  const auto large_enough = hn::Eq(hn::Max(guard.smallest, hn::BitCast(d, below)), guard.smallest);
  return hn::AllFalse(di, too_large) && hn::AllTrue(d, large_enough);
}

HWY_INLINE void Watch(Guard<DMagnitude>& guard, const float* values) {
  guard.Watch(hn::LoadU(DMagnitude(), reinterpret_cast<const std::uint32_t*>(values)));
}
// Watches kStep neighbouring numbers: one vector of magnitudes, or two, for whose lanes there may be one guard.
template <bool kTogether>
HWY_INLINE void WatchStep(Guard<DMagnitude>& guard_0, Guard<DMagnitude>& guard_1, const float* values) {
  Watch(guard_0, values);
  if constexpr (kMagnitudes == 2) {
    Watch(kTogether ? guard_0 : guard_1, values + hn::Lanes(DMagnitude()));
  }
}
HWY_INLINE void WatchVector(Guard<DNarrowMagnitude>& guard, VNarrow values) {
  guard.Watch(hn::BitCast(DNarrowMagnitude(), values));
}

// The elements of a run that are left after whole vectors.
class Tail {
 public:
  HWY_INLINE explicit Tail(Index count) : count_(count), few_(count % Width()) {
    wanted_ = hn::Ge(hn::Iota(DNarrow(), 0), hn::Set(DNarrow(), static_cast<float>(Width() - few_)));
  }
  // The tail of the run at `values`, and zeros.
  HWY_INLINE VNarrow Load(const float* values) const {
    const DNarrow d;
    if (HWY_LIKELY(count_ >= Width())) {
      return hn::IfThenElseZero(wanted_, hn::LoadU(d, values + count_ - Width()));
    }
    HWY_ALIGN float buffer[tile_lanes] = {};
    std::copy_n(values + count_ - few_, few_, buffer);
    return hn::Load(d, buffer);
  }
  [[nodiscard]] HWY_INLINE bool any() const { return few_ != 0; }

 private:
  static HWY_INLINE Index Width() { return static_cast<Index>(hn::Lanes(DNarrow())); }

  Index count_;
  Index few_;
  hn::Mask<DNarrow> wanted_;
};

// One or two runs in step: those of a and, unless kSquares, of b.
template <Reach kReach, bool kSquares>
class RunSummer {
 public:
  HWY_INLINE RunSummer(Index count, int a_exponent, int b_exponent)
      : count_(count), tail_(count), a_exponent_(a_exponent), b_exponent_(b_exponent) {
    const DInteger d;
    anchors_ = AnchorsOf(a_exponent, b_exponent);
    totals_ = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    Restart();
  }

  HWY_INLINE void Run(const float* a, const float* b, Index ahead) {
    constexpr Index kPair = 2 * static_cast<Index>(hn::MaxLanes(D()));
    const auto width = static_cast<Index>(hn::Lanes(D()));
    Index done = 0;
    while (count_ - done >= kStep) {
      const Index steps = std::min((count_ - done) / kStep, guarded_rows - rows_);
      rows_ += steps;
      for (Index step = 0; step < steps; ++step, done += kStep) {
        Prefetch(a + done + ahead);
        if constexpr (!kSquares) Prefetch(b + done + ahead);
        WatchStep<kTogether>(a_guard_0_, a_guard_1_, a + done);
        if constexpr (!kSquares) WatchStep<kTogether>(b_guard_0_, b_guard_1_, b + done);
        Add(chain_0_, a + done, b + done);
        Add(chain_1_, a + done + width, b + done + width);
        if constexpr (kChains == 4) {
          Add(chain_2_, a + done + 2 * width, b + done + 2 * width);
          Add(chain_3_, a + done + 3 * width, b + done + 3 * width);
        }
      }
      if (rows_ == guarded_rows) Flush();
    }
    if (done == count_) return;
    // Less than a step is left: one more row of some chains.
    ++rows_;
    Prefetch(a + done + ahead);
    if constexpr (!kSquares) Prefetch(b + done + ahead);
    if (kChains == 4 && count_ - done >= kPair) {
      Watch(a_guard_0_, a + done);
      if constexpr (!kSquares) Watch(b_guard_0_, b + done);
      Add(chain_2_, a + done, b + done);
      Add(chain_3_, a + done + width, b + done + width);
      done += kPair;
    }
    if (count_ - done >= width) {
      AddNarrow(chain_0_, hn::LoadU(DNarrow(), a + done), hn::LoadU(DNarrow(), kSquares ? a + done : b + done));
    }
    if (tail_.any()) {
      const VNarrow last = tail_.Load(a);
      AddNarrow(chain_1_, last, kSquares ? last : tail_.Load(b));
    }
    if (rows_ == guarded_rows) Flush();
  }

  HWY_INLINE bool Finish(RunSums& sums) {
    bool kept = AllKeep(a_guard_0_, a_guard_1_, a_guard_narrow_, a_exponent_);
    if constexpr (!kSquares) kept = kept && AllKeep(b_guard_0_, b_guard_1_, b_guard_narrow_, b_exponent_);
    if (!kept) {
      sums.first_largest = Largest(a_guard_0_, a_guard_1_, a_guard_narrow_);
      sums.second_largest = kSquares ? sums.first_largest : Largest(b_guard_0_, b_guard_1_, b_guard_narrow_);
      return false;
    }
    Flush();
    const DInteger d;
    sums.linear += hn::GetLane(hn::SumOfLanes(d, totals_.linear));
    sums.upper += hn::GetLane(hn::SumOfLanes(d, totals_.upper));
    sums.lower += hn::GetLane(hn::SumOfLanes(d, totals_.lower));
    if constexpr (kReach == Reach::far) {
      sums.linear_rest += hn::GetLane(hn::SumOfLanes(d, totals_.linear_rest));
      sums.lowest += hn::GetLane(hn::SumOfLanes(d, totals_.lowest));
    }
    return true;
  }

 private:
  // The sums of far ones take the registers.
  static constexpr bool kTogether = kReach == Reach::far;

  // The lines of a step.
  static HWY_INLINE void Prefetch(const float* values) {
    constexpr Index line = 16;
    for (Index i = 0; i < kStep; i += line) hwy::Prefetch(values + i);
  }
  static HWY_INLINE void Add(Chain<kReach>& chain, const float* a, const float* b) {
    const V value = Widen(hn::LoadU(DNarrow(), a));
    chain.Add(value, kSquares ? value : Widen(hn::LoadU(DNarrow(), b)));
  }
  HWY_INLINE void AddNarrow(Chain<kReach>& chain, VNarrow a, VNarrow b) {
    WatchVector(a_guard_narrow_, a);
    if constexpr (!kSquares) WatchVector(b_guard_narrow_, b);
    const V value = Widen(a);
    chain.Add(value, kSquares ? value : Widen(b));
  }
  static HWY_INLINE bool AllKeep(const Guard<DMagnitude>& guard_0, const Guard<DMagnitude>& guard_1,
                                 const Guard<DNarrowMagnitude>& narrow, int exponent) {
    const hn::RebindToSigned<DMagnitude> d;
    const auto exponents = hn::Set(d, exponent);
    return Keeps<kReach>(guard_0, exponents) && Keeps<kReach>(guard_1, exponents) &&
           Keeps<kReach>(narrow, hn::Set(hn::RebindToSigned<DNarrowMagnitude>(), exponent));
  }
  static HWY_INLINE std::uint32_t Largest(const Guard<DMagnitude>& guard_0, const Guard<DMagnitude>& guard_1,
                                          const Guard<DNarrowMagnitude>& narrow) {
    const DMagnitude d;
    const DNarrowMagnitude d_narrow;
    return std::max(hn::GetLane(hn::MaxOfLanes(d, hn::Max(guard_0.largest, guard_1.largest))),
                    hn::GetLane(hn::MaxOfLanes(d_narrow, narrow.largest)));
  }
  HWY_INLINE void Restart() {
    chain_0_ = chain_1_ = chain_2_ = chain_3_ = ChainFrom<kReach>(anchors_);
    rows_ = 0;
  }
  HWY_INLINE void Flush() {
    totals_ = Sum(totals_, Sum(TotalsOf(chain_0_, anchors_), TotalsOf(chain_1_, anchors_)));
    if constexpr (kChains == 4) {
      totals_ = Sum(totals_, Sum(TotalsOf(chain_2_, anchors_), TotalsOf(chain_3_, anchors_)));
    }
    Restart();
  }

  Index count_;
  Tail tail_;
  int a_exponent_;
  int b_exponent_;
  Totals anchors_;
  Totals totals_;
  // Not arrays: these are to be registers. The last two chains are idle where there are few registers.
  Chain<kReach> chain_0_;
  Chain<kReach> chain_1_;
  Chain<kReach> chain_2_;
  Chain<kReach> chain_3_;
  Guard<DMagnitude> a_guard_0_;
  Guard<DMagnitude> a_guard_1_;
  Guard<DMagnitude> b_guard_0_;
  Guard<DMagnitude> b_guard_1_;
  Guard<DNarrowMagnitude> a_guard_narrow_;
  Guard<DNarrowMagnitude> b_guard_narrow_;
  Index rows_ = 0;
};

template <Reach kReach, bool kSquares>
HWY_INLINE bool SumRuns(Runs a, Runs b, Index runs, Index count, Index ahead, int a_exponent, int b_exponent,
                        RunSums& sums) {
  RunSummer<kReach, kSquares> summer(count, a_exponent, b_exponent);
  for (Index run = 0; run < runs; ++run) {
    summer.Run(a.data, b.data, ahead);
    a.data += a.stride;
    if constexpr (!kSquares) b.data += b.stride;
  }
  return summer.Finish(sums);
}

// Sums of 32 lanes, before it is known that they count.
struct LaneBuffer {
  HWY_ALIGN std::int64_t linear[tile_lanes];
  HWY_ALIGN std::int64_t upper[tile_lanes];
  HWY_ALIGN std::int64_t lower[tile_lanes];
  HWY_ALIGN std::int64_t linear_rest[tile_lanes];
  HWY_ALIGN std::int64_t lowest[tile_lanes];
};

// Anchors of a vector of lanes that have exponents of their own.
HWY_INLINE VInteger LaneAnchors(VInteger exponents, int unit) {
  const DInteger d;
  return hn::Or(hn::ShiftLeft<52>(hn::Add(exponents, hn::Set(d, 1023 + 52 + unit))), hn::Set(d, std::int64_t{1} << 51));
}

// Into L2 cache: rows that are a power of two apart would drive each other out of L1.
HWY_INLINE void AskForNext(const Tile<float>& tile, Index row) {
  constexpr int read = 0;
  constexpr int second_level = 2;
  const float* next = tile.next + row * tile.next_stride;
  __builtin_prefetch(next, read, second_level);
  __builtin_prefetch(next + tile_lanes / 2, read, second_level);
}

// kStep lanes.
template <Reach kReach, bool kSquares>
HWY_INLINE bool SumColumns(const Tile<float>& a, const Tile<float>& b, const LaneSums& sums, std::size_t lane,
                           LaneBuffer& buffer) {
  const DInteger d;
  const std::size_t width = hn::Lanes(d);
  const hn::Rebind<std::int32_t, DInteger> d_exponent;
  Totals anchors[kChains];
  Chain<kReach> chains[kChains];
  for (std::size_t i = 0; i < kChains; ++i) {
    const auto first = hn::PromoteTo(d, hn::LoadU(d_exponent, sums.first_exponents + lane + i * width));
    const auto second = hn::PromoteTo(d, hn::LoadU(d_exponent, sums.second_exponents + lane + i * width));
    const VInteger both = hn::Add(first, second);
    anchors[i] = {LaneAnchors(first, short_linear_unit), LaneAnchors(both, short_upper_unit),
                  LaneAnchors(both, short_lower_unit), LaneAnchors(first, linear_rest_unit),
                  LaneAnchors(both, lowest_unit)};
    chains[i] = ChainFrom<kReach>(anchors[i]);
  }
  Guard<DMagnitude> a_guards[2];
  Guard<DMagnitude> b_guards[2];
  const float* a_row = a.data + lane;
  const float* b_row = b.data + lane;
  for (Index row = 0; row < a.rows; ++row) {
    if (lane == 0) {
      AskForNext(a, row);
      if constexpr (!kSquares) AskForNext(b, row);
    }
    WatchStep<false>(a_guards[0], a_guards[1], a_row);
    if constexpr (!kSquares) WatchStep<false>(b_guards[0], b_guards[1], b_row);
    for (std::size_t i = 0; i < kChains; ++i) {
      const V value = Widen(hn::LoadU(DNarrow(), a_row + i * width));
      chains[i].Add(value, kSquares ? value : Widen(hn::LoadU(DNarrow(), b_row + i * width)));
    }
    a_row += a.stride;
    if constexpr (!kSquares) b_row += b.stride;
  }
  for (std::size_t i = 0; i < kChains; ++i) {
    const Totals totals = TotalsOf(chains[i], anchors[i]);
    hn::Store(totals.linear, d, buffer.linear + lane + i * width);
    hn::Store(totals.upper, d, buffer.upper + lane + i * width);
    hn::Store(totals.lower, d, buffer.lower + lane + i * width);
    if constexpr (kReach == Reach::far) {
      hn::Store(totals.linear_rest, d, buffer.linear_rest + lane + i * width);
      hn::Store(totals.lowest, d, buffer.lowest + lane + i * width);
    }
  }
  const hn::RebindToSigned<DMagnitude> d_signed;
  bool kept = true;
  for (std::size_t i = 0; i < kMagnitudes; ++i) {
    const std::size_t at = lane + i * hn::Lanes(d_signed);
    kept = kept && Keeps<kReach>(a_guards[i], hn::LoadU(d_signed, sums.first_exponents + at));
    if constexpr (!kSquares) kept = kept && Keeps<kReach>(b_guards[i], hn::LoadU(d_signed, sums.second_exponents + at));
  }
  return kept;
}

template <Reach kReach, bool kSquares>
HWY_INLINE bool SumLanes(const Tile<float>& a, const Tile<float>& b, const LaneSums& sums) {
  LaneBuffer buffer;
  for (std::size_t lane = 0; lane < tile_lanes; lane += static_cast<std::size_t>(kStep)) {
    if (!SumColumns<kReach, kSquares>(a, b, sums, lane, buffer)) return false;
  }
  const DInteger d;
  for (std::size_t lane = 0; lane < tile_lanes; lane += hn::Lanes(d)) {
    const auto add = [&](const std::int64_t* from, std::int64_t* to) HWY_ATTR {
      hn::StoreU(hn::Add(hn::Load(d, from + lane), hn::LoadU(d, to + lane)), d, to + lane);
    };
    add(buffer.linear, sums.linear);
    add(buffer.upper, sums.upper);
    add(buffer.lower, sums.lower);
    if constexpr (kReach == Reach::far) {
      add(buffer.linear_rest, sums.linear_rest);
      add(buffer.lowest, sums.lowest);
    }
  }
  return true;
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_REDUCE_GUARDED_SUMS_INL_H_

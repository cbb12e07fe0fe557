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
#include "reduce/guarded_sums.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<double, tile_lanes>;
using V = hn::Vec<D>;
using DNarrow = hn::Rebind<float, D>;
using VNarrow = hn::Vec<DNarrow>;
using DInteger = hn::RebindToSigned<D>;
using VInteger = hn::Vec<DInteger>;
using DMagnitude = hn::CappedTag<std::uint32_t, tile_lanes>;
using VMagnitude = hn::Vec<DMagnitude>;
using DNarrowMagnitude = hn::Rebind<std::uint32_t, D>;

// Vectors side by side, whose chains of dependent additions overlap; as many as there are registers for.
inline constexpr int kChains = hn::MaxLanes(D()) >= 8 ? 4 : 2;
inline constexpr std::size_t kMagnitudes = kChains * hn::MaxLanes(D()) / hn::MaxLanes(DMagnitude());
inline constexpr Index kStep = kChains * static_cast<Index>(hn::MaxLanes(D()));
static_assert(kStep <= tile_lanes && kMagnitudes <= 2);

// Exact accumulators of a column of numbers a and products a * b, with |a| < 2^(e+1), |b| < 2^(f+1), multiples of
// 2^(e-43) and 2^(f-43), over at most 2^7 rows.
//
// Each starts at 1.5 * 2^52 of its units and must stay within 2^51 of them from there: then it is in one binade, each
// addition rounds to a multiple of the unit, and its bits, less those of its start, are the sum as an integer.
//   linear  unit 2^(e-43): a is a multiple, and 2^7 rows below 2^(e+1) stay below 2^(e+8) = 2^51 units.
//   upper   unit 2^(e+f-42): takes each product (48 bits, exact in float64) rounded to a multiple of its
//           unit, as an anchor does (Rump, Ogita and Oishi, 2008); below 2^(e+f+2) each, 2^51 units in all.
//   lower   unit 2^(e+f-87): takes what that left, exactly: at most 2^(e+f-43) each, 2^51 units in all,
//           multiples of 2^(e+f-86).
struct Chain {
  V linear;
  V upper;
  V lower;

  HWY_INLINE void Add(V a, V b) {
    // As a multiplication, since the units for additions are the busier ones. Exact either way.
    linear = hn::MulAdd(a, hn::Set(D(), 1.0), linear);
    const V next = hn::MulAdd(a, b, upper);
    const V taken = hn::Sub(next, upper);
    upper = next;
    lower = hn::Add(lower, hn::MulSub(a, b, taken));
  }
};

struct Totals {
  VInteger linear;
  VInteger upper;
  VInteger lower;
};

// The bits of 1.5 * 2^52 units.
HWY_INLINE std::int64_t AnchorBits(int unit_exponent) {
  return (static_cast<std::int64_t>(1023 + 52 + unit_exponent) << 52) | (std::int64_t{1} << 51);
}
HWY_INLINE V ValueOf(VInteger bits) { return hn::BitCast(D(), bits); }

HWY_INLINE Totals TotalsOf(const Chain& chain, const Totals& anchors) {
  const DInteger d;
  return {hn::Sub(hn::BitCast(d, chain.linear), anchors.linear), hn::Sub(hn::BitCast(d, chain.upper), anchors.upper),
          hn::Sub(hn::BitCast(d, chain.lower), anchors.lower)};
}
HWY_INLINE Totals Sum(const Totals& a, const Totals& b) {
  return {hn::Add(a.linear, b.linear), hn::Add(a.upper, b.upper), hn::Add(a.lower, b.lower)};
}

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
template <typename DM>
HWY_INLINE bool Keeps(const Guard<DM>& guard, hn::Vec<hn::RebindToSigned<DM>> exponents) {
  const DM d;
  const hn::RebindToSigned<DM> di;
  const auto above = hn::ShiftLeft<23>(hn::Add(exponents, hn::Set(di, 128)));
  const auto low = hn::Add(exponents, hn::Set(di, 127 - guarded_bits));
  const auto below = hn::IfThenElseZero(hn::Gt(low, hn::Zero(di)), hn::Sub(hn::ShiftLeft<23>(low), hn::Set(di, 1)));
  const auto too_large = hn::Not(hn::Gt(above, hn::BitCast(di, guard.largest)));
  const auto large_enough = hn::Eq(hn::Max(guard.smallest, hn::BitCast(d, below)), guard.smallest);
  return hn::AllFalse(di, too_large) && hn::AllTrue(d, large_enough);
}

HWY_INLINE void Watch(Guard<DMagnitude>& guard, const float* values) {
  guard.Watch(hn::LoadU(DMagnitude(), reinterpret_cast<const std::uint32_t*>(values)));
}
// Watches kStep neighbouring numbers: one vector of magnitudes, or two.
HWY_INLINE void WatchStep(Guard<DMagnitude>& guard_0, Guard<DMagnitude>& guard_1, const float* values) {
  Watch(guard_0, values);
  if constexpr (kMagnitudes == 2) Watch(guard_1, values + hn::Lanes(DMagnitude()));
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
template <bool kSquares>
class RunSummer {
 public:
  HWY_INLINE RunSummer(Index count, int a_exponent, int b_exponent)
      : count_(count), tail_(count), a_exponent_(a_exponent), b_exponent_(b_exponent) {
    const DInteger d;
    anchors_ = {hn::Set(d, AnchorBits(a_exponent + short_linear_unit)),
                hn::Set(d, AnchorBits(a_exponent + b_exponent + short_upper_unit)),
                hn::Set(d, AnchorBits(a_exponent + b_exponent + short_lower_unit))};
    totals_ = {hn::Zero(d), hn::Zero(d), hn::Zero(d)};
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
        WatchStep(a_guard_0_, a_guard_1_, a + done);
        if constexpr (!kSquares) WatchStep(b_guard_0_, b_guard_1_, b + done);
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
    if (!kept) return false;
    Flush();
    const DInteger d;
    sums.linear += hn::GetLane(hn::SumOfLanes(d, totals_.linear));
    sums.upper += hn::GetLane(hn::SumOfLanes(d, totals_.upper));
    sums.lower += hn::GetLane(hn::SumOfLanes(d, totals_.lower));
    return true;
  }

 private:
  // The lines of a step.
  static HWY_INLINE void Prefetch(const float* values) {
    constexpr Index line = 16;
    for (Index i = 0; i < kStep; i += line) hwy::Prefetch(values + i);
  }
  static HWY_INLINE void Add(Chain& chain, const float* a, const float* b) {
    const V value = Widen(hn::LoadU(DNarrow(), a));
    chain.Add(value, kSquares ? value : Widen(hn::LoadU(DNarrow(), b)));
  }
  HWY_INLINE void AddNarrow(Chain& chain, VNarrow a, VNarrow b) {
    WatchVector(a_guard_narrow_, a);
    if constexpr (!kSquares) WatchVector(b_guard_narrow_, b);
    const V value = Widen(a);
    chain.Add(value, kSquares ? value : Widen(b));
  }
  static HWY_INLINE bool AllKeep(const Guard<DMagnitude>& guard_0, const Guard<DMagnitude>& guard_1,
                                 const Guard<DNarrowMagnitude>& narrow, int exponent) {
    const hn::RebindToSigned<DMagnitude> d;
    const auto exponents = hn::Set(d, exponent);
    return Keeps(guard_0, exponents) && Keeps(guard_1, exponents) &&
           Keeps(narrow, hn::Set(hn::RebindToSigned<DNarrowMagnitude>(), exponent));
  }
  HWY_INLINE void Restart() {
    const Chain start = {ValueOf(anchors_.linear), ValueOf(anchors_.upper), ValueOf(anchors_.lower)};
    chain_0_ = chain_1_ = chain_2_ = chain_3_ = start;
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
  Chain chain_0_;
  Chain chain_1_;
  Chain chain_2_;
  Chain chain_3_;
  Guard<DMagnitude> a_guard_0_;
  Guard<DMagnitude> a_guard_1_;
  Guard<DMagnitude> b_guard_0_;
  Guard<DMagnitude> b_guard_1_;
  Guard<DNarrowMagnitude> a_guard_narrow_;
  Guard<DNarrowMagnitude> b_guard_narrow_;
  Index rows_ = 0;
};

template <bool kSquares>
HWY_INLINE bool SumRuns(Runs a, Runs b, Index runs, Index count, Index ahead, int a_exponent, int b_exponent,
                        RunSums& sums) {
  RunSummer<kSquares> summer(count, a_exponent, b_exponent);
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
template <bool kSquares>
HWY_INLINE bool SumColumns(const Tile<float>& a, const Tile<float>& b, const LaneSums& sums, std::size_t lane,
                           LaneBuffer& buffer) {
  const DInteger d;
  const std::size_t width = hn::Lanes(d);
  const hn::Rebind<std::int32_t, DInteger> d_exponent;
  Totals anchors[kChains];
  Chain chains[kChains];
  for (std::size_t i = 0; i < kChains; ++i) {
    const auto first = hn::PromoteTo(d, hn::LoadU(d_exponent, sums.first_exponents + lane + i * width));
    const auto second = hn::PromoteTo(d, hn::LoadU(d_exponent, sums.second_exponents + lane + i * width));
    const VInteger both = hn::Add(first, second);
    anchors[i] = {LaneAnchors(first, short_linear_unit), LaneAnchors(both, short_upper_unit),
                  LaneAnchors(both, short_lower_unit)};
    chains[i] = {ValueOf(anchors[i].linear), ValueOf(anchors[i].upper), ValueOf(anchors[i].lower)};
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
    WatchStep(a_guards[0], a_guards[1], a_row);
    if constexpr (!kSquares) WatchStep(b_guards[0], b_guards[1], b_row);
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
  }
  const hn::RebindToSigned<DMagnitude> d_signed;
  bool kept = true;
  for (std::size_t i = 0; i < kMagnitudes; ++i) {
    const std::size_t at = lane + i * hn::Lanes(d_signed);
    kept = kept && Keeps(a_guards[i], hn::LoadU(d_signed, sums.first_exponents + at));
    if constexpr (!kSquares) kept = kept && Keeps(b_guards[i], hn::LoadU(d_signed, sums.second_exponents + at));
  }
  return kept;
}

template <bool kSquares>
HWY_INLINE bool SumLanes(const Tile<float>& a, const Tile<float>& b, const LaneSums& sums) {
  LaneBuffer buffer;
  for (std::size_t lane = 0; lane < tile_lanes; lane += static_cast<std::size_t>(kStep)) {
    if (!SumColumns<kSquares>(a, b, sums, lane, buffer)) return false;
  }
  const DInteger d;
  for (std::size_t lane = 0; lane < tile_lanes; lane += hn::Lanes(d)) {
    const auto add = [&](const std::int64_t* from, std::int64_t* to) HWY_ATTR {
      hn::StoreU(hn::Add(hn::Load(d, from + lane), hn::LoadU(d, to + lane)), d, to + lane);
    };
    add(buffer.linear, sums.linear);
    add(buffer.upper, sums.upper);
    add(buffer.lower, sums.lower);
  }
  return true;
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_REDUCE_GUARDED_SUMS_INL_H_

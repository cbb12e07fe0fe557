// Per-target code: included once for each instruction set by exact_kernels.cpp.

#if defined(EXACTNORM_SUMS_EXACT_KERNELS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_SUMS_EXACT_KERNELS_INL_H_
#undef EXACTNORM_SUMS_EXACT_KERNELS_INL_H_
#else
#define EXACTNORM_SUMS_EXACT_KERNELS_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <limits>

#include "simd/product_error-inl.h"
#include "sums/exact_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// All arithmetic is in float64 lanes.
using D = hn::CappedTag<double, tile_lanes>;
using V = hn::Vec<D>;

// The largest and the smallest magnitude of kColumns vectors side by side. kLimited: of those within `limits`.
template <bool kLimited, std::size_t kColumns, typename T>
HWY_INLINE void ScanColumns(const Tile<T>& tile, const Lanes<Magnitude<T>>& limits, std::size_t lane,
                            Extremes<T>& extremes) {
  const hn::CappedTag<Magnitude<T>, tile_lanes> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  using Bits = hn::Vec<decltype(d)>;
  using UnsignedBits = hn::Vec<decltype(du)>;
  const std::size_t width = hn::Lanes(d);
  const Bits all_but_sign = hn::Set(d, std::numeric_limits<Magnitude<T>>::max());
  const UnsignedBits one = hn::Set(du, 1);
  Bits limit[kColumns];
  Bits largest[kColumns];
  UnsignedBits below_smallest[kColumns];  // less one, so that zero becomes the largest of all numbers
  for (std::size_t i = 0; i < kColumns; ++i) {
    limit[i] = hn::LoadU(d, limits.data() + lane + i * width);
    largest[i] = hn::Zero(d);
    below_smallest[i] = hn::BitCast(du, all_but_sign);
  }
  const auto* row = reinterpret_cast<const Magnitude<T>*>(tile.data) + lane;
  for (Index r = 0; r < tile.rows; ++r, row += tile.stride) {
    // The next tile's row: the hardware's prefetchers do not follow jumps between rows.
    hwy::Prefetch(row + tile_lanes);
    for (std::size_t i = 0; i < kColumns; ++i) {
      Bits magnitude = hn::And(hn::LoadU(d, row + i * width), all_but_sign);
      if constexpr (kLimited) magnitude = hn::IfThenZeroElse(hn::Gt(magnitude, limit[i]), magnitude);
      largest[i] = hn::Max(largest[i], magnitude);
      below_smallest[i] = hn::Min(below_smallest[i], hn::Sub(hn::BitCast(du, magnitude), one));
    }
  }
  for (std::size_t i = 0; i < kColumns; ++i) {
    hn::StoreU(largest[i], d, extremes.largest.data() + lane + i * width);
    const Bits smallest = hn::BitCast(d, hn::Add(below_smallest[i], one));
    // Where all are zeros, one more than all bits but the sign is below zero.
    hn::StoreU(hn::IfThenElse(hn::Lt(smallest, hn::Zero(d)), all_but_sign, smallest), d,
               extremes.smallest.data() + lane + i * width);
  }
}

template <typename T>
HWY_INLINE void Scan(const Tile<T>& tile, const Lanes<Magnitude<T>>& limits, Extremes<T>& extremes) {
  const hn::CappedTag<Magnitude<T>, tile_lanes> d;
  constexpr std::size_t kColumns = std::min<std::size_t>(tile_lanes / hn::MaxLanes(d), 4);
  const bool limited = *std::min_element(limits.begin(), limits.end()) != std::numeric_limits<Magnitude<T>>::max();
  for (std::size_t lane = 0; lane < tile_lanes; lane += kColumns * hn::Lanes(d)) {
    limited ? ScanColumns<true, kColumns>(tile, limits, lane, extremes)
            : ScanColumns<false, kColumns>(tile, limits, lane, extremes);
  }
}

HWY_INLINE V LoadLanes(const float* values) {
  const D d;
  return hn::PromoteTo(d, hn::LoadU(hn::Rebind<float, D>(), values));
}
HWY_INLINE V LoadLanes(const double* values) { return hn::LoadU(D(), values); }

// Loads values, with those outside of the window replaced by zero.
template <typename T, bool kEverything>
struct Loader {
  HWY_INLINE explicit Loader(const Window<T>& window, std::size_t lane)
      : low(LoadLanes(window.low.data() + lane)), high(LoadLanes(window.high.data() + lane)) {}
  HWY_INLINE V operator()(const T* values) const {
    const V value = LoadLanes(values);
    if constexpr (kEverything) return value;
    const V magnitude = hn::Abs(value);
    return hn::IfThenElseZero(hn::And(hn::Ge(magnitude, low), hn::Lt(magnitude, high)), value);
  }
  V low;
  V high;
};

// 2^exponent per lane; exponents are within those of normal numbers.
HWY_INLINE V PowersOfTwo(const Lanes<double>& powers, std::size_t lane) { return hn::LoadU(D(), powers.data() + lane); }

inline void FillPowers(const Lanes<int>& exponents, int scale, int offset, Lanes<double>& powers) {
  for (std::size_t i = 0; i < tile_lanes; ++i) {
    const auto biased = static_cast<std::uint64_t>(1023 + offset + scale * exponents[i]) << 52;
    hwy::CopyBytes<8>(&biased, &powers[i]);
  }
}

// One level of several accumulators (Rump, Ogita and Oishi, 2008: extraction by a large anchor).
// The accumulator starts at 1.5 * 2^(52 + unit) and stays in that binade (after the last of 512 rows it may
// stand at its very end, which is exact still), so it holds a multiple of
// 2^unit; Add takes that much of a value and returns the remainder, both exactly.
struct Level {
  V sum;
  HWY_INLINE V Add(V value) {
    const V next = hn::Add(sum, value);
    const V taken = hn::Sub(next, sum);
    sum = next;
    return hn::Sub(value, taken);
  }
  // Add(a * b) for a product that float64 holds exactly; fused or not, the result is the same.
  HWY_INLINE V AddProduct(V a, V b) {
    const V next = hn::MulAdd(a, b, sum);
    const V taken = hn::Sub(next, sum);
    sum = next;
    return hn::MulSub(a, b, taken);
  }
};

// Sums over one vector's width of lanes, for float32 values.
//
// With |a| < 2^(e+1), |b| < 2^(f+1), both multiples of 2^(e-42) and 2^(f-42) by the window, and at most
// 2^9 rows: the sum of a stays below 2^(e+10), 52 bits above its unit. A product is exact in float64 and
// below 2^(e+f+2); the first level, of unit e+f-40, holds the sum of its upper parts, and the remainders, at most
// 2^(e+f-41) each and multiples of 2^(e+f-84), sum to 52 bits.
template <bool kSquares>
struct FloatColumn {
  static constexpr int first_unit = SumTerms<float>::product_units[0];
  struct Constants {
    alignas(64) Lanes<double> anchors;
    Constants(const Window<float>& first, const Window<float>& second) {
      Lanes<int> exponents;
      for (std::size_t i = 0; i < tile_lanes; ++i) exponents[i] = first.exponents[i] + second.exponents[i];
      FillPowers(exponents, 1, 52 + first_unit, anchors);
    }
  };

  HWY_INLINE FloatColumn(const Constants& constants, std::size_t lane)
      : anchor(hn::Mul(hn::Set(D(), 1.5), PowersOfTwo(constants.anchors, lane))),
        linear(hn::Zero(D())),
        level{anchor},
        remainder(hn::Zero(D())) {}
  HWY_INLINE void Add(V a, V b) {
    linear = hn::Add(linear, a);
    remainder = hn::Add(remainder, level.AddProduct(a, b));
  }
  HWY_INLINE void Store(TileSums<float>& sums, std::size_t lane) const {
    hn::StoreU(linear, D(), sums.linear[0].data() + lane);
    hn::StoreU(hn::Sub(level.sum, anchor), D(), sums.products[0].data() + lane);
    hn::StoreU(remainder, D(), sums.products[1].data() + lane);
  }

  V anchor;
  V linear;
  Level level;
  V remainder;
};

// The same for float64 values, scaled so that magnitudes are below 2^2 and multiples of 2^-82. Products
// are below 2^4 and multiples of 2^-164, and are taken apart by three levels. Units: each level's sum must stay
// below 2^(51 + unit) over 2^9 rows, where the second and third take two numbers per row.
template <bool kSquares>
struct DoubleColumn {
  static constexpr int linear_unit = SumTerms<double>::linear_units[0];
  static constexpr std::array<int, 4> product_units = SumTerms<double>::product_units;
  static constexpr double AnchorOf(int unit) {
    double anchor = 1.5;
    for (int i = 0; i < 52 + unit; ++i) anchor *= 2;
    for (int i = 0; i > 52 + unit; --i) anchor /= 2;
    return anchor;
  }
  static HWY_INLINE V Anchor(int unit) { return hn::Set(D(), AnchorOf(unit)); }
  struct Constants {
    alignas(64) Lanes<double> first_scale;
    alignas(64) Lanes<double> second_scale;
    Constants(const Window<double>& first, const Window<double>& second) {
      FillPowers(first.exponents, -1, 1, first_scale);
      FillPowers(second.exponents, -1, 1, second_scale);
    }
  };

  HWY_INLINE DoubleColumn(const Constants& constants, std::size_t lane)
      : first_scale(PowersOfTwo(constants.first_scale, lane)),
        second_scale(PowersOfTwo(constants.second_scale, lane)),
        linear{Anchor(linear_unit)},
        linear_remainder(hn::Zero(D())),
        levels{{Anchor(product_units[0])}, {Anchor(product_units[1])}, {Anchor(product_units[2])}},
        product_remainder(hn::Zero(D())) {}
  HWY_INLINE void Add(V unscaled_a, V unscaled_b) {
    const V a = hn::Mul(unscaled_a, first_scale);
    const V b = kSquares ? a : hn::Mul(unscaled_b, second_scale);
    linear_remainder = hn::Add(linear_remainder, linear.Add(a));
    const V product = hn::Mul(a, b);
    const V error = ProductError(a, b, product);
    const V upper = levels[2].Add(levels[1].Add(levels[0].Add(product)));
    const V lower = levels[2].Add(levels[1].Add(error));
    product_remainder = hn::Add(product_remainder, hn::Add(upper, lower));
  }
  HWY_INLINE void Store(TileSums<double>& sums, std::size_t lane) const {
    hn::StoreU(hn::Sub(linear.sum, Anchor(linear_unit)), D(), sums.linear[0].data() + lane);
    hn::StoreU(linear_remainder, D(), sums.linear[1].data() + lane);
    for (std::size_t i = 0; i < 3; ++i) {
      hn::StoreU(hn::Sub(levels[i].sum, Anchor(product_units[i])), D(), sums.products[i].data() + lane);
    }
    hn::StoreU(product_remainder, D(), sums.products[3].data() + lane);
  }

  V first_scale;
  V second_scale;
  Level linear;
  V linear_remainder;
  Level levels[3];
  V product_remainder;
};

template <typename T, bool kSquares>
struct ColumnOf;
template <bool kSquares>
struct ColumnOf<float, kSquares> {
  using Type = FloatColumn<kSquares>;
};
template <bool kSquares>
struct ColumnOf<double, kSquares> {
  using Type = DoubleColumn<kSquares>;
};

// kColumns vectors side by side, so that their chains of dependent additions overlap.
template <bool kSquares, bool kEverything, int kColumns, typename T, typename Constants>
HWY_INLINE void SumColumns(const Tile<T>& first, const Window<T>& first_window, const Tile<T>& second,
                           const Window<T>& second_window, const Constants& constants, std::size_t lane,
                           TileSums<T>& sums) {
  using Column = typename ColumnOf<T, kSquares>::Type;
  const std::size_t width = hn::Lanes(D());
  const auto at = [&](int i) { return lane + static_cast<std::size_t>(i % kColumns) * width; };
  Column columns[4] = {{constants, at(0)}, {constants, at(1)}, {constants, at(2)}, {constants, at(3)}};
  using L = Loader<T, kEverything>;
  const L load_first[4] = {L(first_window, at(0)), L(first_window, at(1)), L(first_window, at(2)),
                           L(first_window, at(3))};
  const L load_second[4] = {L(second_window, at(0)), L(second_window, at(1)), L(second_window, at(2)),
                            L(second_window, at(3))};
  const T* a_row = first.data;
  const T* b_row = second.data;
  for (Index row = 0; row < first.rows; ++row, a_row += first.stride, b_row += second.stride) {
    for (int i = 0; i < kColumns; ++i) {
      const V a = load_first[i](a_row + at(i));
      const V b = kSquares ? a : load_second[i](b_row + at(i));
      columns[i].Add(a, b);
    }
  }
  for (int i = 0; i < kColumns; ++i) columns[i].Store(sums, at(i));
}

template <bool kSquares, typename T>
HWY_INLINE void SumTile(const Tile<T>& first, const Window<T>& first_window, const Tile<T>& second,
                        const Window<T>& second_window, TileSums<T>& sums) {
  using Column = typename ColumnOf<T, kSquares>::Type;
  const typename Column::Constants constants(first_window, second_window);
  constexpr int kColumns = sizeof(T) == 4 ? (hn::MaxLanes(D()) <= 8 ? 4 : 1) : (hn::MaxLanes(D()) <= 8 ? 2 : 1);
  const std::size_t step = kColumns * hn::Lanes(D());
  for (std::size_t lane = 0; lane < tile_lanes; lane += step) {
    if (first_window.everything && second_window.everything) {
      SumColumns<kSquares, true, kColumns>(first, first_window, second, second_window, constants, lane, sums);
    } else {
      SumColumns<kSquares, false, kColumns>(first, first_window, second, second_window, constants, lane, sums);
    }
  }
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_SUMS_EXACT_KERNELS_INL_H_

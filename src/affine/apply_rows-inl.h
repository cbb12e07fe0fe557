// Per-target code: included once for each instruction set by apply_kernels.cpp. Rows whose columns have coefficients of
// their own.

#if defined(EXACTNORM_AFFINE_APPLY_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef EXACTNORM_AFFINE_APPLY_ROWS_INL_H_
#undef EXACTNORM_AFFINE_APPLY_ROWS_INL_H_
#else
#define EXACTNORM_AFFINE_APPLY_ROWS_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <type_traits>

#include "affine/apply_arithmetic-inl.h"
#include "affine/apply_kernels.h"
#include "simd/cache_line.h"
#include "simd/prefetch.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Lines that are written are wanted so many rows before.
inline constexpr Index kRowsToWriting = 4;

// Whole vectors of a row's columns.
template <Formula kFormula, bool kStreamed, bool kAllSingle, typename Element>
HWY_INLINE void ApplyColumns(const ApplyPointers<Element>& at, Index columns, const RowStrides& strides,
                             const Coefficients& coefficients, Index channel) {
  const auto width = static_cast<Index>(hn::Lanes(Tag<Value<Element>>()));
  const Columns<Value<Element>> from(coefficients);
  for (Index column = 0; column < columns; column += width) {
    if (column % line_size<Element> == 0) {
      // The same columns of rows that come after this one; lines are read before they are written, too.
      hwy::Prefetch(at.x + strides.x + column);
      if constexpr (reads_second(kFormula)) hwy::Prefetch(at.second + strides.second + column);
      if constexpr (!kStreamed) prefetch_for_writing(at.out + kRowsToWriting * strides.out + column);
    }
    const Index first = channel + column;
    const bool are_single = kAllSingle || AreSingle<Value<Element>>(coefficients, first, first + width);
    const Arithmetic<kFormula, Value<Element>, kAllSingle> c(from, first, Channels::each, are_single);
    const Vector<Value<Element>> value =
        Compute(at.x + column, reads_second(kFormula) ? at.second + column : nullptr, c);
    StoreValues<kStreamed>(value, at.out + column);
  }
}

// One or two vectors' width of all rows, with coefficients in registers.
template <Formula kFormula, bool kStreamed, int kVectors, typename Element>
HWY_NOINLINE void ApplyNarrowRows(ApplyPointers<Element> at, Index rows, const RowStrides strides,
                                  const Coefficients& coefficients, bool all_single) {
  const auto width = static_cast<Index>(hn::Lanes(Tag<Value<Element>>()));
  const Arithmetic<kFormula, Value<Element>> first(Columns<Value<Element>>(coefficients), 0, Channels::each,
                                                   all_single);
  const Arithmetic<kFormula, Value<Element>> last(Columns<Value<Element>>(coefficients), (kVectors - 1) * width,
                                                  Channels::each, all_single);
  for (Index row = 0; row < rows; ++row) {
    const Vector<Value<Element>> a = Compute(at.x, at.second, first);
    if constexpr (kVectors > 1) {
      const Vector<Value<Element>> b =
          Compute(at.x + width, reads_second(kFormula) ? at.second + width : nullptr, last);
      StoreValues<kStreamed>(b, at.out + width);
    }
    StoreValues<kStreamed>(a, at.out);
    at = at.moved(strides.x, strides.second, strides.out);
  }
}

// Fewer columns than a vector has.
template <Formula kFormula, typename Element>
HWY_INLINE void ApplyFewColumns(ApplyPointers<Element> at, Index rows, Index columns, const RowStrides strides,
                                const Coefficients& coefficients, Index channel, bool all_single) {
  const PaddedCoefficients<kFormula, Value<Element>> padded(coefficients, channel, columns);
  const Coefficients of_columns = padded.view();
  const Arithmetic<kFormula, Value<Element>> c(Columns<Value<Element>>(of_columns), 0, Channels::each, all_single);
  for (Index row = 0; row < rows; ++row) {
    ApplyFew(at, columns, c);
    at = at.moved(strides.x, strides.second, strides.out);
  }
}

// Whole vectors of columns. One row at a time, in the order of memory: coefficients are loaded from L1 for each, and
// yet this takes 0.55 to 0.9 of the time of four rows that share them, but for tensors that are in L2 cache (1.1).
template <Formula kFormula, bool kStreamed, bool kAllSingle, typename Element>
HWY_NOINLINE void ApplyWideRows(const ApplyPointers<Element>& at, Index rows, Index columns, const RowStrides& strides,
                                const Coefficients& coefficients) {
  // Coefficients of one block stay in L1 beside what is read and written.
  constexpr Index block_columns = 2048 / static_cast<Index>(sizeof(Value<Element>));
  for (Index column = 0; column < columns; column += block_columns) {
    const Index size = std::min(block_columns, columns - column);
    ApplyPointers<Element> block = at.moved(column, column, column);
    for (Index row = 0; row < rows; ++row) {
      ApplyColumns<kFormula, kStreamed, kAllSingle>(block, size, strides, coefficients, column);
      block = block.moved(strides.x, strides.second, strides.out);
    }
  }
}

// Each formula, streamed or not, is a function of its own: compilers, with sanitizers above all, take far longer for
// all of them in one.
template <Formula kFormula, bool kStreamed, typename Element>
HWY_NOINLINE void ApplyRowsAs(ApplyPointers<Element> at, Index rows, Index columns, const RowStrides& strides,
                              const Coefficients& coefficients) {
  const auto width = static_cast<Index>(hn::Lanes(Tag<Value<Element>>()));
  const bool all_single = AreSingle<Value<Element>>(coefficients, 0, columns);
  const Index whole = columns / width * width;
  if (whole == width) {
    ApplyNarrowRows<kFormula, kStreamed, 1>(at, rows, strides, coefficients, all_single);
  } else if (whole == 2 * width) {
    ApplyNarrowRows<kFormula, kStreamed, 2>(at, rows, strides, coefficients, all_single);
  } else if (!std::is_same_v<Element, double> && !all_single) {
    ApplyWideRows<kFormula, kStreamed, false>(at, rows, whole, strides, coefficients);
  } else {
    ApplyWideRows<kFormula, kStreamed, true>(at, rows, whole, strides, coefficients);
  }
  if (whole < columns) {
    ApplyFewColumns<kFormula>(at.moved(whole, whole, whole), rows, columns - whole, strides, coefficients, whole,
                              all_single);
  }
}

template <Formula kFormula, typename Element>
HWY_INLINE void ApplyRowsStored(const ApplyPointers<Element>& at, Index rows, Index columns, const RowStrides& strides,
                                const Coefficients& c, Store store) {
  store == Store::streamed ? ApplyRowsAs<kFormula, true>(at, rows, columns, strides, c)
                           : ApplyRowsAs<kFormula, false>(at, rows, columns, strides, c);
}

template <typename Element>
HWY_INLINE void ApplyRows(Formula formula, const ApplyPointers<Element>& at, Index rows, Index columns,
                          const RowStrides& strides, const Coefficients& c, Store store) {
  switch (formula) {
    case Formula::forward:
      return ApplyRowsStored<Formula::forward>(at, rows, columns, strides, c, store);
    case Formula::relu:
      return ApplyRowsStored<Formula::relu>(at, rows, columns, strides, c, store);
    case Formula::relu6:
      return ApplyRowsStored<Formula::relu6>(at, rows, columns, strides, c, store);
    case Formula::sum:
      return ApplyRowsStored<Formula::sum>(at, rows, columns, strides, c, store);
    case Formula::relu_of_sum:
      return ApplyRowsStored<Formula::relu_of_sum>(at, rows, columns, strides, c, store);
    case Formula::gradient:
      return ApplyRowsStored<Formula::gradient>(at, rows, columns, strides, c, store);
    case Formula::windowed_gradient:
      if constexpr (!std::is_same_v<Element, double>) {
        ApplyRowsStored<Formula::windowed_gradient>(at, rows, columns, strides, c, store);
      }
  }
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // EXACTNORM_AFFINE_APPLY_ROWS_INL_H_

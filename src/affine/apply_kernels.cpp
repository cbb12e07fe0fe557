#include "affine/apply_kernels.h"

#include <algorithm>

#include "simd/target.h"
#include "traverse/cache_line.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "affine/apply_kernels.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "affine/apply_arithmetic-inl.h"
#include "simd/few_lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <bool kStreamed, typename T>
HWY_INLINE void StoreValues(Vector<T> values, T* to) {
  if constexpr (kStreamed) {
    hn::Stream(values, Tag<T>(), to);
  } else {
    hn::StoreU(values, Tag<T>(), to);
  }
}

template <bool kWithGradient, typename T, bool kAllSingle>
HWY_INLINE Vector<T> Compute(const T* x, const T* dy, const Arithmetic<kWithGradient, T, kAllSingle>& arithmetic) {
  const Tag<T> d;
  return arithmetic(hn::LoadU(d, x), kWithGradient ? hn::LoadU(d, dy) : hn::Zero(d));
}

template <bool kWithGradient, typename T, bool kAllSingle>
HWY_INLINE void ApplyFew(const ApplyPointers<T>& at, Index count,
                         const Arithmetic<kWithGradient, T, kAllSingle>& arithmetic) {
  const Tag<T> d;
  const auto few = static_cast<std::size_t>(count);
  const Vector<T> x = LoadFew(d, at.x, few);
  StoreFew(arithmetic(x, kWithGradient ? LoadFew(d, at.dy, few) : x), few, d, at.out);
}

// Elements from `done` on, while there are whole vectors; returns the first element that was left.
template <bool kWithGradient, bool kStreamed, typename T, bool kAllSingle>
HWY_INLINE Index ApplyVectors(const ApplyPointers<T>& at, Index done, Index count,
                              const Arithmetic<kWithGradient, T, kAllSingle>& c) {
  const auto width = static_cast<Index>(hn::Lanes(Tag<T>()));
  const auto one = [&](Index i) HWY_ATTR {
    const Vector<T> value = Compute(at.x + i, kWithGradient ? at.dy + i : nullptr, c);
    StoreValues<kStreamed>(value, at.out + i);
  };
  for (; done + 4 * width <= count; done += 4 * width) {
    one(done);
    one(done + width);
    one(done + 2 * width);
    one(done + 3 * width);
  }
  for (; done + width <= count; done += width) one(done);
  return done;
}

template <bool kWithGradient, typename T, bool kAllSingle>
HWY_INLINE void ApplyRun(const ApplyPointers<T>& at, Index count, const Arithmetic<kWithGradient, T, kAllSingle>& c,
                         Store store) {
  const auto width = static_cast<Index>(hn::Lanes(Tag<T>()));
  if (count < width) {
    ApplyFew(at, count, c);
    return;
  }
  // The last elements, where they are no whole vector, are one that overlaps the one before. It is computed first,
  // since the stores may overwrite what it reads.
  const Index last = count - width;
  Vector<T> last_value = hn::Zero(Tag<T>());
  if (count % width != 0 || store == Store::streamed) {
    last_value = Compute(at.x + last, kWithGradient ? at.dy + last : nullptr, c);
  }
  Index done = 0;
  constexpr Index line = line_size<T>;
  if (store == Store::streamed && count >= 2 * line) {
    // Whole lines only: a line that is streamed in part, and shared with the next run, costs more than it saves.
    const Index head = elements_to_line(at.out);
    if (head != 0) (void)ApplyVectors<kWithGradient, false>(at, 0, (head + width - 1) / width * width, c);
    done = ApplyVectors<kWithGradient, true>(at, head, head + (count - head) / line * line, c);
  }
  done = ApplyVectors<kWithGradient, false>(at, done, count, c);
  if (done < count) StoreValues<false>(last_value, at.out + last);
}

// Elements of a line that are not yet whole: the end of one run, with the start of the next to come. Streamed in parts,
// or stored, such lines would cost more than all others.
template <typename T>
class OpenLine {
 public:
  static constexpr Index size = line_size<T>;

  [[nodiscard]] Index filled() const { return filled_; }

  // The first elements of a run, as many as the line still takes.
  template <bool kWithGradient>
  HWY_INLINE Index Close(const ApplyPointers<T>& at, const Arithmetic<kWithGradient, T>& c) {
    const Index count = size - filled_;
    HWY_ALIGN T line[size];
    (void)ApplyVectors<kWithGradient, false>(ApplyPointers<T>{at.x, at.dy, line}, 0, size, c);
    std::copy_n(line, count, line_ + filled_);
    T* to = at.out - filled_;
    const hn::CappedTag<T, kMostLanes> d;
    for (Index i = 0; i < size; i += static_cast<Index>(hn::Lanes(d))) hn::Stream(hn::Load(d, line_ + i), d, to + i);
    filled_ = 0;
    return count;
  }
  // The last elements of a run.
  template <bool kWithGradient>
  HWY_INLINE void Open(const ApplyPointers<T>& at, Index run, Index count, const Arithmetic<kWithGradient, T>& c) {
    HWY_ALIGN T line[size];
    const Index from = run - size;
    const ApplyPointers<T> last = {at.x + from, kWithGradient ? at.dy + from : nullptr, line};
    (void)ApplyVectors<kWithGradient, false>(last, 0, size, c);
    std::copy_n(line + size - count, count, line_);
    filled_ = count;
  }
  // Ends at `out`.
  HWY_INLINE void Store(T* out) const { std::copy_n(line_, filled_, out - filled_); }

 private:
  Index filled_ = 0;
  HWY_ALIGN T line_[size];
};

template <bool kWithGradient, bool kAllSingle, typename T>
HWY_INLINE Arithmetic<kWithGradient, T, kAllSingle> ArithmeticOfRun(const Coefficients& coefficients, Index channel) {
  const bool single = kAllSingle || AreSingle<T>(coefficients, channel, channel + 1);
  return {Columns<T>(coefficients), channel, Channels::one, single};
}

// Runs that follow each other without a gap, each of some lines.
template <bool kWithGradient, typename T>
HWY_INLINE void StreamRuns(ApplyPointers<T> at, Index runs, const RowStrides& strides, Index count,
                           const Coefficients& coefficients, bool same_channel) {
  constexpr Index line = OpenLine<T>::size;
  OpenLine<T> open;
  for (Index run = 0; run < runs; ++run) {
    const Arithmetic c = ArithmeticOfRun<kWithGradient, false, T>(coefficients, same_channel ? 0 : run);
    Index done = 0;
    if (open.filled() != 0) {
      done = open.template Close<kWithGradient>(at, c);
    } else if (run == 0) {
      done = elements_to_line(at.out);
      ApplyRun<kWithGradient>(at, done, c, Store::cached);
    }
    const Index end = done + (count - done) / line * line;
    (void)ApplyVectors<kWithGradient, true>(at, done, end, c);
    if (end < count) open.template Open<kWithGradient>(at, count, count - end, c);
    at = at.moved(strides.x, strides.dy, strides.out);
  }
  open.Store(at.out);
}

template <bool kWithGradient, bool kAllSingle, typename T>
HWY_INLINE void ApplyEachRun(ApplyPointers<T> at, Index runs, const RowStrides& strides, Index count,
                             const Coefficients& coefficients, bool same_channel, Store store) {
  for (Index run = 0; run < runs; ++run) {
    const Index channel = same_channel ? 0 : run;
    ApplyRun(at, count, ArithmeticOfRun<kWithGradient, kAllSingle, T>(coefficients, channel), store);
    at = at.moved(strides.x, strides.dy, strides.out);
  }
}

template <bool kWithGradient, typename T>
HWY_INLINE void ApplyRunsAs(ApplyPointers<T> at, Index runs, const RowStrides& strides, Index count,
                            const Coefficients& coefficients, bool same_channel, Store store) {
  if (store == Store::streamed && strides.out == count && count >= 2 * OpenLine<T>::size) {
    StreamRuns<kWithGradient>(at, runs, strides, count, coefficients, same_channel);
    return;
  }
  if (std::is_same_v<T, float> && !AreSingle<T>(coefficients, 0, same_channel ? 1 : runs)) {
    ApplyEachRun<kWithGradient, false>(at, runs, strides, count, coefficients, same_channel, store);
  } else {
    ApplyEachRun<kWithGradient, true>(at, runs, strides, count, coefficients, same_channel, store);
  }
}

// Some vectors of the columns, of `kRows` rows: coefficients are loaded once.
template <bool kWithGradient, bool kStreamed, int kRows, bool kAllSingle, typename T>
HWY_INLINE void ApplyColumns(const ApplyPointers<T>& at, Index columns, const RowStrides strides,
                             const Coefficients& coefficients, Index channel) {
  const auto width = static_cast<Index>(hn::Lanes(Tag<T>()));
  const Columns<T> from(coefficients);
  for (Index column = 0; column < columns; column += width) {
    // The same columns of the rows that come after these.
    if (column % line_size<T> == 0) {
      for (Index row = kRows; row < 2 * kRows; ++row) {
        hwy::Prefetch(at.x + row * strides.x + column);
        if constexpr (kWithGradient) hwy::Prefetch(at.dy + row * strides.dy + column);
      }
    }
    const Index first = channel + column;
    const bool are_single = kAllSingle || AreSingle<T>(coefficients, first, first + width);
    const Arithmetic<kWithGradient, T, kAllSingle> c(from, first, Channels::each, are_single);
    for (Index row = 0; row < kRows; ++row) {
      const T* const dy = kWithGradient ? at.dy + row * strides.dy + column : nullptr;
      const Vector<T> value = Compute(at.x + row * strides.x + column, dy, c);
      StoreValues<kStreamed>(value, at.out + row * strides.out + column);
    }
  }
}

// One or two vectors' width of all rows, with coefficients in registers.
template <bool kWithGradient, bool kStreamed, int kVectors, typename T>
HWY_INLINE void ApplyNarrowRows(ApplyPointers<T> at, Index rows, const RowStrides strides,
                                const Coefficients& coefficients, bool all_single) {
  const auto width = static_cast<Index>(hn::Lanes(Tag<T>()));
  const Arithmetic<kWithGradient, T> first(Columns<T>(coefficients), 0, Channels::each, all_single);
  const Arithmetic<kWithGradient, T> last(Columns<T>(coefficients), (kVectors - 1) * width, Channels::each, all_single);
  for (Index row = 0; row < rows; ++row) {
    const Vector<T> a = Compute(at.x, at.dy, first);
    if constexpr (kVectors > 1) {
      const Vector<T> b = Compute(at.x + width, kWithGradient ? at.dy + width : nullptr, last);
      StoreValues<kStreamed>(b, at.out + width);
    }
    StoreValues<kStreamed>(a, at.out);
    at = at.moved(strides.x, strides.dy, strides.out);
  }
}

// Fewer columns than a vector has.
template <bool kWithGradient, typename T>
HWY_INLINE void ApplyFewColumns(ApplyPointers<T> at, Index rows, Index columns, const RowStrides strides,
                                const Coefficients& coefficients, Index channel, bool all_single) {
  const PaddedCoefficients<kWithGradient, T> padded(coefficients, channel, columns);
  const Coefficients of_columns = padded.view();
  const Arithmetic<kWithGradient, T> c(Columns<T>(of_columns), 0, Channels::each, all_single);
  for (Index row = 0; row < rows; ++row) {
    ApplyFew(at, columns, c);
    at = at.moved(strides.x, strides.dy, strides.out);
  }
}

// Whole vectors of columns, some rows at a time.
template <bool kWithGradient, bool kStreamed, int kRows, bool kAllSingle, typename T>
HWY_INLINE void ApplyWideRows(const ApplyPointers<T>& at, Index rows, Index columns, const RowStrides& strides,
                              const Coefficients& coefficients) {
  // Coefficients of one block stay in L1 beside what is read and written.
  constexpr Index block_columns = 2048 / static_cast<Index>(sizeof(T));
  for (Index column = 0; column < columns; column += block_columns) {
    const Index size = std::min(block_columns, columns - column);
    ApplyPointers<T> block = at.moved(column, column, column);
    Index row = 0;
    for (; row + kRows <= rows; row += kRows) {
      ApplyColumns<kWithGradient, kStreamed, kRows, kAllSingle>(block, size, strides, coefficients, column);
      block = block.moved(kRows * strides.x, kRows * strides.dy, kRows * strides.out);
    }
    for (; row < rows; ++row) {
      ApplyColumns<kWithGradient, kStreamed, 1, kAllSingle>(block, size, strides, coefficients, column);
      block = block.moved(strides.x, strides.dy, strides.out);
    }
  }
}

template <bool kWithGradient, bool kStreamed, typename T>
HWY_INLINE void ApplyRowsAs(ApplyPointers<T> at, Index rows, Index columns, const RowStrides& strides,
                            const Coefficients& coefficients) {
  const auto width = static_cast<Index>(hn::Lanes(Tag<T>()));
  const bool all_single = AreSingle<T>(coefficients, 0, columns);
  const Index whole = columns / width * width;
  // With a second input, more rows at a time would fill the cache too soon.
  constexpr int rows_at_once = kWithGradient ? 2 : 4;
  // Streamed lines are written in the order of memory, unless rows lie close together.
  constexpr Index few_columns = 128;
  if (whole == width) {
    ApplyNarrowRows<kWithGradient, kStreamed, 1>(at, rows, strides, coefficients, all_single);
  } else if (whole == 2 * width) {
    ApplyNarrowRows<kWithGradient, kStreamed, 2>(at, rows, strides, coefficients, all_single);
  } else if (std::is_same_v<T, float> && !all_single) {
    ApplyWideRows<kWithGradient, kStreamed, 1, false>(at, rows, whole, strides, coefficients);
  } else if (kStreamed && columns > few_columns) {
    ApplyWideRows<kWithGradient, kStreamed, 1, true>(at, rows, whole, strides, coefficients);
  } else if (strides.x == strides.out && (!kWithGradient || strides.dy == strides.x)) {
    ApplyWideRows<kWithGradient, kStreamed, rows_at_once, true>(at, rows, whole, {strides.x, strides.x, strides.x},
                                                                coefficients);
  } else {
    ApplyWideRows<kWithGradient, kStreamed, rows_at_once, true>(at, rows, whole, strides, coefficients);
  }
  if (whole < columns) {
    ApplyFewColumns<kWithGradient>(at.moved(whole, whole, whole), rows, columns - whole, strides, coefficients, whole,
                                   all_single);
  }
}

template <typename T>
HWY_INLINE void ApplyRows(const ApplyPointers<T>& at, Index rows, Index columns, const RowStrides& strides,
                          const Coefficients& c, Store store) {
  if (store == Store::streamed) {
    at.dy == nullptr ? ApplyRowsAs<false, true>(at, rows, columns, strides, c)
                     : ApplyRowsAs<true, true>(at, rows, columns, strides, c);
  } else {
    at.dy == nullptr ? ApplyRowsAs<false, false>(at, rows, columns, strides, c)
                     : ApplyRowsAs<true, false>(at, rows, columns, strides, c);
  }
}

void RunsFloat(const ApplyPointers<float>& at, Index runs, const RowStrides& strides, Index count,
               const Coefficients& c, bool same_channel, Store store) {
  at.dy == nullptr ? ApplyRunsAs<false>(at, runs, strides, count, c, same_channel, store)
                   : ApplyRunsAs<true>(at, runs, strides, count, c, same_channel, store);
}
void RunsDouble(const ApplyPointers<double>& at, Index runs, const RowStrides& strides, Index count,
                const Coefficients& c, bool same_channel, Store store) {
  at.dy == nullptr ? ApplyRunsAs<false>(at, runs, strides, count, c, same_channel, store)
                   : ApplyRunsAs<true>(at, runs, strides, count, c, same_channel, store);
}
void RowsFloat(const ApplyPointers<float>& at, Index rows, Index columns, const RowStrides& strides,
               const Coefficients& c, Store store) {
  ApplyRows(at, rows, columns, strides, c, store);
}
void RowsDouble(const ApplyPointers<double>& at, Index rows, Index columns, const RowStrides& strides,
                const Coefficients& c, Store store) {
  ApplyRows(at, rows, columns, strides, c, store);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(RunsFloat);
HWY_EXPORT(RunsDouble);
HWY_EXPORT(RowsFloat);
HWY_EXPORT(RowsDouble);

void flush_streams() noexcept { hwy::FlushStream(); }

template <>
void apply_runs(const ApplyPointers<float>& at, Index runs, const RowStrides& strides, Index count,
                const Coefficients& coefficients, bool same_channel, Store store) {
  HWY_DISPATCH_TABLE(RunsFloat)[active_target_index()](at, runs, strides, count, coefficients, same_channel, store);
}
template <>
void apply_runs(const ApplyPointers<double>& at, Index runs, const RowStrides& strides, Index count,
                const Coefficients& coefficients, bool same_channel, Store store) {
  HWY_DISPATCH_TABLE(RunsDouble)[active_target_index()](at, runs, strides, count, coefficients, same_channel, store);
}
template <>
void apply_rows(const ApplyPointers<float>& at, Index rows, Index columns, const RowStrides& strides,
                const Coefficients& coefficients, Store store) {
  HWY_DISPATCH_TABLE(RowsFloat)[active_target_index()](at, rows, columns, strides, coefficients, store);
}
template <>
void apply_rows(const ApplyPointers<double>& at, Index rows, Index columns, const RowStrides& strides,
                const Coefficients& coefficients, Store store) {
  HWY_DISPATCH_TABLE(RowsDouble)[active_target_index()](at, rows, columns, strides, coefficients, store);
}

}  // namespace exactnorm
#endif  // HWY_ONCE

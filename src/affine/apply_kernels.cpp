#include "affine/apply_kernels.h"

#include <algorithm>

#include "simd/cache_line.h"
#include "simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "affine/apply_kernels.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "affine/apply_arithmetic-inl.h"
#include "affine/apply_rows-inl.h"
#include "simd/elements-inl.h"

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Elements from `done` on, while there are whole vectors; returns the first element that was left.
template <Formula kFormula, bool kStreamed, typename Element, bool kAllSingle>
HWY_INLINE Index ApplyVectors(const ApplyPointers<Element>& at, Index done, Index count,
                              const Arithmetic<kFormula, Value<Element>, kAllSingle>& c) {
  const auto width = static_cast<Index>(hn::Lanes(Tag<Value<Element>>()));
  const auto one = [&](Index i) HWY_ATTR {
    const Vector<Value<Element>> value = Compute(at.x + i, reads_second(kFormula) ? at.second + i : nullptr, c);
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

template <Formula kFormula, typename Element, bool kAllSingle>
HWY_INLINE void ApplyRun(const ApplyPointers<Element>& at, Index count,
                         const Arithmetic<kFormula, Value<Element>, kAllSingle>& c, Store store) {
  const auto width = static_cast<Index>(hn::Lanes(Tag<Value<Element>>()));
  if (count < width) {
    ApplyFew(at, count, c);
    return;
  }
  // The last elements, where they are no whole vector, are one that overlaps the one before. It is computed first,
  // since the stores may overwrite what it reads.
  const Index last = count - width;
  Vector<Value<Element>> last_value = hn::Zero(Tag<Value<Element>>());
  if (count % width != 0 || store == Store::streamed) {
    last_value = Compute(at.x + last, reads_second(kFormula) ? at.second + last : nullptr, c);
  }
  Index done = 0;
  constexpr Index line = line_size<Element>;
  if (store == Store::streamed && count >= 2 * line) {
    // Whole lines only: a line that is streamed in part, and shared with the next run, costs more than it saves.
    const Index head = elements_to_line(at.out);
    if (head != 0) (void)ApplyVectors<kFormula, false>(at, 0, (head + width - 1) / width * width, c);
    done = ApplyVectors<kFormula, true>(at, head, head + (count - head) / line * line, c);
  }
  done = ApplyVectors<kFormula, false>(at, done, count, c);
  if (done < count) StoreValues<false>(last_value, at.out + last);
}

// A cache line, past the caches.
template <typename Element>
HWY_INLINE void StreamLine(const Element* line, Element* to) {
  if constexpr (is_half<Element>) {
    const hn::CappedTag<std::uint16_t, kMostLanes> d;
    for (Index i = 0; i < line_size<Element>; i += static_cast<Index>(hn::Lanes(d))) {
      hn::Stream(hn::Load(d, BitsOf(line + i)), d, BitsOf(to + i));
    }
  } else {
    const Tag<Element> d;
    for (Index i = 0; i < line_size<Element>; i += static_cast<Index>(hn::Lanes(d))) {
      hn::Stream(hn::Load(d, line + i), d, to + i);
    }
  }
}

// Elements of a line that are not yet whole: the end of one run, with the start of the next to come. Streamed in parts,
// or stored, such lines would cost more than all others.
template <typename Element>
class OpenLine {
 public:
  static constexpr Index size = line_size<Element>;

  [[nodiscard]] Index filled() const { return filled_; }

  // The first elements of a run, as many as the line still takes.
  template <Formula kFormula>
  HWY_INLINE Index Close(const ApplyPointers<Element>& at, const Arithmetic<kFormula, Value<Element>>& c) {
    const Index count = size - filled_;
    HWY_ALIGN Element line[size];
    (void)ApplyVectors<kFormula, false>(ApplyPointers<Element>{at.x, at.second, line}, 0, size, c);
    std::copy_n(line, count, line_ + filled_);
    Element* to = at.out - filled_;
    StreamLine(line_, to);
    filled_ = 0;
    return count;
  }
  // The last elements of a run.
  template <Formula kFormula>
  HWY_INLINE void Open(const ApplyPointers<Element>& at, Index run, Index count,
                       const Arithmetic<kFormula, Value<Element>>& c) {
    HWY_ALIGN Element line[size];
    const Index from = run - size;
    const ApplyPointers<Element> last = {at.x + from, reads_second(kFormula) ? at.second + from : nullptr, line};
    (void)ApplyVectors<kFormula, false>(last, 0, size, c);
    std::copy_n(line + size - count, count, line_);
    filled_ = count;
  }
  // Ends at `out`.
  HWY_INLINE void Store(Element* out) const { std::copy_n(line_, filled_, out - filled_); }

 private:
  Index filled_ = 0;
  HWY_ALIGN Element line_[size];
};

template <Formula kFormula, bool kAllSingle, typename T>
HWY_INLINE Arithmetic<kFormula, T, kAllSingle> ArithmeticOfRun(const Coefficients& coefficients, Index channel) {
  const bool single = kAllSingle || AreSingle<T>(coefficients, channel, channel + 1);
  return {Columns<T>(coefficients), channel, Channels::one, single};
}

// Runs that follow each other without a gap, each of some lines.
template <Formula kFormula, typename Element>
HWY_INLINE void StreamRuns(ApplyPointers<Element> at, Index runs, const RowStrides& strides, Index count,
                           const Coefficients& coefficients, bool same_channel) {
  constexpr Index line = OpenLine<Element>::size;
  OpenLine<Element> open;
  for (Index run = 0; run < runs; ++run) {
    const Arithmetic c = ArithmeticOfRun<kFormula, false, Value<Element>>(coefficients, same_channel ? 0 : run);
    Index done = 0;
    if (open.filled() != 0) {
      done = open.template Close<kFormula>(at, c);
    } else if (run == 0) {
      done = elements_to_line(at.out);
      ApplyRun<kFormula>(at, done, c, Store::cached);
    }
    const Index end = done + (count - done) / line * line;
    (void)ApplyVectors<kFormula, true>(at, done, end, c);
    if (end < count) open.template Open<kFormula>(at, count, count - end, c);
    at = at.moved(strides.x, strides.second, strides.out);
  }
  open.Store(at.out);
}

template <Formula kFormula, bool kAllSingle, typename Element>
HWY_NOINLINE void ApplyEachRun(ApplyPointers<Element> at, Index runs, const RowStrides& strides, Index count,
                               const Coefficients& coefficients, bool same_channel, Store store) {
  for (Index run = 0; run < runs; ++run) {
    const Index channel = same_channel ? 0 : run;
    ApplyRun(at, count, ArithmeticOfRun<kFormula, kAllSingle, Value<Element>>(coefficients, channel), store);
    at = at.moved(strides.x, strides.second, strides.out);
  }
}

// A function of its own, as ApplyRowsAs is.
template <Formula kFormula, typename Element>
HWY_NOINLINE void ApplyRunsAs(ApplyPointers<Element> at, Index runs, const RowStrides& strides, Index count,
                              const Coefficients& coefficients, bool same_channel, Store store) {
  if (store == Store::streamed && strides.out == count && count >= 2 * OpenLine<Element>::size) {
    StreamRuns<kFormula>(at, runs, strides, count, coefficients, same_channel);
    return;
  }
  if (!std::is_same_v<Element, double> && !AreSingle<Value<Element>>(coefficients, 0, same_channel ? 1 : runs)) {
    ApplyEachRun<kFormula, false>(at, runs, strides, count, coefficients, same_channel, store);
  } else {
    ApplyEachRun<kFormula, true>(at, runs, strides, count, coefficients, same_channel, store);
  }
}

template <typename Element>
HWY_INLINE void ApplyRuns(Formula formula, const ApplyPointers<Element>& at, Index runs, const RowStrides& strides,
                          Index count, const Coefficients& c, bool same_channel, Store store) {
  switch (formula) {
    case Formula::forward:
      return ApplyRunsAs<Formula::forward>(at, runs, strides, count, c, same_channel, store);
    case Formula::relu:
      return ApplyRunsAs<Formula::relu>(at, runs, strides, count, c, same_channel, store);
    case Formula::relu6:
      return ApplyRunsAs<Formula::relu6>(at, runs, strides, count, c, same_channel, store);
    case Formula::sum:
      return ApplyRunsAs<Formula::sum>(at, runs, strides, count, c, same_channel, store);
    case Formula::relu_of_sum:
      return ApplyRunsAs<Formula::relu_of_sum>(at, runs, strides, count, c, same_channel, store);
    case Formula::gradient:
      return ApplyRunsAs<Formula::gradient>(at, runs, strides, count, c, same_channel, store);
    case Formula::windowed_gradient:
      if constexpr (!std::is_same_v<Element, double>) {
        ApplyRunsAs<Formula::windowed_gradient>(at, runs, strides, count, c, same_channel, store);
      }
  }
}

void RunsFloat(Formula formula, const ApplyPointers<float>& at, Index runs, const RowStrides& strides, Index count,
               const Coefficients& c, bool same_channel, Store store) {
  ApplyRuns(formula, at, runs, strides, count, c, same_channel, store);
}
void RowsFloat(Formula formula, const ApplyPointers<float>& at, Index rows, Index columns, const RowStrides& strides,
               const Coefficients& c, Store store) {
  ApplyRows(formula, at, rows, columns, strides, c, store);
}
void RunsDouble(Formula formula, const ApplyPointers<double>& at, Index runs, const RowStrides& strides, Index count,
                const Coefficients& c, bool same_channel, Store store) {
  ApplyRuns(formula, at, runs, strides, count, c, same_channel, store);
}
void RowsDouble(Formula formula, const ApplyPointers<double>& at, Index rows, Index columns, const RowStrides& strides,
                const Coefficients& c, Store store) {
  ApplyRows(formula, at, rows, columns, strides, c, store);
}
void RunsBfloat16(Formula formula, const ApplyPointers<bfloat16>& at, Index runs, const RowStrides& strides,
                  Index count, const Coefficients& c, bool same_channel, Store store) {
  ApplyRuns(formula, at, runs, strides, count, c, same_channel, store);
}
void RowsBfloat16(Formula formula, const ApplyPointers<bfloat16>& at, Index rows, Index columns,
                  const RowStrides& strides, const Coefficients& c, Store store) {
  ApplyRows(formula, at, rows, columns, strides, c, store);
}
void RunsFloat16(Formula formula, const ApplyPointers<float16>& at, Index runs, const RowStrides& strides, Index count,
                 const Coefficients& c, bool same_channel, Store store) {
  ApplyRuns(formula, at, runs, strides, count, c, same_channel, store);
}
void RowsFloat16(Formula formula, const ApplyPointers<float16>& at, Index rows, Index columns,
                 const RowStrides& strides, const Coefficients& c, Store store) {
  ApplyRows(formula, at, rows, columns, strides, c, store);
}

}  // namespace exactnorm::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace exactnorm {

HWY_EXPORT(RunsFloat);
HWY_EXPORT(RowsFloat);
HWY_EXPORT(RunsDouble);
HWY_EXPORT(RowsDouble);
HWY_EXPORT(RunsBfloat16);
HWY_EXPORT(RowsBfloat16);
HWY_EXPORT(RunsFloat16);
HWY_EXPORT(RowsFloat16);

void flush_streams() noexcept { hwy::FlushStream(); }

template <>
void apply_runs(Formula formula, const ApplyPointers<float>& at, Index runs, const RowStrides& strides, Index count,
                const Coefficients& coefficients, bool same_channel, Store store) {
  HWY_DISPATCH_TABLE(RunsFloat)
  [active_target_index()](formula, at, runs, strides, count, coefficients, same_channel, store);
}
template <>
void apply_rows(Formula formula, const ApplyPointers<float>& at, Index rows, Index columns, const RowStrides& strides,
                const Coefficients& coefficients, Store store) {
  HWY_DISPATCH_TABLE(RowsFloat)[active_target_index()](formula, at, rows, columns, strides, coefficients, store);
}
template <>
void apply_runs(Formula formula, const ApplyPointers<double>& at, Index runs, const RowStrides& strides, Index count,
                const Coefficients& coefficients, bool same_channel, Store store) {
  HWY_DISPATCH_TABLE(RunsDouble)
  [active_target_index()](formula, at, runs, strides, count, coefficients, same_channel, store);
}
template <>
void apply_rows(Formula formula, const ApplyPointers<double>& at, Index rows, Index columns, const RowStrides& strides,
                const Coefficients& coefficients, Store store) {
  HWY_DISPATCH_TABLE(RowsDouble)[active_target_index()](formula, at, rows, columns, strides, coefficients, store);
}
template <>
void apply_runs(Formula formula, const ApplyPointers<bfloat16>& at, Index runs, const RowStrides& strides, Index count,
                const Coefficients& coefficients, bool same_channel, Store store) {
  HWY_DISPATCH_TABLE(RunsBfloat16)
  [active_target_index()](formula, at, runs, strides, count, coefficients, same_channel, store);
}
template <>
void apply_rows(Formula formula, const ApplyPointers<bfloat16>& at, Index rows, Index columns,
                const RowStrides& strides, const Coefficients& coefficients, Store store) {
  HWY_DISPATCH_TABLE(RowsBfloat16)[active_target_index()](formula, at, rows, columns, strides, coefficients, store);
}
template <>
void apply_runs(Formula formula, const ApplyPointers<float16>& at, Index runs, const RowStrides& strides, Index count,
                const Coefficients& coefficients, bool same_channel, Store store) {
  HWY_DISPATCH_TABLE(RunsFloat16)
  [active_target_index()](formula, at, runs, strides, count, coefficients, same_channel, store);
}
template <>
void apply_rows(Formula formula, const ApplyPointers<float16>& at, Index rows, Index columns, const RowStrides& strides,
                const Coefficients& coefficients, Store store) {
  HWY_DISPATCH_TABLE(RowsFloat16)[active_target_index()](formula, at, rows, columns, strides, coefficients, store);
}

}  // namespace exactnorm
#endif  // HWY_ONCE

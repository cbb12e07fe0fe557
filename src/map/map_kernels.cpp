#include "map/map_kernels.h"

#include <algorithm>
#include <cstdint>

#include "simd/target.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "map/map_kernels.cpp"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace exactnorm::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr std::size_t kMostLanes = 32;
using D = hn::CappedTag<double, kMostLanes>;
using V = hn::Vec<D>;

HWY_INLINE V LoadValues(const double* from) { return hn::LoadU(D(), from); }
HWY_INLINE V LoadValues(const float* from) { return hn::PromoteTo(D(), hn::LoadU(hn::Rebind<float, D>(), from)); }

template <bool kStreamed>
HWY_INLINE void StoreValues(V values, double* to) {
  if constexpr (kStreamed) {
    hn::Stream(values, D(), to);
  } else {
    hn::StoreU(values, D(), to);
  }
}
template <bool kStreamed>
HWY_INLINE void StoreValues(V values, float* to) {
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
  // These targets' DemoteTo turns infinity into the largest float32; the language's conversion does not.
  HWY_ALIGN double lanes[kMostLanes];
  hn::Store(values, D(), lanes);
  for (std::size_t i = 0; i < hn::Lanes(D()); ++i) to[i] = static_cast<float>(lanes[i]);
#else
  const hn::Rebind<float, D> narrow;
  // Half a vector cannot be streamed.
  if constexpr (kStreamed && hn::MaxLanes(narrow) >= 4) {
    hn::Stream(hn::DemoteTo(narrow, values), narrow, to);
  } else {
    hn::StoreU(hn::DemoteTo(narrow, values), narrow, to);
  }
#endif
}

struct Coefficients {
  V mean;
  V x_scale;
  V shift;
  V normalized_scale;
  V dy_scale;
};

template <bool kWithGradient, typename T>
HWY_INLINE V Compute(const T* x, const T* dy, const Coefficients& c) {
  V value = hn::Mul(hn::Sub(LoadValues(x), c.mean), c.x_scale);
  if constexpr (kWithGradient) value = hn::Mul(value, c.normalized_scale);
  value = hn::Add(value, c.shift);
  if constexpr (kWithGradient) value = hn::Mul(hn::Add(LoadValues(dy), value), c.dy_scale);
  return value;
}

// Fewer elements than a vector has: through a buffer, so that nothing beyond them is read or written.
template <bool kWithGradient, typename T>
HWY_INLINE void MapFew(const MapPointers<T>& at, Index count, const Coefficients& c) {
  T x[kMostLanes] = {};
  T dy[kMostLanes] = {};
  std::copy_n(at.x, count, x);
  if constexpr (kWithGradient) std::copy_n(at.dy, count, dy);
  StoreValues<false>(Compute<kWithGradient>(x, dy, c), x);
  std::copy_n(x, count, at.out);
}

template <bool kWithGradient>
HWY_INLINE Coefficients SetCoefficients(const MapCoefficients& c) {
  const D d;
  return {hn::Set(d, *c.mean), hn::Set(d, *c.x_scale), hn::Set(d, *c.shift),
          hn::Set(d, kWithGradient ? *c.normalized_scale : 0.0), hn::Set(d, kWithGradient ? *c.dy_scale : 0.0)};
}

// Elements from `done` on, while there are whole vectors; returns the first element that was left.
template <bool kWithGradient, bool kStreamed, typename T>
HWY_INLINE Index MapVectors(const MapPointers<T>& at, Index done, Index count, const Coefficients& c) {
  const auto width = static_cast<Index>(hn::Lanes(D()));
  const auto one = [&](Index i) HWY_ATTR {
    const V value = Compute<kWithGradient>(at.x + i, kWithGradient ? at.dy + i : nullptr, c);
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

template <bool kWithGradient, typename T>
HWY_INLINE void MapRun(const MapPointers<T>& at, Index count, const Coefficients& c, Store store) {
  const auto width = static_cast<Index>(hn::Lanes(D()));
  if (count < width) {
    MapFew<kWithGradient>(at, count, c);
    return;
  }
  // The last elements are a whole vector that overlaps the one before. It is computed first, since the
  // stores may overwrite what it reads.
  const Index last = count - width;
  const V last_value = Compute<kWithGradient>(at.x + last, kWithGradient ? at.dy + last : nullptr, c);
  Index done = 0;
  constexpr auto line = static_cast<Index>(streamed_alignment / sizeof(T));
  if (store == Store::streamed && count >= 2 * line) {
    // Whole lines only: a line that is streamed in part, and shared with the next run, costs more than it saves.
    const auto beyond = static_cast<Index>(reinterpret_cast<std::uintptr_t>(at.out) % streamed_alignment);
    const Index head = (streamed_alignment - beyond) % streamed_alignment / static_cast<Index>(sizeof(T));
    if (head != 0) (void)MapVectors<kWithGradient, false>(at, 0, (head + width - 1) / width * width, c);
    done = MapVectors<kWithGradient, true>(at, head, head + (count - head) / line * line, c);
  }
  done = MapVectors<kWithGradient, false>(at, done, count, c);
  if (done < count) StoreValues<false>(last_value, at.out + last);
}

// Elements of a line that are not yet whole: the end of one run, with the start of the next to come. Streamed in parts,
// or stored, such lines would cost more than all others.
template <typename T>
class OpenLine {
 public:
  static constexpr Index size = streamed_alignment / static_cast<Index>(sizeof(T));

  [[nodiscard]] Index filled() const { return filled_; }

  // The first elements of a run, as many as the line still takes.
  template <bool kWithGradient>
  HWY_INLINE Index Close(const MapPointers<T>& at, const Coefficients& c) {
    const Index count = size - filled_;
    HWY_ALIGN T line[size];
    (void)MapVectors<kWithGradient, false>(MapPointers<T>{at.x, at.dy, line}, 0, size, c);
    std::copy_n(line, count, line_ + filled_);
    T* to = at.out - filled_;
    const hn::CappedTag<T, kMostLanes> d;
    for (Index i = 0; i < size; i += static_cast<Index>(hn::Lanes(d))) hn::Stream(hn::Load(d, line_ + i), d, to + i);
    filled_ = 0;
    return count;
  }
  // The last elements of a run.
  template <bool kWithGradient>
  HWY_INLINE void Open(const MapPointers<T>& at, Index run, Index count, const Coefficients& c) {
    HWY_ALIGN T line[size];
    const Index from = run - size;
    const MapPointers<T> last = {at.x + from, kWithGradient ? at.dy + from : nullptr, line};
    (void)MapVectors<kWithGradient, false>(last, 0, size, c);
    std::copy_n(line + size - count, count, line_);
    filled_ = count;
  }
  // Ends at `out`.
  HWY_INLINE void Store(T* out) const { std::copy_n(line_, filled_, out - filled_); }

 private:
  Index filled_ = 0;
  HWY_ALIGN T line_[size];
};

// Runs that follow each other without a gap, each of some lines.
template <bool kWithGradient, typename T>
HWY_INLINE void StreamRuns(MapPointers<T> at, Index runs, const RowStrides& strides, Index count,
                           const MapCoefficients& coefficients, bool same_channel) {
  constexpr Index line = OpenLine<T>::size;
  OpenLine<T> open;
  for (Index run = 0; run < runs; ++run) {
    const Coefficients c = SetCoefficients<kWithGradient>(coefficients.from(same_channel ? 0 : run));
    Index done = 0;
    if (open.filled() != 0) {
      done = open.template Close<kWithGradient>(at, c);
    } else if (run == 0) {
      const auto beyond = static_cast<Index>(reinterpret_cast<std::uintptr_t>(at.out) % streamed_alignment);
      done = (streamed_alignment - beyond) % streamed_alignment / static_cast<Index>(sizeof(T));
      MapRun<kWithGradient>(at, done, c, Store::cached);
    }
    const Index end = done + (count - done) / line * line;
    (void)MapVectors<kWithGradient, true>(at, done, end, c);
    if (end < count) open.template Open<kWithGradient>(at, count, count - end, c);
    at = at.moved(strides.x, strides.dy, strides.out);
  }
  open.Store(at.out);
}

template <bool kWithGradient, typename T>
HWY_INLINE void MapRunsAs(MapPointers<T> at, Index runs, const RowStrides& strides, Index count,
                          const MapCoefficients& coefficients, bool same_channel, Store store) {
  if (store == Store::streamed && strides.out == count && count >= 2 * OpenLine<T>::size) {
    StreamRuns<kWithGradient>(at, runs, strides, count, coefficients, same_channel);
    return;
  }
  for (Index run = 0; run < runs; ++run) {
    MapRun<kWithGradient>(at, count, SetCoefficients<kWithGradient>(coefficients.from(same_channel ? 0 : run)), store);
    at = at.moved(strides.x, strides.dy, strides.out);
  }
}

template <bool kWithGradient>
HWY_INLINE Coefficients LoadCoefficients(const MapCoefficients& c) {
  const D d;
  return {hn::LoadU(d, c.mean), hn::LoadU(d, c.x_scale), hn::LoadU(d, c.shift),
          kWithGradient ? hn::LoadU(d, c.normalized_scale) : hn::Zero(d),
          kWithGradient ? hn::LoadU(d, c.dy_scale) : hn::Zero(d)};
}

// Two vectors' width of all rows.
template <bool kWithGradient, bool kStreamed, typename T>
HWY_INLINE void MapColumns(MapPointers<T> at, Index rows, const RowStrides& strides, const MapCoefficients& c) {
  const auto width = static_cast<Index>(hn::Lanes(D()));
  const Coefficients first = LoadCoefficients<kWithGradient>(c);
  const Coefficients second = LoadCoefficients<kWithGradient>(c.from(width));
  for (Index row = 0; row < rows; ++row) {
    // The same columns of the rows that come after these.
    hwy::Prefetch(at.x + rows * strides.x);
    if constexpr (kWithGradient) hwy::Prefetch(at.dy + rows * strides.dy);
    const V a = Compute<kWithGradient>(at.x, at.dy, first);
    const V b = Compute<kWithGradient>(at.x + width, kWithGradient ? at.dy + width : nullptr, second);
    StoreValues<kStreamed>(a, at.out);
    StoreValues<kStreamed>(b, at.out + width);
    at = at.moved(strides.x, strides.dy, strides.out);
  }
}

// Fewer columns than a vector has.
template <bool kWithGradient, typename T>
HWY_INLINE void MapFewColumns(MapPointers<T> at, Index rows, Index columns, const RowStrides& strides,
                              const MapCoefficients& coefficients) {
  double values[5][kMostLanes] = {};
  const double* sources[5] = {coefficients.mean, coefficients.x_scale, coefficients.shift,
                              coefficients.normalized_scale, coefficients.dy_scale};
  for (int j = 0; j < (kWithGradient ? 5 : 3); ++j) std::copy_n(sources[j], columns, values[j]);
  const Coefficients c = LoadCoefficients<kWithGradient>({values[0], values[1], values[2], values[3], values[4]});
  for (Index row = 0; row < rows; ++row) {
    MapFew<kWithGradient>(at, columns, c);
    at = at.moved(strides.x, strides.dy, strides.out);
  }
}

template <bool kWithGradient, bool kStreamed, typename T>
HWY_INLINE void MapRowsAs(MapPointers<T> at, Index rows, Index columns, const RowStrides& strides,
                          const MapCoefficients& coefficients) {
  const auto width = static_cast<Index>(hn::Lanes(D()));
  // Coefficients are loaded once for some rows. Where memory is the bottleneck it wants to be written in its own order,
  // unless rows lie close together, or are long enough to be streams of their own.
  constexpr Index few_columns = 128;
  constexpr Index many_columns = 1024;
  const bool one_by_one = kStreamed && columns > few_columns && columns < many_columns;
  const bool keep = columns <= 2 * width;  // in registers
  const Index rows_at_once = keep ? rows : (one_by_one ? 1 : 4);
  for (Index done = 0; done < rows; done += rows_at_once) {
    const Index size = std::min(rows_at_once, rows - done);
    Index column = 0;
    for (; column + 2 * width <= columns; column += 2 * width) {
      MapColumns<kWithGradient, kStreamed>(at.moved(column, column, column), size, strides, coefficients.from(column));
    }
    for (; column < columns; column += width) {
      const Index few = std::min(width, columns - column);
      MapFewColumns<kWithGradient>(at.moved(column, column, column), size, few, strides, coefficients.from(column));
    }
    at = at.moved(size * strides.x, size * strides.dy, size * strides.out);
  }
}

template <typename T>
HWY_INLINE void MapRows(const MapPointers<T>& at, Index rows, Index columns, const RowStrides& strides,
                        const MapCoefficients& c, Store store) {
  if (store == Store::streamed) {
    at.dy == nullptr ? MapRowsAs<false, true>(at, rows, columns, strides, c)
                     : MapRowsAs<true, true>(at, rows, columns, strides, c);
  } else {
    at.dy == nullptr ? MapRowsAs<false, false>(at, rows, columns, strides, c)
                     : MapRowsAs<true, false>(at, rows, columns, strides, c);
  }
}

void RunsFloat(const MapPointers<float>& at, Index runs, const RowStrides& strides, Index count,
               const MapCoefficients& c, bool same_channel, Store store) {
  at.dy == nullptr ? MapRunsAs<false>(at, runs, strides, count, c, same_channel, store)
                   : MapRunsAs<true>(at, runs, strides, count, c, same_channel, store);
}
void RunsDouble(const MapPointers<double>& at, Index runs, const RowStrides& strides, Index count,
                const MapCoefficients& c, bool same_channel, Store store) {
  at.dy == nullptr ? MapRunsAs<false>(at, runs, strides, count, c, same_channel, store)
                   : MapRunsAs<true>(at, runs, strides, count, c, same_channel, store);
}
void RowsFloat(const MapPointers<float>& at, Index rows, Index columns, const RowStrides& strides,
               const MapCoefficients& c, Store store) {
  MapRows(at, rows, columns, strides, c, store);
}
void RowsDouble(const MapPointers<double>& at, Index rows, Index columns, const RowStrides& strides,
                const MapCoefficients& c, Store store) {
  MapRows(at, rows, columns, strides, c, store);
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
void map_runs(const MapPointers<float>& at, Index runs, const RowStrides& strides, Index count,
              const MapCoefficients& coefficients, bool same_channel, Store store) {
  HWY_DISPATCH_TABLE(RunsFloat)[active_target_index()](at, runs, strides, count, coefficients, same_channel, store);
}
template <>
void map_runs(const MapPointers<double>& at, Index runs, const RowStrides& strides, Index count,
              const MapCoefficients& coefficients, bool same_channel, Store store) {
  HWY_DISPATCH_TABLE(RunsDouble)[active_target_index()](at, runs, strides, count, coefficients, same_channel, store);
}
template <>
void map_rows(const MapPointers<float>& at, Index rows, Index columns, const RowStrides& strides,
              const MapCoefficients& coefficients, Store store) {
  HWY_DISPATCH_TABLE(RowsFloat)[active_target_index()](at, rows, columns, strides, coefficients, store);
}
template <>
void map_rows(const MapPointers<double>& at, Index rows, Index columns, const RowStrides& strides,
              const MapCoefficients& coefficients, Store store) {
  HWY_DISPATCH_TABLE(RowsDouble)[active_target_index()](at, rows, columns, strides, coefficients, store);
}

}  // namespace exactnorm
#endif  // HWY_ONCE

#include "map/map.h"

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "solve/single.h"
#include "tensor/element_type.h"
#include "tensor/packed_tile.h"
#include "traverse/short_runs.h"
#include "traverse/walk.h"

namespace exactnorm {

CoefficientTable::CoefficientTable(Index channels)
    : stride_((channels + 63) / 64 * 64 + 48),
      values_(std::make_unique_for_overwrite<double[]>(static_cast<std::size_t>(5 * stride_))),
      single_values_(std::make_unique_for_overwrite<float[]>(static_cast<std::size_t>(5 * stride_))) {}

void CoefficientTable::finish(Index first, Index count, bool with_gradient) {
  const SingleTargets to = {single_column(0) + first, single_column(1) + first, single_column(2) + first,
                            single_column(3) + first, single_column(4) + first};
  if (with_gradient) {
    solve_single(
        BackwardColumns{column(0) + first, column(1) + first, column(2) + first, column(3) + first, column(4) + first},
        count, to);
  } else {
    solve_single(ForwardColumns{column(0) + first, column(1) + first, column(2) + first, column(3) + first}, count, to);
  }
}

void CoefficientTable::finish(std::span<const Index> channels, bool with_gradient) {
  // Stretches of neighbours at a time.
  for (std::size_t begin = 0; begin < channels.size();) {
    std::size_t end = begin + 1;
    while (end < channels.size() && channels[end] == channels[end - 1] + 1) ++end;
    finish(channels[begin], static_cast<Index>(end - begin), with_gradient);
    begin = end;
  }
}

MapCoefficients CoefficientTable::view() const noexcept {
  return {column(0), column(1),
          column(2), column(3),
          column(4), {single_column(0), single_column(1), single_column(2), single_column(3), single_column(4)}};
}

CoefficientTable gather(const MapCoefficients& coefficients, const std::vector<Index>& channels) {
  CoefficientTable gathered(static_cast<Index>(channels.size()));
  const double* const sources[] = {coefficients.mean, coefficients.x_scale, coefficients.shift,
                                   coefficients.normalized_scale, coefficients.dy_scale};
  const SingleColumns& single = coefficients.single;
  const float* const single_sources[] = {single.mean, single.scale, single.scale_rest, single.shift, single.x_scale};
  for (Index which = 0; which < 5; ++which) {
    const double* from = sources[which];
    const float* single_from = single_sources[which];
    double* to = gathered.column(which);
    float* single_to = gathered.single_column(which);
    for (const Index channel : channels) {
      *to++ = from[channel];
      *single_to++ = single_from[channel];
    }
  }
  return gathered;
}

LoopNest make_map_nest(const MapOperands& operands, const IndexList& channel_axes, const ChannelMap& channels) {
  std::vector<TensorView> views = {operands.x, operands.out};
  if (operands.dy) views.push_back(*operands.dy);
  return make_loop_nest(views, channel_axes, channels);
}

namespace {

// Positions of the operands in the nest.
constexpr std::size_t x_at = 0;
constexpr std::size_t out_at = 1;
constexpr std::size_t dy_at = 2;

// `count` channels over and over, `period` in all, from the one after `skipped` on.
CoefficientTable repeat(const MapCoefficients& coefficients, Index count, Index period, Index skipped) {
  std::vector<Index> channels;
  channels.reserve(static_cast<std::size_t>(period));
  for (Index i = 0; i < period; ++i) channels.push_back((skipped + i) % count);
  return gather(coefficients, channels);
}

// T is the type that the kernels read and write; elements of others pass through a small buffer.
template <typename T>
class BoxMapper {
 public:
  BoxMapper(const LoopNest& nest, const Box& box, const MapOperands& operands, const MapCoefficients& coefficients)
      : nest_(nest), box_(box), operands_(operands), coefficients_(coefficients) {}

  void run() {
    if (nest_.channels_innermost()) {
      across_channels();
    } else {
      along_channels();
    }
  }

 private:
  [[nodiscard]] std::size_t operand_count() const { return operands_.dy ? 3 : 2; }
  [[nodiscard]] DType dtype_at(std::size_t operand) const {
    return operand == x_at ? operands_.x.dtype : (operand == out_at ? operands_.out.dtype : operands_.dy->dtype);
  }
  [[nodiscard]] bool is_direct(const Loop& loop) const {
    for (std::size_t j = 0; j < operand_count(); ++j) {
      if (dtype_at(j) != dtype_of<T>() || loop.strides[j] != 1) return false;
    }
    return true;
  }

  [[nodiscard]] MapPointers<T> pointers(const Position& position) const {
    return {static_cast<const T*>(operands_.x.data) + position.offsets[x_at],
            operands_.dy ? static_cast<const T*>(operands_.dy->data) + position.offsets[dy_at] : nullptr,
            static_cast<T*>(operands_.out.data) + position.offsets[out_at]};
  }
  [[nodiscard]] static RowStrides strides_of(const Loop& loop) {
    return {loop.strides[x_at], loop.strides[dy_at], loop.strides[out_at]};
  }

  // Calls kernel(pointers, done, count) for `count` elements that are a loop's stride apart and do not lie as
  // the kernels need them, in pieces that pass through the buffers. Pieces are multiples of `granularity`,
  // except for the last.
  template <typename Kernel>
  void through_buffers(const Position& position, const Loop& loop, Index count, Index granularity,
                       const Kernel& kernel) {
    const Index capacity = PackedTile<T>::capacity / granularity * granularity;
    for (Index done = 0; done < count; done += capacity) {
      const Index size = std::min(capacity, count - done);
      const auto offset = [&](std::size_t j) { return position.offsets[j] + done * loop.strides[j]; };
      x_buffer_.put(operands_.x, offset(x_at), size, loop.strides[x_at], 0);
      T* x = x_buffer_.data();
      T* dy = nullptr;
      if (operands_.dy) {
        dy_buffer_.put(*operands_.dy, offset(dy_at), size, loop.strides[dy_at], 0);
        dy = dy_buffer_.data();
      }
      kernel(MapPointers<T>{x, dy, x}, done, size);
      x_buffer_.take(operands_.out, offset(out_at), size, loop.strides[out_at]);
    }
  }

  void along_channels() {
    const std::size_t inner = nest_.loops.size() - 1;
    const Loop& loop = nest_.loops[inner];
    const Index size = box_[inner].size;
    const bool direct = is_direct(loop);
    // The runs of the next loop outwards are mapped by one call.
    const bool has_runs = inner > 0;
    const Loop run_loop = has_runs ? nest_.loops[inner - 1] : Loop{};
    const Index runs = has_runs ? box_[inner - 1].size : 1;
    const std::size_t outer = has_runs ? inner - 1 : 0;
    // Channels lie inside of the other loops in memory: this order goes through it page by page.
    walk(nest_, box_, 0, outer, is_reduced_loop, start_of(nest_, box_), [&](const Position& step) {
      Index number = 0;
      walk(nest_, box_, 0, outer, is_channel_loop, step, [&](Position run) {
        if (direct) {
          map_runs(pointers(run), runs, strides_of(run_loop), size, coefficients_.from(number), !run_loop.is_channel,
                   operands_.store);
        } else {
          for (Index i = 0; i < runs; ++i) {
            const MapCoefficients coefficients = coefficients_.from(number + (run_loop.is_channel ? i : 0));
            through_buffers(run, loop, size, 1, [&](const MapPointers<T>& at, Index, Index count) {
              map_runs(at, 1, {}, count, coefficients, true, Store::cached);
            });
            for (std::size_t j = 0; j < maximum_operands; ++j) run.offsets[j] += run_loop.strides[j];
          }
        }
        number += run_loop.is_channel ? runs : 1;
      });
    });
  }

  void across_channels() {
    const std::size_t inner = nest_.loops.size() - 1;
    const Index channels = box_[inner].size;
    Index number = 0;
    walk(nest_, box_, 0, inner, is_channel_loop, start_of(nest_, box_), [&](const Position& position) {
      rows_of_channels(position, channels, number);
      number += channels;
    });
  }

  // All rows that share their channels.
  void rows_of_channels(const Position& position, Index channels, Index number) {
    const std::size_t inner = nest_.loops.size() - 1;
    const Loop& loop = nest_.loops[inner];
    std::size_t rows_loop = inner;
    while (rows_loop > 0 && nest_.loops[rows_loop].is_channel) --rows_loop;
    const bool has_rows = !nest_.loops[rows_loop].is_channel;
    const Loop row_loop = has_rows ? nest_.loops[rows_loop] : Loop{.size = 1};
    const Index rows = has_rows ? box_[rows_loop].size : 1;
    const bool direct = is_direct(loop);
    const Index period = std::lcm(channels, line);
    const bool joined = has_rows && channels % line != 0 && period <= longest_period && period < rows * channels &&
                        is_joined(row_loop, channels);
    const MapCoefficients coefficients = coefficients_.from(number);
    walk(nest_, box_, 0, has_rows ? rows_loop : 0, is_reduced_loop, position, [&](Position row) {
      if (joined) {
        joined_rows(row, rows * channels, number, channels, period);
      } else if (direct) {
        map_rows(pointers(row), rows, channels, strides_of(row_loop), coefficients,
                 store_of(pointers(row).out, row_loop.strides[out_at]));
      } else {
        for (Index i = 0; i < rows; ++i) {
          through_buffers(row, loop, channels, 1, [&](const MapPointers<T>& at, Index done, Index count) {
            map_rows(at, 1, count, {}, coefficients.from(done), Store::cached);
          });
          for (std::size_t j = 0; j < maximum_operands; ++j) row.offsets[j] += row_loop.strides[j];
        }
      }
    });
  }

  // Rows that follow each other without a gap are one long run whose coefficients repeat. It is cut into
  // rows of another size, a multiple of both channels and lines.
  void joined_rows(const Position& start, Index count, Index number, Index channels, Index period) {
    const Loop& loop = nest_.loops.back();
    const bool direct = is_direct(loop);
    Index head = 0;
    if (direct && operands_.store == Store::streamed) {
      const auto address = reinterpret_cast<std::uintptr_t>(pointers(start).out);
      head = static_cast<Index>((streamed_alignment - address % streamed_alignment) % streamed_alignment / sizeof(T));
    }
    const CoefficientTable from_start = repeat(coefficients_.from(number), channels, period, 0);
    const CoefficientTable after_head = repeat(coefficients_.from(number), channels, head == 0 ? 0 : period, head);
    const MapCoefficients coefficients = head == 0 ? from_start.view() : after_head.view();
    const auto map_run = [&](const MapPointers<T>& at, Index size, Store store) {
      const Index rows = size / period;
      const Index done = rows * period;
      map_rows(at, rows, period, {period, period, period}, coefficients, store);
      if (done < size) map_rows(at.moved(done, done, done), 1, size - done, {}, coefficients, store);
    };
    if (!direct) {
      through_buffers(start, loop, count, period,
                      [&](const MapPointers<T>& at, Index, Index size) { map_run(at, size, Store::cached); });
      return;
    }
    const MapPointers<T> at = pointers(start);
    if (head != 0) map_rows(at, 1, head, {}, from_start.view(), Store::cached);
    map_run(at.moved(head, head, head), count - head, operands_.store);
  }

  [[nodiscard]] Store store_of(const T* out, Index stride) const {
    const auto size = static_cast<Index>(sizeof(T));
    const bool aligned =
        reinterpret_cast<std::uintptr_t>(out) % streamed_alignment == 0 && stride * size % streamed_alignment == 0;
    return aligned ? operands_.store : Store::cached;
  }

  // Whether steps of `outer` follow each other without a gap in every operand.
  [[nodiscard]] bool is_joined(const Loop& outer, Index channels) const {
    const Loop& inner = nest_.loops.back();
    for (std::size_t j = 0; j < operand_count(); ++j) {
      if (outer.strides[j] != inner.strides[j] * channels) return false;
    }
    return true;
  }

  static constexpr Index line = streamed_alignment / static_cast<Index>(sizeof(T));
  // Coefficients that repeat after more entries than this are not written out: they would fill the cache.
  static constexpr Index longest_period = PackedTile<T>::capacity / 2;

  const LoopNest& nest_;
  const Box& box_;
  const MapOperands& operands_;
  MapCoefficients coefficients_;
  PackedTile<T> x_buffer_;
  PackedTile<T> dy_buffer_;
};

}  // namespace

namespace {

template <typename T>
void map_box_as(const LoopNest& nest, const Box& box, const MapOperands& operands,
                const MapCoefficients& coefficients) {
  const std::size_t inner = nest.loops.size() - 1;
  const Index places = nest.loops[inner].size;
  // Coefficients for each place of a run have to be written out first, which costs as much as some rows by runs.
  constexpr Index rows_per_place = 3;
  if (has_short_runs(nest) && box[inner].size == places && box[0].size >= rows_per_place * places) {
    Index channels = 1;
    for (std::size_t i = 0; i < inner; ++i) channels *= nest.loops[i].is_channel ? box[i].size : 1;
    std::vector<Index> channel_of_place;
    channel_of_place.reserve(static_cast<std::size_t>(channels * places));
    for (Index place = 0; place < channels * places; ++place) channel_of_place.push_back(place / places);
    const CoefficientTable of_places = gather(coefficients, channel_of_place);
    const LoopNest rows = rows_of_places(nest);
    const Box rows_box = rows_of_places(nest, box);
    BoxMapper<T>(rows, rows_box, operands, of_places.view()).run();
  } else {
    BoxMapper<T>(nest, box, operands, coefficients).run();
  }
}

}  // namespace

void map_box(const LoopNest& nest, const Box& box, const MapOperands& operands, const MapCoefficients& coefficients) {
  const bool single = operands.out.dtype == DType::float32 && dtype_fits_float32(operands.x.dtype) &&
                      (!operands.dy || dtype_fits_float32(operands.dy->dtype));
  if (single) {
    map_box_as<float>(nest, box, operands, coefficients);
  } else {
    map_box_as<double>(nest, box, operands, coefficients);
  }
  if (operands.store == Store::streamed) flush_streams();
}

}  // namespace exactnorm

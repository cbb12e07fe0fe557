#include "map/map.h"

#include <algorithm>
#include <numeric>

#include "plan/walk.h"
#include "tensor/element_type.h"
#include "tensor/packed_tile.h"

namespace exactnorm {

CoefficientTable::CoefficientTable(Index channels)
    : mean_(static_cast<std::size_t>(channels)),
      x_scale_(mean_),
      shift_(mean_),
      normalized_scale_(mean_),
      dy_scale_(mean_) {}

void CoefficientTable::set(Index channel, const ForwardCoefficients& coefficients) noexcept {
  const auto at = static_cast<std::size_t>(channel);
  mean_[at] = coefficients.mean;
  x_scale_[at] = coefficients.scale;
  shift_[at] = coefficients.shift;
}

void CoefficientTable::set(Index channel, const BackwardCoefficients& coefficients) noexcept {
  const auto at = static_cast<std::size_t>(channel);
  mean_[at] = coefficients.mean;
  x_scale_[at] = coefficients.x_scale;
  shift_[at] = coefficients.shift;
  normalized_scale_[at] = coefficients.normalized_scale;
  dy_scale_[at] = coefficients.dy_scale;
}

MapCoefficients CoefficientTable::view() const noexcept {
  return {mean_.data(), x_scale_.data(), shift_.data(), normalized_scale_.data(), dy_scale_.data()};
}

CoefficientTable CoefficientTable::repeat(Index first, Index count, Index period) const {
  CoefficientTable repeated(period);
  for (Index i = 0; i < period; ++i) {
    const auto to = static_cast<std::size_t>(i);
    const auto from = static_cast<std::size_t>(first + i % count);
    repeated.mean_[to] = mean_[from];
    repeated.x_scale_[to] = x_scale_[from];
    repeated.shift_[to] = shift_[from];
    repeated.normalized_scale_[to] = normalized_scale_[from];
    repeated.dy_scale_[to] = dy_scale_[from];
  }
  return repeated;
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

// T is the type that the kernels read and write; elements of others pass through a small buffer.
template <typename T>
class BoxMapper {
 public:
  BoxMapper(const LoopNest& nest, const Box& box, const MapOperands& operands, const CoefficientTable& table)
      : nest_(nest), box_(box), operands_(operands), table_(table), coefficients_(table.view()) {}

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

  // Calls kernel(x, dy, out, count) over `count` elements that are a loop's stride apart, in place or,
  // where they do not lie as the kernels need them, in pieces through the buffers. Pieces are multiples
  // of `granularity`, except for the last.
  template <typename Kernel>
  void apply(const Position& position, const Loop& loop, Index count, Index granularity, const Kernel& kernel) {
    if (is_direct(loop)) {
      const T* dy = operands_.dy ? static_cast<const T*>(operands_.dy->data) + position.offsets[dy_at] : nullptr;
      kernel(static_cast<const T*>(operands_.x.data) + position.offsets[x_at], dy,
             static_cast<T*>(operands_.out.data) + position.offsets[out_at], Index{0}, count);
      return;
    }
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
      kernel(x, dy, x, done, size);
      x_buffer_.take(operands_.out, offset(out_at), size, loop.strides[out_at]);
    }
  }

  void along_channels() {
    const std::size_t inner = nest_.loops.size() - 1;
    const Loop& loop = nest_.loops[inner];
    const Index size = box_[inner].size;
    // Channels lie inside of the other loops in memory: this order goes through it page by page.
    walk(nest_, box_, 0, inner, is_reduced_loop, start_of(nest_, box_), [&](const Position& step) {
      Index number = 0;
      walk(nest_, box_, 0, inner, is_channel_loop, step, [&](const Position& run) {
        const MapCoefficients coefficients = coefficients_.from(number++);
        apply(run, loop, size, 1, [&](const T* x, const T* dy, T* out, Index, Index count) {
          map_channel(x, dy, out, count, coefficients);
        });
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

  // All rows that share their channels. Where rows follow each other without a gap they are one long
  // run whose coefficients repeat.
  void rows_of_channels(const Position& position, Index channels, Index number) {
    const std::size_t inner = nest_.loops.size() - 1;
    const Loop& loop = nest_.loops[inner];
    const bool joined = inner > 0 && !nest_.loops[inner - 1].is_channel && is_joined(nest_.loops[inner - 1], channels);
    if (!joined) {
      const MapCoefficients coefficients = coefficients_.from(number);
      walk(nest_, box_, 0, inner, is_reduced_loop, position, [&](const Position& row) {
        apply(row, loop, channels, 1, [&](const T* x, const T* dy, T* out, Index done, Index count) {
          map_periodic(x, dy, out, count, coefficients.from(done), count);
        });
      });
      return;
    }
    const Index period = std::lcm(channels, map_period);
    const CoefficientTable repeated = table_.repeat(number, channels, period);
    const MapCoefficients coefficients = repeated.view();
    walk(nest_, box_, 0, inner - 1, is_reduced_loop, position, [&](const Position& run) {
      apply(run, loop, channels * box_[inner - 1].size, period,
            [&](const T* x, const T* dy, T* out, Index, Index count) {
              map_periodic(x, dy, out, count, coefficients, period);
            });
    });
  }

  // Whether steps of `outer` follow each other without a gap in every operand, so that rows can be joined;
  // worth it where a period fits in the buffers.
  [[nodiscard]] bool is_joined(const Loop& outer, Index channels) const {
    const Loop& inner = nest_.loops.back();
    if (std::lcm(channels, map_period) > PackedTile<T>::capacity) return false;
    for (std::size_t j = 0; j < operand_count(); ++j) {
      if (outer.strides[j] != inner.strides[j] * channels) return false;
    }
    return true;
  }

  const LoopNest& nest_;
  const Box& box_;
  const MapOperands& operands_;
  const CoefficientTable& table_;
  MapCoefficients coefficients_;
  PackedTile<T> x_buffer_;
  PackedTile<T> dy_buffer_;
};

}  // namespace

void map_box(const LoopNest& nest, const Box& box, const MapOperands& operands, const CoefficientTable& coefficients) {
  const bool single = operands.out.dtype == DType::float32 && dtype_fits_float32(operands.x.dtype) &&
                      (!operands.dy || dtype_fits_float32(operands.dy->dtype));
  if (single) {
    BoxMapper<float>(nest, box, operands, coefficients).run();
  } else {
    BoxMapper<double>(nest, box, operands, coefficients).run();
  }
}

}  // namespace exactnorm

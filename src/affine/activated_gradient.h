#pragma once

#include <array>
#include <cstddef>

#include "affine/activation_kernels.h"
#include "affine/apply_kernels.h"
#include "exactnorm/tensor.h"
#include "tensor/scratch.h"
#include "traverse/block_parts.h"
#include "traverse/block_reader.h"

namespace exactnorm {

/// How the gradient of what goes into an activation comes of dy: g = dy * activation'(bn(x) + residual), rounded to the
/// dtype of dy; or, for activations whose output has the same derivative, g = dy * activation'(output).
struct ActivationStep {
  ActivationFunction function;
  DType dy = DType::float32;
  /// Whether there is an operand behind dy and x: the residual, or the output.
  bool has_source = false;
  bool takes_output = false;
  /// Of bn(x), for all channels by their numbers, if that is computed.
  Coefficients forward;

  [[nodiscard]] bool computes_input() const noexcept {
    return !takes_output && function.activation != Activation::none;
  }
};

/// The elements of such a step that are in a buffer at a time: it stays in L1 cache beside what is read.
inline constexpr Index activation_elements = 2048;
/// The columns of a part whose lanes are summed: it has 32 rows then.
inline constexpr Index lanes_of_part = 64;

/// Rounds to the numbers that `dtype` has, where T has more.
void round_to(DType dtype, float* values, Index count);
void round_to(DType dtype, double* values, Index count);

/// Calls visit(channel, rows, strides) for the rows of each channel of a part, or, where each has one, once for the
/// rows of all of them.
template <typename T, std::size_t kOperands, typename Visit>
void for_planes(const Block<T, kOperands>& part, const Visit& visit) {
  if (part.rows == 1) {
    visit(Index{0}, part.channels, part.channel_strides);
    return;
  }
  for (Index channel = 0; channel < part.channels; ++channel) visit(channel, part.rows, part.strides);
}

/// bn(x) of blocks, in a buffer.
template <typename T>
class PreactivationTile {
 public:
  explicit PreactivationTile(bool is_lanes) : is_lanes_(is_lanes) {}

  [[nodiscard]] T* data() noexcept { return values_.data(); }

  /// Of the part's elements, side by side; `coefficients` are those of the slots. Operand j of the block is x.
  template <std::size_t kOperands>
  void set(const Block<T, kOperands>& part, std::size_t j, const Coefficients& coefficients) {
    const Coefficients of_part = coefficients.from(part.slot);
    const ApplyPointers<T> at = {part.data[j], nullptr, data()};
    if (is_lanes_) {
      const RowStrides strides = {part.strides[j], 0, part.count};
      apply_rows(Formula::forward, at, part.rows, part.count, strides, of_part, Store::cached);
      return;
    }
    for_planes(part, [&](Index channel, Index runs, const std::array<Index, kOperands>& strides) {
      apply_runs(Formula::forward, at.moved(channel * part.channel_strides[j], 0, channel * part.rows * part.count),
                 runs, {strides[j], 0, part.count}, part.count, of_part.from(channel), part.rows != 1, Store::cached);
    });
  }

 private:
  bool is_lanes_;
  ScratchArray<T> values_{activation_elements};
};

/// Calls visit(part) for parts of a block that fit in a PreactivationTile, of at most so many columns.
template <typename T, std::size_t kOperands, typename Visit>
void for_block_parts(const Block<T, kOperands>& block, std::size_t output, bool is_lanes, Index most_columns,
                     const Visit& visit) {
  const PartLimits limits = {.elements = activation_elements, .columns = most_columns};
  for_parts(block.channels, block.rows, block.count, limits, [&](const BlockPart& at) {
    Block<T, kOperands> part = block;
    const auto distance = [&](std::size_t j) {
      return at.channel * block.channel_strides[j] + at.row * block.strides[j] + at.column;
    };
    for (std::size_t j = 0; j < kOperands; ++j) {
      if (part.data[j] != nullptr) part.data[j] += distance(j);
    }
    if (part.output != nullptr) part.output += distance(output);
    part.channels = at.channels;
    part.rows = at.rows;
    part.count = at.columns;
    part.slot += at.channel + (is_lanes ? at.column : 0);
    visit(part);
  });
}

/// g of blocks of dy, x and, where the step has one, its source. Elements of 16 bits are of steps that take the output.
template <typename T>
class ActivatedGradient {
 public:
  /// `forward` are the coefficients of the slots.
  ActivatedGradient(const ActivationStep& step, const Coefficients& forward, bool is_lanes)
      : step_(step), forward_(forward), is_lanes_(is_lanes), tile_(is_lanes) {}

  /// Calls visit(part) for parts of the block, with operands g, x and the block's last one. g is written to the block's
  /// output, which is its last operand, or to a buffer.
  template <bool kWritesGradient, std::size_t kOperands, typename Visit>
  void read(const Block<T, kOperands>& block, const Visit& visit) {
    constexpr std::size_t last = kOperands - 1;
    // Sums of lanes are loaded and stored once for all rows of a part.
    const Index most_columns = is_lanes_ ? lanes_of_part : activation_elements;
    for_block_parts(block, last, is_lanes_, most_columns, [&](const Block<T, kOperands>& part) {
      if (step_.computes_input()) tile_.set(part, 1, forward_);
      Block<T, 3> result{.channels = part.channels,
                         .rows = part.rows,
                         .count = part.count,
                         .slot = part.slot,
                         .output = part.output,
                         .is_streamed = part.is_streamed};
      result.data = {kWritesGradient ? part.output : tile_.data(), part.data[1], part.data[last]};
      result.strides = {kWritesGradient ? part.strides[last] : part.count, part.strides[1], part.strides[last]};
      result.channel_strides = {kWritesGradient ? part.channel_strides[last] : part.rows * part.count,
                                part.channel_strides[1], part.channel_strides[last]};
      set_gradient(part, kWritesGradient ? part.output : tile_.data(), result.strides[0], result.channel_strides[0]);
      visit(result);
    });
  }

 private:
  template <std::size_t kOperands>
  void set_gradient(const Block<T, kOperands>& part, T* out, Index out_stride, Index out_channel_stride) {
    constexpr std::size_t source = 2;
    for_planes(part, [&](Index channel, Index rows, const std::array<Index, kOperands>& strides) {
      const auto at = [&](std::size_t j) { return part.data[j] + channel * part.channel_strides[j]; };
      ActivationRows<T> plane{.value = tile_.data() + channel * part.rows * part.count,
                              .value_stride = part.count,
                              .dy = at(0),
                              .dy_stride = strides[0],
                              .out = out + channel * out_channel_stride,
                              .out_stride = part.rows == 1 ? out_channel_stride : out_stride,
                              .rows = rows,
                              .count = part.count,
                              .prefetch = part.prefetch,
                              .x = at(1),
                              .x_stride = strides[1]};
      if (kOperands > source && step_.takes_output) {
        plane.value = at(source);
        plane.value_stride = strides[source];
        plane.prefetches_value = true;
      } else if (kOperands > source && step_.has_source) {
        plane.residual = at(source);
        plane.residual_stride = strides[source];
      }
      activation_gradient(step_.function, plane.joined());
      if constexpr (!is_half<T>) {
        if (!rounds()) return;
        for (Index row = 0; row < rows; ++row) round_to(step_.dy, plane.out + row * plane.out_stride, part.count);
      }
    });
  }

  // Whether g can have more digits than dy.
  [[nodiscard]] bool rounds() const noexcept {
    return step_.dy != dtype_of<T>() && step_.function.activation >= Activation::leaky_relu;
  }

  const ActivationStep& step_;
  Coefficients forward_;
  bool is_lanes_;
  PreactivationTile<T> tile_;
};

}  // namespace exactnorm

#include "affine/apply.h"

#include <algorithm>
#include <array>
#include <vector>

#include "simd/cache_line.h"
#include "tensor/element_type.h"
#include "traverse/block_reader.h"
#include "traverse/traversal.h"

namespace exactnorm {

CoefficientTable::CoefficientTable(Index channels)
    : stride_((channels + 63) / 64 * 64 + 48),
      memory_(static_cast<std::size_t>(5 * stride_) * (sizeof(double) + sizeof(float))),
      values_(reinterpret_cast<double*>(memory_.data())),
      single_values_(reinterpret_cast<float*>(values_ + 5 * stride_)) {}

CoefficientTable::CoefficientTable(const Coefficients& coefficients, std::span<const Index> channels,
                                   const SlotMap& slots, bool with_gradient)
    : CoefficientTable(slots.slots()) {
  const auto copy = [&](const auto* from, auto* to) {
    for (auto channel = channels.begin(); channel != channels.end();) {
      auto* const row = to;
      for (Index i = 0; i < slots.row_channels; ++i) to = std::fill_n(to, slots.places, from[*channel++]);
      // The rest of the row repeats, and all that is there can be copied at once.
      for (auto* const end = row + slots.row_slots(); to != end;)
        to = std::copy_n(row, std::min(to - row, end - to), to);
    }
  };
  copy(coefficients.mean, column(0));
  copy(coefficients.x_scale, column(1));
  copy(coefficients.shift, column(2));
  copy(coefficients.single.mean, single_column(0));
  copy(coefficients.single.scale, single_column(1));
  copy(coefficients.single.scale_rest, single_column(2));
  copy(coefficients.single.shift, single_column(3));
  if (!with_gradient) return;
  copy(coefficients.normalized_scale, column(3));
  copy(coefficients.dy_scale, column(4));
  copy(coefficients.single.x_scale, single_column(4));
}

Coefficients CoefficientTable::view() const noexcept {
  return {column(0), column(1),
          column(2), column(3),
          column(4), {single_column(0), single_column(1), single_column(2), single_column(3), single_column(4)}};
}

namespace {

template <typename T, std::size_t kOperands>
void apply_regions(const Traversal& traversal, const ApplyOperands& operands, const Coefficients& coefficients) {
  constexpr bool with_dy = kOperands == 3;
  const auto strides = [](const std::array<Index, kOperands>& of) {
    return RowStrides{of.front(), with_dy ? of[1] : 0, of.back()};
  };
  BlockReader<T, kOperands, true> blocks(traversal, operands.all(),
                                         {operands.out(), operands.store() == Store::streamed});
  traversal.visit([&](const Region& region) {
    blocks.read(region, [&](const Block<T, kOperands>& block) {
      const ApplyPointers<T> at = {block.data[0], with_dy ? block.data[1] : nullptr, block.output};
      const Coefficients of_slots = coefficients.from(block.slot);
      const Store store = block.is_streamed ? Store::streamed : Store::cached;
      if (traversal.is_lanes()) {
        apply_rows(at, block.rows, block.count, strides(block.strides), of_slots, store);
      } else if (block.channels > 1) {
        apply_runs(at, block.channels, strides(block.channel_strides), block.count, of_slots, false, store);
      } else {
        apply_runs(at, block.rows, strides(block.strides), block.count, of_slots, true, store);
      }
    });
  });
}

template <typename T>
void apply_as(const Traversal& traversal, const ApplyOperands& operands, const Coefficients& coefficients) {
  operands.has_dy() ? apply_regions<T, 3>(traversal, operands, coefficients)
                    : apply_regions<T, 2>(traversal, operands, coefficients);
}

}  // namespace

void apply_box(const LoopNest& nest, const Box& box, const ApplyOperands& operands, const Coefficients& coefficients) {
  const std::span<const Operand> all = operands.all();
  const DType type = type_of_kernels(all);
  const Index line = is_half_type(type) ? line_size<bfloat16> : line_size<float>;
  const Traversal traversal(nest, box, all.size(), Stage::apply, line);
  const auto apply = [&](const Coefficients& of_slots) {
    visit_floating(type, [&](auto element) { apply_as<decltype(element)>(traversal, operands, of_slots); });
  };
  const SlotMap& slots = traversal.slots();
  const std::optional<Index> first = first_of_consecutive(nest, box);
  if (first && slots.is_identity()) {
    apply(coefficients.from(*first));
  } else {
    thread_local std::vector<Index> channels;  // its memory is kept from box to box
    list_channels(nest, box, channels);
    apply(CoefficientTable(coefficients, channels, slots, operands.has_dy()).view());
  }
  if (operands.store() == Store::streamed) flush_streams();
}

}  // namespace exactnorm

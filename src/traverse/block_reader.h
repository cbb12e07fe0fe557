#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <optional>
#include <span>

#include "exactnorm/tensor.h"
#include "simd/cache_line.h"
#include "tensor/element_type.h"
#include "tensor/operand.h"
#include "tensor/packed_tile.h"
#include "traverse/block.h"
#include "traverse/block_parts.h"
#include "traverse/region_elements.h"
#include "traverse/selected_blocks.h"
#include "traverse/selection.h"
#include "traverse/traversal.h"
#include "traverse/tuning.h"

namespace exactnorm {

/// Makes blocks of regions: in place where the elements lie as kernels read them, else packed. An output that is not
/// written in place takes the place of the first operand in the packed tile, and is copied from there. Where there is a
/// selection, blocks are of its elements.
template <typename T, std::size_t kOperands, bool kWrites = false>
class BlockReader {
 public:
  /// The selection, null for all elements, outlives this.
  BlockReader(const Traversal& traversal, std::span<const Operand> operands,
              const Selection* selection) requires(!kWrites)
      : operands_(operands), is_lanes_(traversal.is_lanes()), repeats_(traversal.slots().repeats) {
    if (selection != nullptr) selected_.emplace(operands, *selection, traversal, to_);
  }
  BlockReader(const Traversal& traversal, std::span<const Operand> operands, const Output& output,
              const Selection* selection) requires kWrites : operands_(operands),
                                                             is_lanes_(traversal.is_lanes()),
                                                             repeats_(traversal.slots().repeats),
                                                             to_(output.to),
                                                             is_streamed_(output.is_streamed) {
    if (selection != nullptr) selected_.emplace(operands, *selection, traversal, to_);
  }

  /// Calls visit(block) for each block of the region.
  template <typename Visit>
  void read(const Region& region, const Visit& visit) {
    if (selected_) {
      selected_->read(region, is_direct(region), visit);
      return;
    }
    if (!is_direct(region)) {
      read_packed(region, visit);
      return;
    }
    Block<T, kOperands> block{.channels = region.channels,
                              .rows = region.rows,
                              .count = region.count,
                              .slot = region.slot,
                              .prefetch = region.prefetch,
                              .is_streamed = is_streamed_};
    for (std::size_t j = 0; j < kOperands; ++j) {
      block.data[j] = static_cast<const T*>(operands_[j].data) + region.offsets[j];
      block.channel_strides[j] = region.channel_strides[j];
      block.strides[j] = region.row_strides[j];
    }
    if constexpr (kWrites) block.output = static_cast<T*>(to_.data) + region.offsets[kInputs];
    repeats_ == 1 ? visit_block(block, visit) : visit_joined(block, visit);
  }

 private:
  static constexpr std::size_t kInputs = kOperands - (kWrites ? 1 : 0);

  [[nodiscard]] bool is_direct(const Region& region) const noexcept {
    for (std::size_t j = 0; j < kOperands; ++j) {
      if (operands_[j].dtype != dtype_of<T>() || (region.steps[j] != 1 && region.count > 1)) return false;
      if (repeats_ > 1 && region.rows > 1 && region.row_strides[j] != region.count) return false;
    }
    return true;
  }

  // Rows of lanes are streamed if each starts with a line; kernels find the lines of runs.
  template <typename Visit>
  void visit_block(Block<T, kOperands> block, const Visit& visit) const {
    if constexpr (kWrites) {
      const bool is_in_lines = elements_to_line(block.output) == 0 && block.strides[kInputs] % line_size<T> == 0;
      block.is_streamed = block.is_streamed && (is_in_lines || !is_lanes_);
    }
    visit(block);
  }

  // Rows without a gap between them, `repeats` of which make one. Those of a streamed output start with a line.
  template <typename Visit>
  void visit_joined(Block<T, kOperands> block, const Visit& visit) const {
    Index elements = block.rows * block.count;
    const Index row = repeats_ * block.count;
    const auto take = [&](Index rows, Index count) {
      if (rows * count == 0) return;
      block.rows = rows;
      block.count = count;
      visit_block(block, visit);
      for (const T*& data : block.data) data += rows * count;
      if constexpr (kWrites) block.output += rows * count;
      elements -= rows * count;
    };
    block.strides.fill(row);
    if constexpr (kWrites) {
      const Index head = block.is_streamed ? std::min(elements_to_line(block.output), elements) : 0;
      take(1, head);
      block.slot += head;
    }
    take(elements / row, row);
    take(1, elements);
  }

  template <typename Visit>
  void read_packed(const Region& region, const Visit& visit) {
    const bool is_dense = std::count(region.steps.begin(), region.steps.begin() + kOperands, 1) == kOperands;
    const Index elements = kWrites && !is_dense ? packed_strided_elements : PackedTile<T>::capacity;
    for_parts(region.channels, region.rows, region.count, {elements, repeats_},
              [&](const BlockPart& part) { visit_packed(region, part, visit); });
  }

  template <typename Visit>
  void visit_packed(const Region& region, const BlockPart& part, const Visit& visit) {
    Block<T, kOperands> block{.channels = part.channels,
                              .rows = part.rows,
                              .count = part.columns,
                              .slot = region.slot + part.channel + (is_lanes_ ? part.column : 0)};
    for (std::size_t j = 0; j < kInputs; ++j) {
      for_elements(region, part, j, [&](Index offset, Index count, Index step, Index at) {
        tiles_[j].put(operands_[j], offset, count, step, at);
      });
      block.data[j] = tiles_[j].data();
    }
    block.strides.fill(part.columns);
    block.channel_strides.fill(part.rows * part.columns);
    if (!is_lanes_ && part.channels == 1) {
      block.count *= block.rows;
      block.rows = 1;
    }
    if constexpr (kWrites) block.output = tiles_[0].data();
    repeats_ == 1 ? visit(block) : visit_joined(block, visit);
    if constexpr (kWrites) {
      for_elements(region, part, kInputs, [&](Index offset, Index count, Index step, Index at) {
        tiles_[0].take(to_, offset, count, step, at);
      });
    }
  }

  std::span<const Operand> operands_;
  bool is_lanes_;
  Index repeats_;
  OutputOperand to_;
  bool is_streamed_ = false;
  std::array<PackedTile<T>, kInputs> tiles_;
  std::optional<SelectedBlocks<T, kOperands, kWrites>> selected_;
};

}  // namespace exactnorm

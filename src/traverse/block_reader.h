#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>

#include "exactnorm/tensor.h"
#include "tensor/element_type.h"
#include "tensor/packed_tile.h"
#include "traverse/traversal.h"

namespace exactnorm {

/// A region as kernels read it: rows of elements of type T, side by side.
template <typename T, std::size_t kOperands>
struct Block {
  std::array<const T*, kOperands> data{};
  std::array<Index, kOperands> channel_strides{};  // elements, from a channel to the next
  std::array<Index, kOperands> strides{};          // elements, from a row to the next
  Index channels = 1;
  Index rows = 1;
  Index count = 0;
  Index slot = 0;
  Index prefetch = 0;
};

/// Makes blocks of regions: in place where the elements lie as kernels read them, else packed.
template <typename T, std::size_t kOperands>
class BlockReader {
 public:
  BlockReader(const Traversal& traversal, std::span<const TensorView> operands)
      : operands_(operands), is_lanes_(traversal.is_lanes()), repeats_(traversal.slots().repeats) {}

  /// Calls visit(block) for each block of the region.
  template <typename Visit>
  void read(const Region& region, const Visit& visit) {
    if (!is_direct(region)) {
      Region channel = region;
      for (Index i = 0; i < region.channels; ++i) {
        read_packed(channel, visit);
        for (std::size_t j = 0; j < kOperands; ++j) channel.offsets[j] += region.channel_strides[j];
        ++channel.slot;
      }
      return;
    }
    Block<T, kOperands> block{{}, {}, {}, region.channels, region.rows, region.count, region.slot, region.prefetch};
    for (std::size_t j = 0; j < kOperands; ++j) {
      block.data[j] = static_cast<const T*>(operands_[j].data) + region.offsets[j];
      block.channel_strides[j] = region.channel_strides[j];
      block.strides[j] = region.row_strides[j];
    }
    repeats_ == 1 ? visit(block) : visit_joined(block, visit);
  }

 private:
  [[nodiscard]] bool is_direct(const Region& region) const noexcept {
    for (std::size_t j = 0; j < kOperands; ++j) {
      if (operands_[j].dtype != dtype_of<T>() || (region.steps[j] != 1 && region.count > 1)) return false;
      if (repeats_ > 1 && region.rows > 1 && region.row_strides[j] != region.count) return false;
    }
    return true;
  }

  // Rows without a gap between them, `repeats` of which make one.
  template <typename Visit>
  void visit_joined(Block<T, kOperands> block, const Visit& visit) const {
    const Index rest = block.rows % repeats_;
    const Index columns = block.count;
    block.rows /= repeats_;
    block.count *= repeats_;
    block.strides.fill(block.count);
    if (block.rows > 0) visit(block);
    if (rest == 0) return;
    for (std::size_t j = 0; j < kOperands; ++j) block.data[j] += block.rows * block.count;
    block.rows = 1;
    block.count = rest * columns;
    visit(block);
  }

  template <typename Visit>
  void read_packed(const Region& region, const Visit& visit) {
    const Index capacity = PackedTile<T>::capacity;
    const Index columns = std::min(region.count, capacity);
    const Index rows = std::min(std::max<Index>(capacity / columns / repeats_ * repeats_, 1), region.rows);
    for (Index row = 0; row < region.rows; row += rows) {
      const Index some_rows = std::min(rows, region.rows - row);
      for (Index column = 0; column < region.count; column += columns) {
        const Index some_columns = std::min(columns, region.count - column);
        Block<T, kOperands> block{{}, {}, {}, 1, some_rows, some_columns, region.slot + (is_lanes_ ? column : 0), 0};
        for (std::size_t j = 0; j < kOperands; ++j) {
          const Index offset = region.offsets[j] + row * region.row_strides[j] + column * region.steps[j];
          // Rows without a gap between them are one.
          const bool joined = some_columns == region.count && region.row_strides[j] == region.count * region.steps[j];
          const Index parts = joined ? 1 : some_rows;
          const Index part = some_rows * some_columns / parts;
          for (Index i = 0; i < parts; ++i) {
            tiles_[j].put(operands_[j], offset + i * region.row_strides[j], part, region.steps[j], i * part);
          }
          block.data[j] = tiles_[j].data();
        }
        block.strides.fill(some_columns);
        if (!is_lanes_) {
          block.count *= block.rows;
          block.rows = 1;
        }
        repeats_ == 1 ? visit(block) : visit_joined(block, visit);
      }
    }
  }

  std::span<const TensorView> operands_;
  bool is_lanes_;
  Index repeats_;
  std::array<PackedTile<T>, kOperands> tiles_;
};

}  // namespace exactnorm

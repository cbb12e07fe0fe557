#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "exactnorm/tensor.h"
#include "tensor/operand.h"
#include "tensor/packed_tile.h"
#include "tensor/scratch.h"
#include "traverse/block.h"
#include "traverse/block_parts.h"
#include "traverse/region_elements.h"
#include "traverse/selection.h"
#include "traverse/selection_kernels.h"
#include "traverse/traversal.h"
#include "traverse/tuning.h"

namespace exactnorm {

/// Makes blocks of a selection's elements. Those that are read have these alone, one after the other; what is written
/// has the others' place as the selection says.
template <typename T, std::size_t kOperands, bool kWrites>
class SelectedBlocks {
 public:
  SelectedBlocks(std::span<const Operand> operands, const Selection& selection, const Traversal& traversal,
                 const OutputOperand& to)
      : operands_(operands),
        selection_(selection),
        is_lanes_(traversal.is_lanes()),
        repeats_(traversal.slots().repeats),
        to_(to) {}

  /// Calls visit(block) for each block of the region. `is_direct` where kernels could read its elements where they lie.
  template <typename Visit>
  void read(const Region& region, bool is_direct, const Visit& visit) {
    is_direct = is_direct && repeats_ == 1;
    const bool is_strided = !is_direct && kWrites && region.steps[kInputs] != 1;
    const Index elements = is_strided ? packed_strided_elements : PackedTile<T>::capacity;
    for_parts(region.channels, region.rows, region.count, {elements, repeats_}, [&](const BlockPart& part) {
      if constexpr (!kWrites) {
        is_direct ? read_direct(region, part, visit) : read_packed(region, part, visit);
      } else if (!is_direct) {
        write_packed(region, part, visit);
      } else if (is_lanes_) {
        write_lanes(region, part, visit);
      } else if (selection_.masked == MaskedOutput::zero) {
        write_runs(region, part, visit);
      } else {
        write_packed(region, part, visit);
      }
    });
  }

 private:
  static constexpr std::size_t kInputs = kOperands - (kWrites ? 1 : 0);
  static constexpr std::size_t kMask = kOperands;

  // One byte for each row of lanes, or for each element of a channel's runs.
  [[nodiscard]] Index bytes_in(const BlockPart& part) const noexcept {
    return part.rows * (is_lanes_ ? 1 : part.columns);
  }
  [[nodiscard]] const std::uint8_t* bytes_of(const Region& region, const BlockPart& part) {
    const Index row = region.row_strides[kMask];
    const Index step = region.steps[kMask];
    const Index columns = is_lanes_ ? 1 : part.columns;
    const std::uint8_t* from = selection_.bytes + region.offsets[kMask] + part.row * row + part.column * step;
    if ((columns == 1 || step == 1) && (part.rows == 1 || row == columns)) return from;
    std::uint8_t* to = bytes_.data();
    for (Index i = 0; i < part.rows; ++i, from += row) {
      for (Index column = 0; column < columns; ++column) *to++ = from[column * step];
    }
    return bytes_.data();
  }

  [[nodiscard]] Block<T, kOperands> empty_block(const Region& region, const BlockPart& part) const noexcept {
    return {.channels = part.channels,
            .rows = part.rows,
            .count = part.columns,
            .slot = region.slot + part.channel + (is_lanes_ ? part.column : 0)};
  }
  [[nodiscard]] Block<T, kOperands> direct_block(const Region& region, const BlockPart& part) const noexcept {
    Block<T, kOperands> block = empty_block(region, part);
    for (std::size_t j = 0; j < kOperands; ++j) {
      block.data[j] = static_cast<const T*>(operands_[j].data) + offset_of(region, part, j);
      block.channel_strides[j] = region.channel_strides[j];
      block.strides[j] = region.row_strides[j];
    }
    if constexpr (kWrites) block.output = static_cast<T*>(to_.data) + offset_of(region, part, kInputs);
    return block;
  }
  [[nodiscard]] Block<T, kOperands> rows_of(Block<T, kOperands> block, Index first, Index rows) const noexcept {
    for (std::size_t j = 0; j < kOperands; ++j) block.data[j] += first * block.strides[j];
    if constexpr (kWrites) block.output += first * block.strides[kInputs];
    block.rows = rows;
    return block;
  }

  // Of a block's rows in the tiles; `repeats` of them make one.
  template <typename Visit>
  void visit_tiles(Block<T, kOperands> block, const Visit& visit) {
    for (std::size_t j = 0; j < kInputs; ++j) block.data[j] = tiles_[j].data();
    const Index rows = block.rows;
    const Index columns = block.count;
    const auto take = [&](Index first, Index some_rows, Index count) {
      if (some_rows * count == 0) return;
      Block<T, kOperands> some = block;
      some.rows = some_rows;
      some.count = count;
      some.strides.fill(count);
      for (std::size_t j = 0; j < kInputs; ++j) some.data[j] += first;
      if constexpr (kWrites) some.output = tiles_[0].data() + first;
      visit(some);
    };
    take(0, rows / repeats_, repeats_ * columns);
    take(rows / repeats_ * repeats_ * columns, 1, rows % repeats_ * columns);
  }

  void put_all(const Region& region, const BlockPart& part) {
    for (std::size_t j = 0; j < kInputs; ++j) {
      for_elements(region, part, j, [&](Index offset, Index count, Index step, Index at) {
        tiles_[j].put(operands_[j], offset, count, step, at);
      });
    }
  }

  template <typename Visit>
  void read_direct(const Region& region, const BlockPart& part, const Visit& visit) {
    const std::uint8_t* const bytes = bytes_of(region, part);
    const Block<T, kOperands> block = direct_block(region, part);
    if (std::memchr(bytes, 0, static_cast<std::size_t>(bytes_in(part))) == nullptr) {
      visit(block);
      return;
    }
    if (!is_lanes_) {
      visit_channels(
          block,
          [&](std::size_t j, Index channel, T* to) {
            const T* from = block.data[j] + channel * block.channel_strides[j];
            Index kept = 0;
            for (Index row = 0; row < part.rows; ++row, from += block.strides[j]) {
              kept += copy_selected(SelectionWay::compact, bytes + row * part.columns, from, part.columns, to + kept);
            }
            return kept;
          },
          visit);
      return;
    }
    Block<T, kOperands> kept = block;
    kept.rows = 0;
    for_stretches(bytes, part.rows, [&](Index first, Index rows, bool is_selected) {
      if (!is_selected) return;
      const Block<T, kOperands> stretch = rows_of(block, first, rows);
      if (rows >= fewest_selected_rows) {
        visit(stretch);
        return;
      }
      for (std::size_t j = 0; j < kInputs; ++j) {
        T* to = tiles_[j].data() + kept.rows * part.columns;
        for (Index row = 0; row < rows; ++row) {
          to = std::copy_n(stretch.data[j] + row * stretch.strides[j], part.columns, to);
        }
      }
      kept.rows += rows;
    });
    visit_tiles(kept, visit);
  }

  template <typename Visit>
  void read_packed(const Region& region, const BlockPart& part, const Visit& visit) {
    const std::uint8_t* const bytes = bytes_of(region, part);
    put_all(region, part);
    Block<T, kOperands> block = empty_block(region, part);
    if (!is_lanes_) {
      visit_channels(
          block,
          [&](std::size_t, Index, T* values) {
            return copy_selected(SelectionWay::compact, bytes, values, part.rows * part.columns, values);
          },
          visit);
      return;
    }
    block.rows = 0;
    for_stretches(bytes, part.rows, [&](Index first, Index rows, bool is_selected) {
      if (!is_selected) return;
      for (std::size_t j = 0; j < kInputs && first != block.rows; ++j) {
        T* const values = tiles_[j].data();
        std::copy_n(values + first * part.columns, rows * part.columns, values + block.rows * part.columns);
      }
      block.rows += rows;
    });
    visit_tiles(block, visit);
  }

  // One channel after the other: its selected elements, which fill(operand, channel, to) copies, are one row.
  template <typename Fill, typename Visit>
  void visit_channels(const Block<T, kOperands>& block, const Fill& fill, const Visit& visit) {
    const Index elements = block.rows * block.count;
    Block<T, kOperands> one{.slot = block.slot};
    for (Index channel = 0; channel < block.channels; ++channel, ++one.slot) {
      for (std::size_t j = 0; j < kInputs; ++j) {
        T* const values = tiles_[j].data() + channel * elements;
        one.count = fill(j, channel, values);
        one.data[j] = values;
      }
      if (one.count > 0) visit(one);
    }
  }

  template <typename Visit>
  void write_lanes(const Region& region, const BlockPart& part, const Visit& visit) {
    const Block<T, kOperands> block = direct_block(region, part);
    for_stretches(bytes_of(region, part), part.rows, [&](Index first, Index rows, bool is_selected) {
      const Block<T, kOperands> stretch = rows_of(block, first, rows);
      if (is_selected != selection_.is_inverted) {
        visit(stretch);
      } else if (selection_.masked == MaskedOutput::zero) {
        for (Index row = 0; row < rows; ++row) {
          std::fill_n(stretch.output + row * stretch.strides[kInputs], part.columns, T{});
        }
      }
    });
  }

  template <typename Visit>
  void write_runs(const Region& region, const BlockPart& part, const Visit& visit) {
    const std::uint8_t* const bytes = bytes_of(region, part);
    const Block<T, kOperands> block = direct_block(region, part);
    visit(block);
    for (Index channel = 0; channel < part.channels; ++channel) {
      T* row = block.output + channel * block.channel_strides[kInputs];
      for (Index i = 0; i < part.rows; ++i, row += block.strides[kInputs]) {
        copy_selected(SelectionWay::clear, bytes + i * part.columns, row, part.columns, row);
      }
    }
  }

  // The output takes the place of the first operand in its tile, and is copied from there.
  template <typename Visit>
  void write_packed(const Region& region, const BlockPart& part, const Visit& visit) {
    const std::uint8_t* const bytes = bytes_of(region, part);
    put_all(region, part);
    Block<T, kOperands> block = empty_block(region, part);
    block.channel_strides.fill(part.rows * part.columns);
    if (is_lanes_ || part.channels == 1) {
      visit_tiles(block, visit);
    } else {
      block.strides.fill(part.columns);
      for (std::size_t j = 0; j < kInputs; ++j) block.data[j] = tiles_[j].data();
      block.output = tiles_[0].data();
      visit(block);
    }
    if (selection_.masked == MaskedOutput::zero) {
      clear_tile(part, bytes);
      for_elements(region, part, kInputs, [&](Index offset, Index count, Index step, Index at) {
        tiles_[0].take(to_, offset, count, step, at);
      });
    } else {
      take_selected(region, part, bytes);
    }
  }

  void clear_tile(const BlockPart& part, const std::uint8_t* bytes) {
    T* const values = tiles_[0].data();
    if (is_lanes_) {
      for_stretches(bytes, part.rows, [&](Index first, Index rows, bool is_selected) {
        if (!is_selected) std::fill_n(values + first * part.columns, rows * part.columns, T{});
      });
      return;
    }
    const Index elements = part.rows * part.columns;
    for (Index channel = 0; channel < part.channels; ++channel) {
      T* const of_channel = values + channel * elements;
      copy_selected(SelectionWay::clear, bytes, of_channel, elements, of_channel);
    }
  }

  void take_selected(const Region& region, const BlockPart& part, const std::uint8_t* bytes) {
    const Index start = offset_of(region, part, kInputs);
    const Index step = region.steps[kInputs];
    const auto way = selection_.is_inverted ? SelectionWay::overwrite_others : SelectionWay::overwrite;
    const Index bytes_of_row = is_lanes_ ? 1 : part.columns;
    const bool has_kernel = !is_lanes_ && to_.dtype == dtype_of<T>() && step == 1;
    for (Index channel = 0; channel < part.channels; ++channel) {
      for (Index row = 0; row < part.rows; ++row) {
        const Index at = (channel * part.rows + row) * part.columns;
        const Index to = start + channel * region.channel_strides[kInputs] + row * region.row_strides[kInputs];
        if (has_kernel) {
          copy_selected(way, bytes + row * bytes_of_row, tiles_[0].data() + at, part.columns,
                        static_cast<T*>(to_.data) + to);
          continue;
        }
        for_stretches(bytes + row * bytes_of_row, bytes_of_row, [&](Index first, Index count, bool is_selected) {
          if (is_selected == selection_.is_inverted) return;
          tiles_[0].take(to_, to + first * step, is_lanes_ ? part.columns : count, step, at + first);
        });
      }
    }
  }

  std::span<const Operand> operands_;
  const Selection& selection_;
  bool is_lanes_;
  Index repeats_;
  OutputOperand to_;
  std::array<PackedTile<T>, kInputs> tiles_;
  ScratchArray<std::uint8_t> bytes_{PackedTile<T>::capacity};
};

}  // namespace exactnorm

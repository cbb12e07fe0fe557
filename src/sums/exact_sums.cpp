#include "sums/exact_sums.h"

#include <algorithm>
#include <array>
#include <optional>

#include "affine/apply.h"
#include "sums/tile_adder.h"
#include "tensor/element_type.h"
#include "tensor/packed_tile.h"
#include "traverse/block_reader.h"
#include "traverse/traversal.h"
#include "traverse/tuning.h"

namespace exactnorm {

namespace {

// Makes tiles of blocks: in place where whole rows of 32 lanes lie side by side, else packed.
template <typename T, std::size_t kOperands>
class BlockAdder {
 public:
  /// `channels` are those of the slots.
  BlockAdder(std::span<const Index> channels, PartialSums& sums) : channels_(channels), adder_(sums) {}

  void add(const Traversal& traversal, const Block<T, kOperands>& block) {
    traversal.is_lanes() ? add_lanes(block) : add_runs(block);
  }

 private:
  using Tiles = std::array<Tile<T>, kOperands>;
  using Pointers = std::array<const T*, kOperands>;

  static constexpr Index most_packed_rows = PackedTile<T>::capacity / tile_lanes;
  static_assert(most_packed_rows <= maximum_tile_rows);

  /// Element i of a row belongs to slot block.slot + i.
  void add_lanes(const Block<T, kOperands>& block) {
    const Index at_once =
        std::clamp(tile_block_elements / block.count, fewest_tile_rows, std::min(maximum_tile_rows, most_packed_rows));
    for (Index row = 0; row < block.rows; row += at_once) {
      const Index rows = std::min(at_once, block.rows - row);
      for (Index first = 0; first < block.count; first += tile_lanes) {
        if (block.count < tile_lanes) {
          add_packed_lanes(block, row, rows);
          continue;
        }
        // The last lanes may be some of those before once more, which do not count again.
        const Index base = std::min(first, block.count - tile_lanes);
        Tiles tiles;
        for (std::size_t j = 0; j < kOperands; ++j) {
          tiles[j] = {block.data[j] + row * block.strides[j] + base, rows, block.strides[j]};
        }
        adder_.add(tiles, {channels_.data() + block.slot + base, static_cast<int>(first - base), tile_lanes, false});
      }
    }
  }

  /// All rows of a channel of the block belong to one slot, those of the next channel to the next one.
  void add_runs(Block<T, kOperands> block) {
    const Index at_once = std::max<Index>(PackedTile<T>::capacity / block.count, 1);
    for (Index row = 0; row < block.rows; row += at_once) {
      const Index rows = std::min(at_once, block.rows - row);
      for (Index channel = 0; channel < block.channels; ++channel) {
        Pointers run;
        for (std::size_t j = 0; j < kOperands; ++j) {
          run[j] = block.data[j] + channel * block.channel_strides[j] + row * block.strides[j];
        }
        add_runs_of_channel(run, block.strides, rows, block.count, block.slot + channel);
      }
    }
  }

  void add_runs_of_channel(Pointers run, const std::array<Index, kOperands>& strides, Index rows, Index count,
                           Index slot) {
    if (rows == 1) {
      while (count >= shortest_run_in_place) {
        const Index tile_rows = std::min(maximum_tile_rows, count / tile_lanes);
        Tiles tiles;
        for (std::size_t j = 0; j < kOperands; ++j) {
          tiles[j] = {run[j], tile_rows, tile_lanes};
          run[j] += tile_rows * tile_lanes;
        }
        add_to_channel(tiles, slot);
        count -= tile_rows * tile_lanes;
      }
    }
    if (count == 0) return;
    const Index elements = rows * count;
    const Index tile_rows = (elements + tile_lanes - 1) / tile_lanes;
    Tiles tiles;
    for (std::size_t j = 0; j < kOperands; ++j) {
      T* to = packed_[j].data();
      for (Index row = 0; row < rows; ++row) to = std::copy_n(run[j] + row * strides[j], count, to);
      std::fill_n(to, tile_rows * tile_lanes - elements, T{0});
      tiles[j] = {packed_[j].data(), tile_rows, tile_lanes};
    }
    add_to_channel(tiles, slot);
  }

  void add_packed_lanes(const Block<T, kOperands>& block, Index row, Index rows) {
    Tiles tiles;
    for (std::size_t j = 0; j < kOperands; ++j) {
      for (Index i = 0; i < rows; ++i) {
        T* const to =
            std::copy_n(block.data[j] + (row + i) * block.strides[j], block.count, packed_[j].data() + i * tile_lanes);
        std::fill_n(to, tile_lanes - block.count, T{0});
      }
      tiles[j] = {packed_[j].data(), rows, tile_lanes};
    }
    adder_.add(tiles, {channels_.data() + block.slot, 0, static_cast<int>(block.count), false});
  }

  void add_to_channel(const Tiles& tiles, Index slot) {
    adder_.add(tiles, {channels_.data() + slot, 0, tile_lanes, true});
  }

  std::span<const Index> channels_;
  TileAdder<T> adder_;
  std::array<PackedTile<T>, kOperands> packed_;
};

template <typename T, std::size_t kOperands>
void add_regions(const Traversal& traversal, const SumOperands& operands, std::span<const Index> channels,
                 PartialSums& sums) {
  BlockReader<T, kOperands> reader(traversal, operands.inputs, operands.selection);
  BlockAdder<T, kOperands> adder(channels, sums);
  traversal.visit([&](const Region& region) {
    reader.read(region, [&](const Block<T, kOperands>& block) { adder.add(traversal, block); });
  });
}

template <typename T>
void add_all(const Traversal& traversal, const SumOperands& operands, const Coefficients& forward,
             std::span<const Index> channels, PartialSums& sums) {
  if (operands.step != nullptr) {
    BlockAdder<T, 2> adder(channels, sums);
    visit_activated<T>(traversal, operands, forward, [&](const Block<T, 2>& block) { adder.add(traversal, block); });
  } else if (operands.is_gradient()) {
    add_regions<T, 2>(traversal, operands, channels, sums);
  } else {
    add_regions<T, 1>(traversal, operands, channels, sums);
  }
}

}  // namespace

PartialSums::Range range_for(std::span<const Operand> operands) noexcept {
  return all_fit_float32(operands) ? PartialSums::Range::single : PartialSums::Range::extended;
}

void add_exactly(const LoopNest& nest, const Box& box, const SumOperands& operands, std::span<const Index> channels,
                 PartialSums& sums) {
  const Traversal traversal(nest, box, operands.size());
  const SlotMap& slots = traversal.slots();
  // Its memory is kept from call to call.
  thread_local std::vector<Index> slot_channels;
  if (!slots.is_identity()) {
    slot_channels.clear();
    for (Index slot = 0; slot < slots.slots(); ++slot) {
      slot_channels.push_back(channels[static_cast<std::size_t>(slots.channel(slot))]);
    }
    channels = slot_channels;
  }
  std::optional<StepCoefficients> forward;
  if (operands.step != nullptr) forward.emplace(nest, box, slots, *operands.step);
  const Coefficients of_slots = forward ? forward->view() : Coefficients{};
  range_for(operands.summed()) == PartialSums::Range::single
      ? add_all<float>(traversal, operands, of_slots, channels, sums)
      : add_all<double>(traversal, operands, of_slots, channels, sums);
}

}  // namespace exactnorm

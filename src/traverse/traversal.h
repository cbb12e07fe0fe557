#pragma once

#include <array>
#include <cstddef>

#include "exactnorm/tensor.h"
#include "traverse/function_view.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"

namespace exactnorm {

/// The sums of a box are taken in slots. A slot is a channel, or, where rows of few channels or of short runs are taken
/// as they lie in memory, one of several that make up a channel.
struct SlotMap {
  Index channels = 1;      // of the box
  Index row_channels = 1;  // of a row of slots
  Index places = 1;        // neighbouring slots of one channel
  Index repeats = 1;       // how often a row of slots has its channels

  [[nodiscard]] Index slots() const noexcept { return channels * places * repeats; }
  [[nodiscard]] Index channel(Index slot) const noexcept {
    return slot / (row_channels * places * repeats) * row_channels + slot / places % row_channels;
  }
  [[nodiscard]] bool is_identity() const noexcept { return places == 1 && repeats == 1; }
};

/// Rows of elements that a visitor takes together: `rows` rows of `count` elements each, of each of `channels`
/// channels.
struct Region {
  std::array<Index, maximum_operands> offsets{};          // elements, from each operand's address to its first element
  std::array<Index, maximum_operands> channel_strides{};  // elements, from a channel to the next
  std::array<Index, maximum_operands> row_strides{};      // elements, from a row to the next
  std::array<Index, maximum_operands> steps{};            // elements, from an element of a row to the next
  Index channels = 1;                                     // more than 1 in short runs only
  Index rows = 1;
  Index count = 0;
  Index slot = 0;      // of the first element
  Index prefetch = 0;  // elements, from each element to the one to prefetch meanwhile; 0 for none
};

/// The way through a box of a nest, whatever its layout: it delivers the box as regions of one kind.
///
/// In runs, all elements of a channel of a region belong to one slot, the next channel's to the next: the neighbours in
/// memory belong to one channel. In lanes, element i of a row belongs to slot `slot + i`. Where slots().repeats is more
/// than 1, that many rows make one row of slots, the first row the first slots of it, and regions have a multiple of
/// that many rows, but for the last one.
class Traversal {
 public:
  /// The nest has `operands` operands.
  Traversal(const LoopNest& nest, const Box& box, std::size_t operands);

  [[nodiscard]] bool is_lanes() const noexcept { return is_lanes_; }
  /// The box's slots; channels are in the order of channels_of.
  [[nodiscard]] const SlotMap& slots() const noexcept { return slots_; }

  void visit(FunctionView<void(const Region&)> visitor) const;

 private:
  // One loop of the box.
  struct Step {
    Index size = 1;
    std::array<Index, maximum_operands> strides{};
    Index slot_stride = 0;
    bool is_channel = false;
  };
  using Steps = ShortList<Step>;

  void set_lanes(Steps& steps, Index columns, Index places);
  void set_runs(Steps& steps);
  [[nodiscard]] bool follows(const Step& outer, const Step& inner, Index inner_size) const noexcept;
  [[nodiscard]] bool has_short_runs(const Steps& steps) const noexcept;
  void walk(const Steps& steps, std::size_t at, Region region, FunctionView<void(const Region&)> visitor) const;

  std::size_t operands_;
  Region first_;    // one row at the start of the box
  Steps outer_;     // loops around the rows, outermost first
  Step rows_;       // from row to row
  Steps channels_;  // runs: loops over channels, within some rows
  Index rows_at_once_ = 1;
  Index count_at_once_ = 1;
  SlotMap slots_;
  bool is_lanes_ = false;
  bool reads_memory_ = false;  // rather than caches
};

}  // namespace exactnorm

#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdlib>

#include "exactnorm/tensor.h"
#include "simd/cache_line.h"
#include "traverse/function_view.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"

namespace exactnorm {

/// What a box is traversed for. `accumulate`: many elements of a channel come before the next channel, so that sums
/// stay in registers. `apply`: the order is that of memory, so that whole cache lines are written; large blocks come
/// backwards, as the elements that were summed last are in cache.
enum class Stage { accumulate, apply };

/// The sums and the coefficients of a box are in slots. A slot is a channel, or, where rows of few channels or of short
/// runs are taken as they lie in memory, one of several of a channel.
struct SlotMap {
  Index channels = 1;      // of the box
  Index row_channels = 1;  // of a row of slots
  Index places = 1;        // neighbouring slots of one channel
  Index repeats = 1;       // how often a row of slots has its channels
  Index spare = 0;         // slots after a row of slots that repeat its first ones

  [[nodiscard]] Index row_slots() const noexcept { return row_channels * places * repeats + spare; }
  [[nodiscard]] Index slots() const noexcept { return channels / row_channels * row_slots(); }
  [[nodiscard]] Index channel(Index slot) const noexcept {
    return slot / row_slots() * row_channels + slot % row_slots() / places % row_channels;
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
  Index channels = 1;                                     // 1 in lanes
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
/// that many rows, but for the last one in memory. In apply, a region of runs has several channels or several rows, not
/// both.
class Traversal {
 public:
  /// The nest has `operands` operands. In apply, a cache line has `line` elements of the output.
  Traversal(const LoopNest& nest, const Box& box, std::size_t operands, Stage stage = Stage::accumulate,
            Index line = line_size<float>);

  [[nodiscard]] bool is_lanes() const noexcept { return is_lanes_; }
  /// The box's slots; channels are in the order of channels_of.
  [[nodiscard]] const SlotMap& slots() const noexcept { return slots_; }

  void visit(FunctionView<void(const Region&)> visitor) const;

 private:
  // One loop of the box.
  struct Step {
    Index size;
    std::array<Index, maximum_operands> strides;
    Index slot_stride;
    bool is_channel;
  };
  using Steps = ShortList<Step>;
  static constexpr Step one_step = {1, {}, 0, false};

  // The steps of a loop that are taken at once, block by block: forwards, or, in apply, backwards.
  struct Blocks {
    Index size = 1;
    Index first = 0;
    Index step = 1;

    [[nodiscard]] bool has(Index at) const noexcept { return at >= 0 && at < size; }
    [[nodiscard]] Index size_at(Index at) const noexcept { return std::min(std::abs(step), size - at); }
  };

  void set_lanes(Steps& steps, Index columns, Index places, Index line);
  void repeat_for_whole_lines(Index line);
  void set_runs(Steps& steps);
  void set_runs_in_memory_order(Steps& steps);
  [[nodiscard]] Blocks blocks_of(Index size, Index at_once) const noexcept;
  [[nodiscard]] bool follows(const Step& outer, const Step& inner, Index inner_size) const noexcept;
  [[nodiscard]] bool has_short_runs(const Steps& steps) const noexcept;
  void move(Region& region, const Step& step, Index count) const noexcept;
  void walk(const Steps& steps, std::size_t at, const Region& start, FunctionView<void(const Region&)> visitor) const;
  void visit_rows(const Region& start, FunctionView<void(const Region&)> visitor) const;

  std::size_t operands_;
  Stage stage_;
  Region first_;          // one row at the start of the box
  Steps outer_;           // loops around the rows, outermost first; one at least
  Step rows_ = one_step;  // from row to row
  Steps channels_;        // runs: loops over channels, within some rows
  Blocks outer_blocks_;   // of the outermost loop
  Blocks row_blocks_;
  Blocks count_blocks_;
  SlotMap slots_;
  bool is_lanes_ = false;
  bool reads_memory_ = false;  // rather than caches
};

}  // namespace exactnorm

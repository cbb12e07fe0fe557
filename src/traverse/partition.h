#pragma once

#include <array>
#include <optional>
#include <vector>

#include "traverse/loop_nest.h"

namespace exactnorm {

/// A part of one loop: steps begin to begin + size.
struct Range {
  Index begin = 0;
  Index size = 0;
};

/// A part of a nest: one range per loop.
using Box = ShortList<Range>;

/// How a nest is cut for threads and for the cache.
///
/// Channels are cut into groups, each as small as may be, so that it can be reduced and mapped in one go
/// while it is in cache, but at least a page wide where channels lie side by side. Where groups alone would
/// leave threads idle, the longest reduced loop is cut into pieces as well, and the sums of a group's pieces
/// are merged. As sums are exact, the cut changes no bit of any result.
class Partition {
 public:
  /// Of a nest over `operands` operands, whose elements have about `element_size` bytes.
  Partition(const LoopNest& nest, std::size_t element_size, std::size_t operands, int threads);

  /// The other way to cut, for walks that need no channel in one piece: into stretches of memory, in its order.
  [[nodiscard]] static Partition in_memory_order(const LoopNest& nest, int threads);

  [[nodiscard]] Index groups() const noexcept { return groups_; }
  [[nodiscard]] Index pieces() const noexcept { return pieces_; }
  [[nodiscard]] int threads() const noexcept { return threads_; }

  [[nodiscard]] Box box(Index group, Index piece) const;
  /// All pieces of a group.
  [[nodiscard]] Box whole_box(Index group) const;

 private:
  Partition() = default;

  ShortList<Index> sizes_;
  ShortList<Index> group_steps_;  // per loop: the size of its parts
  std::size_t piece_loop_ = 0;
  Index groups_ = 1;
  Index pieces_ = 1;
  int threads_ = 1;
};

/// Elements, from each operand's address to the first one of a box.
[[nodiscard]] std::array<Index, maximum_operands> offsets_of(const LoopNest& nest, const Box& box) noexcept;

/// The channels of a box in the order of a walk over its channel loops: their numbers.
[[nodiscard]] std::vector<Index> channels_of(const LoopNest& nest, const Box& box);
/// The same in a vector whose memory is kept.
void list_channels(const LoopNest& nest, const Box& box, std::vector<Index>& channels);

/// The first of them, if each one's number is one more than the last one's.
[[nodiscard]] std::optional<Index> first_of_consecutive(const LoopNest& nest, const Box& box);

}  // namespace exactnorm

#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "cli/progress.h"
#include "exactnorm/tensor.h"
#include "npy/npy_file.h"
#include "plan/loop_nest.h"

namespace exactnorm::cli {

/// The most bytes of a file, or of what becomes of them, that are in memory at a time.
inline constexpr Index default_block_bytes = Index{32} << 20;

/// A piece of a file that is contiguous in it.
struct FileBlock {
  TensorView x;
  /// The index of its first element along each axis of the file.
  IndexList begin;
};

/// The same numbering of channels, for a block as a part of the whole file.
[[nodiscard]] ChannelMap channels_of_block(const ChannelMap& whole, const FileBlock& block);

/// Cuts a file of any size into blocks, in the order in which the elements lie in it, C or Fortran.
///
/// A block is a range of one axis, with all of the axes that are faster in memory and one index of each
/// slower one. The axis is the slowest of which a single step fits, so that a first axis of size 1 or a
/// slice that is larger than a block does no harm.
class FileBlocks {
 public:
  /// `bytes_per_element` counts towards the limit: that of the file, or of a larger output.
  FileBlocks(const npy::NpyFile& file, std::size_t bytes_per_element, Index block_bytes);

  /// Calls visit(block) for each block, and gives its memory back to the system. Throws Interrupted where
  /// the user asked for the end.
  void for_each(Progress& progress, const std::function<void(const FileBlock& block)>& visit);

 private:
  [[nodiscard]] TensorView view_of(Index first, Index count, const IndexList& shape);

  const npy::NpyFile& file_;
  std::vector<std::size_t> axes_;  // from the slowest to the fastest
  std::size_t cut_ = 0;            // which of them is cut into ranges
  Index steps_ = 1;                // of the cut axis in each block
  std::vector<std::byte> copy_;    // the block, where it cannot be viewed in place
};

}  // namespace exactnorm::cli

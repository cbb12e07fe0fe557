#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "exactnorm/channels.h"
#include "exactnorm/tensor.h"
#include "npy_file.h"
#include "progress.h"

namespace exactnorm::cli {

/// The most bytes of a file, or of what becomes of them, that are in memory at a time.
inline constexpr Index default_block_bytes = Index{32} << 20;

/// A piece of a file that is contiguous in it.
struct FileBlock {
  TensorView x;
  /// Where it lies in the file's tensor.
  Place place;
  /// How many elements lie before it in the file.
  Index first = 0;
};

/// One of several processes that share a file: number `rank` of `size`.
struct FileShare {
  int rank = 0;
  int size = 1;
};

/// Cuts a file of any size into blocks, in the order in which the elements lie in it, C or Fortran.
///
/// A block is a range of one axis, with all of the axes that are faster in memory and one index of each
/// slower one. The axis is the slowest of which a single step fits, so that a first axis of size 1 or a
/// slice that is larger than a block does no harm.
class FileBlocks {
 public:
  /// `bytes_per_element` counts towards the limit: that of the file, or of a larger output.
  /// All processes that share a file cut it in the same way, each gets a range of blocks, and no block is in two
  /// ranges.
  FileBlocks(const npy::NpyFile& file, std::size_t bytes_per_element, Index block_bytes, const FileShare& share = {});

  /// Bytes of the file to be visited, roughly.
  [[nodiscard]] Index share_bytes() const noexcept;

  /// Calls visit(block) for each block of the share, and gives its memory back to the system. Throws Error where the
  /// file has been shortened or could not be read, which visit() may have met as zeros: NpyFile::check().
  void for_each(Progress& progress, const std::function<void(const FileBlock& block)>& visit);

 private:
  [[nodiscard]] TensorView view_of(Index first, Index count, const IndexList& shape);

  const npy::NpyFile& file_;
  Index share_begin_ = 0;          // blocks that start from here on
  Index share_end_ = 0;            // and before this
  std::vector<std::size_t> axes_;  // from the slowest to the fastest
  std::size_t cut_ = 0;            // which of them is cut into ranges
  Index steps_ = 1;                // of the cut axis in each block
  std::vector<std::byte> copy_;    // the block, where it cannot be viewed in place
};

}  // namespace exactnorm::cli

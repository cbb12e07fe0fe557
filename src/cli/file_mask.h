#pragma once

#include <string>

#include "exactnorm/channels.h"
#include "exactnorm/options.h"
#include "exactnorm/tensor.h"
#include "file_blocks.h"
#include "npy_file.h"

namespace exactnorm::cli {

/// A .npy file of bool that says which elements of another one count. It is held in memory.
class FileMask {
 public:
  /// Throws Error, naming --mask, where it does not fit a file of this shape and these channels.
  FileMask(const std::string& path, const IndexList& shape, const ChannelAxes& channels, MaskedOutput masked);

  /// Of a block of that file.
  [[nodiscard]] Mask of(const FileBlock& block) const;
  /// The elements of each channel that count.
  [[nodiscard]] Index count() const noexcept { return count_; }

 private:
  npy::NpyArray array_;
  TensorView view_;  // of as many axes as the other file has, of size 1 where it is the same along one
  MaskedOutput masked_;
  Index count_ = 0;
};

}  // namespace exactnorm::cli

#pragma once

#include <string>

#include "exactnorm/options.h"
#include "file_blocks.h"
#include "reduced_file.h"

namespace exactnorm::cli {

/// A .npy file of bool that says which elements of another one count. It is held in memory.
class FileMask {
 public:
  /// Throws Error, naming --mask, where it does not fit a file of this shape; `of_file` has its channel axes.
  FileMask(const std::string& path, const IndexList& shape, const Options& of_file, MaskedOutput masked);

  /// Of a block of that file.
  [[nodiscard]] Mask of(const FileBlock& block) const { return Mask(part_of(file_.view(), block), masked_); }
  /// The elements of each channel that count.
  [[nodiscard]] Index count() const noexcept { return count_; }

 private:
  ReducedFile file_;
  MaskedOutput masked_;
  Index count_;
};

}  // namespace exactnorm::cli

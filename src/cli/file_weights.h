#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "exactnorm/distributed.h"
#include "exactnorm/sums.h"
#include "exactnorm/weights.h"
#include "file_blocks.h"
#include "reduced_file.h"

namespace exactnorm::cli {

/// A .npy file of numbers, 0 or more, that say how much elements of another one count. It is held in memory.
class FileWeights {
 public:
  /// Throws Error, naming --weights, where one is impossible or they do not fit a file of this shape.
  FileWeights(const std::string& path, const IndexList& shape, const Options& of_file);

  /// Adds a block of that file to `moments`.
  void accumulate(WeightedMoments& moments, const FileBlock& block, const Options& options) const;
  /// The elements of a block that have a weight.
  [[nodiscard]] Mask mask_of(const FileBlock& block) const { return Mask(part_of(selected_view_, block)); }
  /// The elements of each channel that have a weight.
  [[nodiscard]] Index count() const noexcept { return count_; }

 private:
  ReducedFile file_;
  std::vector<std::uint8_t> selected_;
  TensorView selected_view_;
  Index count_ = 0;
};

/// Of all ranks together, on each of them.
[[nodiscard]] WeightedMoments sum(Communicator& ranks, const WeightedMoments& moments);

}  // namespace exactnorm::cli

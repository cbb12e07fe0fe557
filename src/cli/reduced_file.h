#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "exactnorm/options.h"
#include "exactnorm/tensor.h"
#include "file_blocks.h"
#include "npy_file.h"

namespace exactnorm::cli {

/// A .npy file of a value for each place of another file's reduced axes: its mask, or its weights. It is held in
/// memory.
class ReducedFile {
 public:
  /// Throws Error, naming `option`, where it does not fit a file of this shape; `of_file` has its channel axes. Whether
  /// `accepts(dtype)` is asked first, and `expected` said where it does not.
  ReducedFile(const std::string& option, const std::string& path, const IndexList& shape, const Options& of_file,
              bool (*accepts)(DType), const std::string& expected);

  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// Of as many axes as the other file, of size 1 where it is the same along one.
  [[nodiscard]] const TensorView& view() const noexcept { return view_; }
  /// Its values, a byte or more each, in an order of their own.
  [[nodiscard]] const std::vector<std::byte>& bytes() const noexcept { return array_.bytes; }
  /// Of each channel's elements in the other file, how many there are for one of these.
  [[nodiscard]] Index repeats() const noexcept { return repeats_; }

 private:
  std::string name_;
  npy::NpyArray array_;
  TensorView view_;
  Index repeats_ = 1;
};

/// The part of such a view, or of one like it, that belongs to a block of the other file.
[[nodiscard]] TensorView part_of(const TensorView& reduced, const FileBlock& block);

}  // namespace exactnorm::cli

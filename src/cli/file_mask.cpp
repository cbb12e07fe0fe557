#include "file_mask.h"

#include <algorithm>
#include <cstddef>

#include "arguments.h"
#include "exactnorm/sums.h"

namespace exactnorm::cli {

FileMask::FileMask(const std::string& path, const IndexList& shape, const ChannelAxes& channels, MaskedOutput masked)
    : masked_(masked) {
  const npy::NpyFile file(path);
  const auto refuse = [&](const std::string& problem) { throw Error("--mask", file.name() + " " + problem); };
  if (file.dtype() != DType::boolean) refuse("has dtype " + std::string(name_of(file.dtype())) + "; expected bool");
  const auto is_channel = [&](std::size_t axis) {
    return std::find(channels.axes.begin(), channels.axes.end(), static_cast<Index>(axis)) != channels.axes.end();
  };
  IndexList kept = shape;
  IndexList reduced;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    is_channel(axis) ? static_cast<void>(kept[axis] = 1) : reduced.push_back(shape[axis]);
  }
  const bool has_all_axes = file.shape().size() == shape.size();
  const IndexList& expected = has_all_axes ? kept : reduced;
  const auto fits = [](Index size, Index of_axis) { return size == 1 || size == of_axis; };
  // Before it is read: somebody may have named a file that does not fit in memory.
  if (!std::equal(file.shape().begin(), file.shape().end(), expected.begin(), expected.end(), fits)) {
    refuse("has shape " + to_string(file.shape()) + "; expected " + to_string(kept) + " or " + to_string(reduced) +
           ", or 1 on some of these axes");
  }
  array_ = npy::read_npy(file);
  view_ = {array_.bytes.data(), DType::boolean, {}, {}};
  std::size_t at = 0;
  Index repeats = 1;
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    const bool has_axis = has_all_axes || !is_channel(axis);
    view_.shape.push_back(has_axis ? array_.shape[at] : 1);
    view_.strides.push_back(has_axis ? array_.strides[at] : 0);
    if (!is_channel(axis) && view_.shape[axis] == 1) repeats *= shape[axis];
    if (has_axis) ++at;
  }
  count_ = repeats * (static_cast<Index>(array_.bytes.size()) -
                      static_cast<Index>(std::count(array_.bytes.begin(), array_.bytes.end(), std::byte{0})));
}

Mask FileMask::of(const FileBlock& block) const {
  TensorView of_block = view_;
  for (std::size_t axis = 0; axis < of_block.rank(); ++axis) {
    if (of_block.shape[axis] == 1) continue;
    of_block = slice(of_block, axis, block.place.begin[axis], block.x.shape[axis]);
  }
  return Mask(of_block, masked_);
}

}  // namespace exactnorm::cli

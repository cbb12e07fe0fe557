#include "file_blocks.h"

#include <algorithm>

namespace exactnorm::cli {

namespace {

// Of `count` elements in `size` shares as equal as can be, where share number `rank` begins.
Index share_begin(Index count, int rank, int size) { return count / size * rank + count % size * rank / size; }

// Blocks are the unit of sharing: this many a share keep shares within some percent of each other.
constexpr Index blocks_per_share = 16;

}  // namespace

FileBlocks::FileBlocks(const npy::NpyFile& file, std::size_t bytes_per_element, Index block_bytes,
                       const FileShare& share)
    : file_(file),
      share_begin_(share_begin(file.element_count(), share.rank, share.size)),
      share_end_(share_begin(file.element_count(), share.rank + 1, share.size)) {
  for (std::size_t axis = 0; axis < file.shape().size(); ++axis) axes_.push_back(axis);
  if (file.header().fortran_order) std::reverse(axes_.begin(), axes_.end());
  Index block_elements = std::max<Index>(1, block_bytes / static_cast<Index>(bytes_per_element));
  if (file.element_count() == 0) return;
  if (share.size > 1) {
    block_elements = std::clamp<Index>(file.element_count() / share.size / blocks_per_share, 1, block_elements);
  }
  const IndexList strides = file.strides();
  while (cut_ + 1 < axes_.size() && strides[axes_[cut_]] > block_elements) ++cut_;
  if (!axes_.empty()) steps_ = std::max<Index>(1, block_elements / strides[axes_[cut_]]);
}

Index FileBlocks::share_bytes() const noexcept {
  return (share_end_ - share_begin_) * static_cast<Index>(size_of(file_.dtype()));
}

TensorView FileBlocks::view_of(Index first, Index count, const IndexList& shape) {
  if (file_.needs_copy()) {
    copy_.resize(static_cast<std::size_t>(count) * size_of(file_.dtype()));
    file_.copy_range(first, count, copy_.data());
    return {copy_.data(), file_.dtype(), shape, file_.strides()};
  }
  const auto* const data = static_cast<const std::byte*>(file_.view().data);
  return {data + first * static_cast<Index>(size_of(file_.dtype())), file_.dtype(), shape, file_.strides()};
}

void FileBlocks::for_each(Progress& progress, const std::function<void(const FileBlock&)>& visit) {
  const IndexList& file_shape = file_.shape();
  IndexList begin = file_shape;
  std::fill(begin.begin(), begin.end(), 0);
  for (Index first = 0; first < share_end_;) {
    IndexList shape = file_shape;
    for (std::size_t i = 0; i < cut_; ++i) shape[axes_[i]] = 1;
    if (!axes_.empty()) {
      const std::size_t axis = axes_[cut_];
      shape[axis] = std::min(steps_, file_shape[axis] - begin[axis]);
    }
    const Index count = element_count(shape);
    if (first >= share_begin_) {
      visit({view_of(first, count, shape), {file_shape, begin}, first});
      file_.check();
      file_.release(first, count);
      progress.advance(count * static_cast<Index>(size_of(file_.dtype())));
    }
    first += count;
    // The next range of the cut axis; at its end, the next indices of the slower ones.
    for (std::size_t i = axes_.empty() ? 0 : cut_ + 1; i-- > 0;) {
      begin[axes_[i]] += shape[axes_[i]];
      if (begin[axes_[i]] < file_shape[axes_[i]]) break;
      begin[axes_[i]] = 0;
    }
  }
}

}  // namespace exactnorm::cli

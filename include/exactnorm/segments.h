#pragma once

#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/export.h"
#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/sums.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// Which rows of a tensor, its positions along one axis that is no channel axis, belong to which segment. Each segment
/// has statistics of its own: ghost batches (Hoffer, Hubara and Soudry, 2017), domains, graphs in a batch of nodes.
/// What becomes of a segment is, bit for bit, what becomes of a tensor of its rows alone.
///
/// Rows of a segment that follow each other are read and written where they lie. Those that do not are found by a mask
/// over the rows between its first and its last: each segment costs a look at each row there, a byte.
class EXACTNORM_EXPORT Segments {
 public:
  /// `ids` says for each row to which of `count` segments, 0 to count - 1, it belongs; a segment may have no row.
  /// `axis` is from -rank to rank - 1. Throws Error where an id or the count is impossible.
  Segments(const std::vector<Index>& ids, Index count, Index axis = 0);

  /// Ghost batches of at most `size` rows, as equal as PyTorch's chunk() makes them: as many as are needed,
  /// ceil(rows / size), of ceil(rows / that number) rows each, but for the last one, which has the rest. This is the
  /// rule of TabNet (Arik and Pfister, 2021). Throws Error where rows is negative, or size below 1.
  [[nodiscard]] static Segments even(Index rows, Index size, Index axis = 0);
  /// Ghost batches of `size` rows each, and one of the rest, which joins the one before where it is a single row.
  [[nodiscard]] static Segments exact(Index rows, Index size, Index axis = 0);

  [[nodiscard]] Index count() const noexcept { return static_cast<Index>(begins_.size()) - 1; }
  [[nodiscard]] Index axis() const noexcept { return axis_; }
  [[nodiscard]] Index rows() const noexcept { return begins_.back(); }
  /// Of one segment. Not checked.
  [[nodiscard]] Index rows_of(Index segment) const noexcept {
    return begins_[static_cast<std::size_t>(segment) + 1] - begins_[static_cast<std::size_t>(segment)];
  }

 private:
  friend struct SegmentRows;

  std::vector<Index> rows_;    // those of segment 0 in their order, then those of segment 1, and so on
  std::vector<Index> begins_;  // where those of each segment begin, and the number of all rows
  Index axis_;
};

// The operations of batch_norm.h and sums.h for each segment. gamma, beta and Options are those of all segments; a mask
// is allowed where the rows of each segment follow each other. All arguments are checked before anything is written.

/// Returns the statistics of each segment; those of one without rows are NaN, of a count of 0.
EXACTNORM_EXPORT std::vector<Statistics> segmented_training(const TensorView& x, const Segments& segments,
                                                            const MutableTensorView& y, const Affine& affine = {},
                                                            const Options& options = {});

/// `statistics` are one for each segment.
EXACTNORM_EXPORT void segmented_inference(const TensorView& x, const Segments& segments,
                                          const std::vector<Statistics>& statistics, const MutableTensorView& y,
                                          const Affine& affine = {}, const Options& options = {});

/// dgamma and dbeta are the sums of those of the segments, in their order.
EXACTNORM_EXPORT void segmented_backward(const TensorView& dy, const TensorView& x, const Segments& segments,
                                         const std::vector<Statistics>& statistics, const Affine& affine,
                                         const Gradients& gradients, const Options& options = {});

/// Adds the elements of each segment to its sums (kind moments), one for each. After an Error or std::bad_alloc some of
/// them may hold a part of x.
EXACTNORM_EXPORT void accumulate(std::vector<PartialSums>& sums, const TensorView& x, const Segments& segments,
                                 const Options& options = {});

}  // namespace exactnorm

#pragma once

#include <vector>

#include "exactnorm/channels.h"
#include "exactnorm/export.h"
#include "exactnorm/options.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// The least and the greatest finite value of each channel so far. A plain value; one object may not be changed by two
/// threads at once.
struct EXACTNORM_EXPORT ValueRanges {
  /// Ranges of nothing: minimum +infinity, maximum -infinity. Throws Error when `channels` is negative.
  explicit ValueRanges(Index channels = 0);

  /// One value per channel in each, in float64 whatever the input was. A channel without a finite value keeps +infinity
  /// and -infinity. Zeros are +0, so that results do not depend on any order.
  std::vector<double> minimum;
  std::vector<double> maximum;

  [[nodiscard]] Index channels() const noexcept { return static_cast<Index>(minimum.size()); }

  /// Widens these ranges by those of another part of the data. Throws Error, and changes nothing, when the numbers of
  /// channels differ.
  void merge(const ValueRanges& other);
};

/// Widens `ranges` by all finite elements of `x`, of any dtype and strides; NaN and infinity change nothing. Uses
/// `options.channel_axes` and `options.threads`. x is other memory than that of `ranges`.
/// Throws Error when x has another number of channels than `ranges`, which are then what they were. After
/// std::bad_alloc they may be wider by a part of x.
EXACTNORM_EXPORT void accumulate(ValueRanges& ranges, const TensorView& x, const Options& options = {});

/// The same for `x`, a block of a larger tensor whose channels `ranges` has.
/// Throws Error that names `place` when x does not fit there.
EXACTNORM_EXPORT void accumulate(ValueRanges& ranges, const TensorView& x, const Place& place,
                                 const Options& options = {});

/// The same for those elements of the block that `mask` selects; it has the block's sizes.
EXACTNORM_EXPORT void accumulate(ValueRanges& ranges, const TensorView& x, const Place& place, const Mask& mask,
                                 const Options& options = {});

}  // namespace exactnorm

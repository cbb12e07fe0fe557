#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "exactnorm/channels.h"
#include "exactnorm/export.h"
#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// Exact sums per channel over a part of a data set, and the number of elements behind them.
///
/// Each sum is one long integer in units of the smallest number that its dtype (or its square) can
/// hold (a Kulisch accumulator: Kulisch and Miranker, 1981), so additions never round: they are
/// associative and commutative, and the result depends on the numbers alone, not on their order, on
/// who added which, or on how they were cut into parts. Sums stay exact up to 2^62 elements.
///
/// The same type serves both directions:
///   kind moments:   sum of x,  sum of x * x      (what the mean and the variance need)
///   kind gradients: sum of dy, sum of dy * x     (what dgamma, dbeta and dx need), and, in the range single,
///                   sum of dy * dy               (which says to how many bits they are rounded)
///
/// It is a value: copy, compare, serialize and merge it freely. One object may not be changed by two
/// threads at once.
class EXACTNORM_EXPORT PartialSums {
 public:
  enum class Kind : std::uint8_t { moments, gradients };
  /// `single` holds float32 and integers of up to 16 bits exactly (128 bytes per channel for moments, 208 for
  /// gradients), `extended` holds float64 and all integers (808 bytes per channel).
  enum class Range : std::uint8_t { single, extended };

  /// Sums over nothing. Throws Error when `channels` is negative.
  explicit PartialSums(Index channels, Kind kind = Kind::moments, Range range = Range::single);

  [[nodiscard]] Index channels() const noexcept { return channels_; }
  [[nodiscard]] Kind kind() const noexcept { return kind_; }
  [[nodiscard]] Range range() const noexcept { return range_; }

  /// Elements per channel so far.
  [[nodiscard]] Index count() const noexcept { return count_; }
  /// Adds `elements` per channel to count(): for blocks of a tensor, which leave the count alone. Throws Error, and
  /// changes nothing, when `elements` is negative or the count would exceed 2^62.
  void add_count(Index elements);

  /// NaN and infinite values met in this channel so far: in x (moments), or in dy and in x counted
  /// each (gradients). The channel's results are NaN as soon as there is one; other channels are not touched.
  [[nodiscard]] Index nonfinite_count(Index channel) const;

  /// Adds the sums of another part. The two may have different ranges: the result has the larger one.
  /// Throws Error when kind or number of channels differ, or when counts add up to more than 2^62.
  void merge(const PartialSums& other);

  /// A self-describing byte string (versioned, little-endian, the same on every machine).
  [[nodiscard]] std::vector<std::byte> serialize() const;
  /// Throws Error when `bytes` is not what `serialize` writes.
  [[nodiscard]] static PartialSums deserialize(std::span<const std::byte> bytes);

  /// True when all sums are equal as numbers, whatever the range that holds them.
  friend EXACTNORM_EXPORT bool operator==(const PartialSums& a, const PartialSums& b);

 private:
  friend struct PartialSumsAccess;

  Index channels_ = 0;
  Kind kind_ = Kind::moments;
  Range range_ = Range::single;
  Index count_ = 0;
  std::vector<std::uint64_t> words_;  // per channel: the words of each sum
  std::vector<Index> nonfinite_;      // per channel: in the first operand, in the second
};

/// The range that exact sums of elements of this type need.
[[nodiscard]] EXACTNORM_EXPORT PartialSums::Range range_for(DType dtype) noexcept;

/// Adds all elements of `x` to `sums` (kind moments). Uses `options.channel_axes` and `options.threads`.
/// Throws Error when x has another number of channels than `sums`, and std::bad_alloc when memory ends; then `sums` are
/// what they were. Unless they are empty, x's sums are held beside them meanwhile.
EXACTNORM_EXPORT void accumulate(PartialSums& sums, const TensorView& x, const Options& options = {});

/// Adds those elements of `x` that `mask` selects, whatever it says of outputs. The count grows by their number.
EXACTNORM_EXPORT void accumulate(PartialSums& sums, const TensorView& x, const Mask& mask, const Options& options = {});

/// Adds dy and dy * x to `sums` (kind gradients). dy has a floating dtype and the shape of x.
EXACTNORM_EXPORT void accumulate(PartialSums& sums, const TensorView& dy, const TensorView& x,
                                 const Options& options = {});

/// Adds the elements of `x`, a block of a larger tensor, to `sums` (kind moments), which have the channels of the whole
/// tensor. Blocks may cut through the channels, come in any order, and be spread over several `sums` that are merged
/// afterwards.
///
/// A block may hold some of the channels only, so the count is left alone: when all elements are in, call `add_count`
/// once with the number of elements per channel, and before `serialize`. Until then `statistics_of` gives NaN, or
/// results for another count.
/// Throws Error that names `place` when x does not fit there or the whole tensor has another number of channels than
/// `sums`, with `sums` as they were. After std::bad_alloc `sums` may hold a part of x, and are of no use.
EXACTNORM_EXPORT void accumulate(PartialSums& sums, const TensorView& x, const Place& place,
                                 const Options& options = {});

/// The same for those elements of the block that `mask` selects; it has the block's sizes. Returns their number per
/// channel.
EXACTNORM_EXPORT Index accumulate(PartialSums& sums, const TensorView& x, const Place& place, const Mask& mask,
                                  const Options& options = {});

/// What NaN and infinity among a channel's elements do to its statistics.
enum class Nonfinite : std::uint8_t {
  propagate,  ///< they are NaN
  ignore      ///< they are those of the other elements, of which each channel has its own number
};

/// Mean, variance and 1/deviation from the sums of kind moments: the exact values, rounded once.
/// Every channel of an empty data set gets NaN. So does one with a non-finite element, or, where those are ignored, one
/// without any other; `counts` of the result says how many each channel has.
[[nodiscard]] EXACTNORM_EXPORT Statistics statistics_of(const PartialSums& sums, const Options& options = {},
                                                        Nonfinite nonfinite = Nonfinite::propagate);

/// Standard deviations, one value per channel in each vector.
struct EXACTNORM_EXPORT Deviations {
  /// sqrt(variance), the variance being divided by count. NaN in an empty data set and where an element is not finite.
  std::vector<double> biased;
  /// The same with the variance divided by count - 1: NaN for a count of 1, too.
  std::vector<double> unbiased;
};

/// The standard deviations from the sums of kind moments: the exact values, rounded once. They are finite even where
/// the variance leaves float64's range, and have no part of the rounding of `Statistics::variance`.
[[nodiscard]] EXACTNORM_EXPORT Deviations deviations_of(const PartialSums& sums,
                                                        Nonfinite nonfinite = Nonfinite::propagate);

/// The statistics that `training` normalizes the same data with: those of `statistics_of`, rounded to the grid that
/// batch_norm.h describes where the data are of dtypes that float32 holds (range single), and as they are where not.
/// With others ignored they are what `training` would normalize the finite elements with.
[[nodiscard]] EXACTNORM_EXPORT Statistics normalizing_statistics(const PartialSums& sums, const Options& options = {},
                                                                 Nonfinite nonfinite = Nonfinite::propagate);

// PartialSums for engines that add up numbers, not objects: MPI's and NCCL's all-reduce, torch.distributed's, a
// parameter server's. What they need to know is to add int64 elements.
//
// An exact sum is cut into pieces of 47 bits, each in an int64 of its own, so that up to 65,536 parts can be added up
// without an overflow; `from_addends` carries. Sums of parts are exact, as `PartialSums::merge` is, in any order.

/// The integers to be added up, of a number that depends on channels, kind and range only: 2 + 27 per channel for
/// moments of the range single, 2 + 41 for gradients of that range, 2 + 143 for extended. Parts that are added up must
/// agree in kind, channels and range. Throws Error when `sums` need a larger range than `range`.
[[nodiscard]] EXACTNORM_EXPORT std::vector<std::int64_t> to_addends(const PartialSums& sums, PartialSums::Range range);

/// The merged sums, from the element-wise totals of what `to_addends` gave for each part.
/// Throws Error when the number of totals is another one, when one of them is negative, or when there are more than
/// 2^62 elements in all.
[[nodiscard]] EXACTNORM_EXPORT PartialSums from_addends(std::span<const std::int64_t> totals, Index channels,
                                                        PartialSums::Kind kind, PartialSums::Range range);

}  // namespace exactnorm

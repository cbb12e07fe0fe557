#pragma once

#include <span>
#include <vector>

#include "exactnorm/sums.h"
#include "exactnorm/tensor.h"
#include "sums/quick_sums.h"
#include "sums/sum_operands.h"
#include "traverse/function_view.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"

// Accumulate and finalize: for each group of channels, quick sums first; where their error bounds leave a channel
// undecided, quick sums about its mean, and then exact sums. The way that a channel takes leaves no trace in its
// results.

namespace exactnorm {

/// What makes results of the sums of channels. Calls for different channels may come from several threads at once.
class Finalizer {
 public:
  virtual ~Finalizer() = default;

  /// What sums are about; for gradients the channels' means.
  virtual void set_centres(std::span<const Index> channels, std::span<double> centres) const = 0;

  /// Finalizes those of `channels` that are listed in `wanted`, as positions in `channels`, and that `sums` decide. The
  /// others are left in `wanted`. `centres` are empty for zeros.
  virtual void finalize(QuickSums& sums, std::span<const double> centres, std::span<const Index> channels,
                        std::vector<Index>& wanted) = 0;
  /// Finalizes `channels`, whose exact sums these are, in that order.
  virtual void finalize(const PartialSums& sums, std::span<const Index> channels) = 0;
};

/// Channels finalized by each kind of sums since the program started.
struct SumCounts {
  Index quick = 0;
  Index centred = 0;
  Index exact = 0;
};
[[nodiscard]] SumCounts sum_counts() noexcept;

/// Whether quick sums are tried at all: true unless a benchmark or a test asks for exact sums throughout.
void use_quick_sums(bool use) noexcept;

/// 0 to count - 1.
[[nodiscard]] std::vector<Index> all_channels(Index count);

/// For each group of a partition, accumulates the operands, finalizes its channels and then calls done(group).
void reduce_groups(const LoopNest& nest, const Partition& partition, const SumOperands& operands, Finalizer& finalizer,
                   FunctionView<void(Index)> done);

/// Calls consume(group, channels, sums) once for each group of channels, with their exact sums, in that order.
void reduce_groups_exactly(const LoopNest& nest, const Partition& partition, const SumOperands& operands,
                           FunctionView<void(Index, std::span<const Index>, const PartialSums&)> consume);

}  // namespace exactnorm

#pragma once

#include <optional>

#include "exactnorm/batch_norm.h"
#include "exactnorm/export.h"
#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/sum_exchange.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

// Batch normalization of a batch that several processes ("ranks") hold parts of. Each rank gives its part; statistics
// are those of the whole batch. y, dx and the statistics are the bits that one process with the whole batch gives,
// however it is cut: ranks may hold different numbers of samples, a single value per channel, or none.
//
// All ranks call the same functions in the same order, with an exchange of one layer that they made together. Wrong
// arguments on one rank make all ranks throw the same Error, which names the rank, with nothing written anywhere.
// Options and parameters other than the number of channels are each rank's own. Ranks that differ in epsilon, in its
// placement or in the statistics given to `synchronized_backward` get an Error, too: all the same, with nothing
// written.
//
// Running statistics: give `RunningStatistics::update` what `synchronized_training` returns. It is the same on every
// rank.

/// `training` of this rank's part: one message. Returns the statistics of the whole batch.
EXACTNORM_EXPORT Statistics synchronized_training(SumExchange& exchange, const TensorView& x,
                                                  const MutableTensorView& y, const Affine& affine = {},
                                                  const Options& options = {});

/// Where `synchronized_backward` writes; each is optional, but whether any is given has to be alike on all ranks.
struct EXACTNORM_EXPORT SynchronizedGradients {
  /// The gradient of the sum of all ranks' losses by this rank's x.
  std::optional<MutableTensorView> dx = std::nullopt;
  /// Sums over the whole batch, the same on every rank.
  std::optional<MutableTensorView> dgamma = std::nullopt;
  std::optional<MutableTensorView> dbeta = std::nullopt;
  /// This rank's shares of them: what is to be left for others to add up or to average, as PyTorch's
  /// DistributedDataParallel does.
  std::optional<MutableTensorView> dgamma_share = std::nullopt;
  std::optional<MutableTensorView> dbeta_share = std::nullopt;
};

/// `backward` of this rank's part: one message. `statistics` are those of the whole batch, from
/// `synchronized_training`, the same bits on all ranks.
/// Throws Error, the same on all ranks, where they differ, or are of another number of elements than the batch is.
EXACTNORM_EXPORT void synchronized_backward(SumExchange& exchange, const TensorView& dy, const TensorView& x,
                                            const Statistics& statistics, const std::optional<TensorView>& gamma,
                                            const SynchronizedGradients& gradients, const Options& options = {});

}  // namespace exactnorm

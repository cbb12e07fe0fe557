#pragma once

#include <optional>
#include <span>
#include <vector>

#include "affine/apply.h"
#include "batch_norm/reduction.h"
#include "exactnorm/options.h"
#include "exactnorm/sums.h"
#include "exactnorm/tensor.h"
#include "sums/exact_finalize.h"
#include "traverse/loop_nest.h"
#include "traverse/partition.h"

// How the stages are joined: accumulate, finalize, apply.

namespace exactnorm {

/// Adds all of x, or of dy and x, to `sums`, which number their channels as `channels` says: accumulate
/// and combine alone. `sums` has the range that the operands need, and its count is left alone.
void reduce_all(std::span<const TensorView> operands, const IndexList& channel_axes, const ChannelMap& channels,
                int threads, PartialSums& sums);

/// What apply goes through. An output that will not stay in cache is streamed, unless it is written over
/// an input, whose lines are in cache already.
[[nodiscard]] ApplyOperands apply_operands(const TensorView& x, const std::optional<TensorView>& dy,
                                           const MutableTensorView& out);

/// Sets the coefficients of y for `channels`; gamma and beta have one element for each channel of `statistics`.
void set_forward(CoefficientTable& table, std::span<const Index> channels, const Statistics& statistics,
                 const std::vector<double>& gamma, const std::vector<double>& beta);

/// Maps all channels: apply alone. `coefficients` are those of all channels by their numbers.
void apply_all(const ApplyOperands& operands, const IndexList& channel_axes, const ChannelMap& channels, int threads,
               const Coefficients& coefficients);

/// The whole walk: for each group of channels, accumulates and finalizes it and, if `apply` is given, applies the
/// coefficients that `finalizer` has set, while the group is in cache.
void accumulate_finalize_apply(std::span<const TensorView> operands, const ApplyOperands* apply,
                               const IndexList& channel_axes, PartialSums::Kind kind, int threads, Finalizer& finalizer,
                               const Coefficients& coefficients);

}  // namespace exactnorm

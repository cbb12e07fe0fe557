#pragma once

#include "exactnorm/options.h"
#include "exactnorm/partial_sums.h"
#include "exactnorm/sum_exchange.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// The first half of `training` over ranks, before anything is written: checks all arguments, and returns the sums of x
/// over the whole batch. `own`, if given, becomes this rank's part of them.
[[nodiscard]] PartialSums exchange_moments(SumExchange& exchange, const TensorView& x, const MutableTensorView& y,
                                           const Affine& affine, const Options& options, PartialSums* own = nullptr);

}  // namespace exactnorm

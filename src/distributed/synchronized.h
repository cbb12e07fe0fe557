#pragma once

#include <string>

#include "exactnorm/distributed.h"
#include "exactnorm/options.h"
#include "exactnorm/sums.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// Refuses an exchange of more or fewer layers than one: on all ranks, which made it together.
void check_layers(const SumExchange& exchange);

/// The first half of `training` over ranks, before anything is written: checks all arguments, and returns the sums of x
/// over the whole batch. `own`, if given, becomes this rank's part of them. `purpose` says what else has to be alike on
/// all ranks.
[[nodiscard]] PartialSums exchange_moments(SumExchange& exchange, const TensorView& x, const MutableTensorView& y,
                                           const Affine& affine, const Options& options, PartialSums* own = nullptr,
                                           const std::string& purpose = "");

}  // namespace exactnorm

#include "distributed/synchronized.h"

#include <array>
#include <cstddef>
#include <exception>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "batch_norm/arguments.h"
#include "distributed/digest.h"
#include "exactnorm/distributed.h"
#include "exactnorm/sums.h"
#include "sums/exact_finalize.h"
#include "sums/exact_sums.h"
#include "tensor/argument.h"
#include "tensor/checks.h"
#include "tensor/elements.h"
#include "traverse/floating_point.h"

namespace exactnorm {

namespace {

// The range that all ranks agreed on has to hold what this one has.
void check_range(const SumExchange& exchange, const char* name, const TensorView& x) {
  if (exchange.layers()[0].range == PartialSums::Range::extended) return;
  if (range_for(x.dtype) == PartialSums::Range::single) return;
  throw Error(name, "is " + std::string(name_of(x.dtype)) +
                        "; expected float32 or an integer of at most 16 bits, as the exchange is of range single");
}

void check_channels(const SumExchange& exchange, Index channels) {
  const Index expected = exchange.layers()[0].channels;
  if (channels == expected) return;
  throw Error("x", "has " + std::to_string(channels) + " channels; expected " + std::to_string(expected) +
                       ", as in the exchange");
}

std::string purpose_of(double epsilon, EpsilonPlacement placement) {
  return "epsilon " + to_text(epsilon) +
         (placement == EpsilonPlacement::variance ? " beside the variance" : " beside the deviation");
}

// The shares, as check_backward() has checked the other outputs.
void check_shares(const SynchronizedGradients& gradients, const IndexList& axes, const TensorView& dy,
                  const TensorView& x, const Affine& affine) {
  const std::array shares = {std::pair{"dgamma_share", gradients.dgamma_share},
                             std::pair{"dbeta_share", gradients.dbeta_share}};
  const std::array others = {std::pair{"dx", gradients.dx}, std::pair{"dgamma", gradients.dgamma},
                             std::pair{"dbeta", gradients.dbeta}, std::pair{"d_residual", gradients.d_residual}};
  const std::array inputs = {std::pair{"gamma", affine.gamma}, std::pair{"beta", affine.beta},
                             std::pair{"residual", affine.residual}, std::pair{"output", affine.output}};
  for (const auto& [name, share] : shares) {
    if (!share) continue;
    static_cast<void>(Argument::output_parameter(name, *share, axes, x));
    check_address(name, *share);
    check_overlap(name, *share, "x", x, false);
    check_overlap(name, *share, "dy", dy, false);
    for (const auto& [input_name, input] : inputs) {
      if (input) check_overlap(name, *share, input_name, *input, false);
    }
    if (affine.mask) check_overlap(name, *share, "mask", affine.mask->selected, false);
    for (const auto& [other_name, other] : others) {
      if (other) check_overlap(name, *share, other_name, *other, false);
    }
  }
  if (gradients.dgamma_share && gradients.dbeta_share) {
    check_overlap("dbeta_share", *gradients.dbeta_share, "dgamma_share", *gradients.dgamma_share, false);
  }
}

// Statistics of another batch are told by their bits, before anything is computed with them.
std::string purpose_of(const Statistics& statistics) {
  Digest digest;
  for (const std::vector<double>* values :
       {&statistics.mean, &statistics.mean_residual, &statistics.variance, &statistics.inverse_deviation}) {
    for (const double value : *values) digest.add(value);
  }
  return purpose_of(statistics.epsilon, statistics.epsilon_placement) + ", statistics " + digest.text() + " of " +
         std::to_string(statistics.count) + " elements per channel";
}

// What a rank gives.
struct Contribution {
  PartialSums sums;
  std::string purpose;
};

// Exchanges what contribute() returns; where it throws on one rank, all ranks throw.
template <typename Contribute>
PartialSums exchange_sums(SumExchange& exchange, const Contribute& contribute) {
  std::optional<Contribution> own;
  try {
    own.emplace(contribute());
  } catch (const std::exception& exception) {
    exchange.start_failed(exception);
  }
  if (own) exchange.start({&own->sums, 1}, own->purpose);
  return std::move(exchange.finish().front());
}

// What one rank's sums add to dgamma and dbeta: those of frozen statistics, as whose functions they are linear in dy.
struct Shares {
  std::vector<double> dgamma;
  std::vector<double> dbeta;
};

Shares shares_of(const PartialSums& own, const Statistics& statistics) {
  const auto channels = static_cast<std::size_t>(own.channels());
  Shares shares = {std::vector<double>(channels), std::vector<double>(channels)};
  if (own.count() == 0) return shares;
  for (std::size_t at = 0; at < channels; ++at) {
    const auto channel = static_cast<Index>(at);
    const ChannelGradients gradients =
        finalize_gradients(own, channel, own.count(), channel_of(view(statistics), channel));
    shares.dgamma[at] = gradients.dgamma;
    shares.dbeta[at] = gradients.dbeta;
  }
  return shares;
}

}  // namespace

void check_layers(const SumExchange& exchange) {
  if (exchange.layers().size() == 1) return;
  throw Error("exchange", "is of " + std::to_string(exchange.layers().size()) + " layers; expected 1");
}

PartialSums exchange_moments(SumExchange& exchange, const TensorView& x, const MutableTensorView& y,
                             const Affine& affine, const Options& options, PartialSums* own,
                             const std::string& purpose) {
  check_layers(exchange);
  return exchange_sums(exchange, [&] {
    const DefaultFloatingPoint default_floating_point;
    const IndexList axes = check_forward(x, y, affine, options);
    check_channels(exchange, channel_count(axes, x));
    check_range(exchange, "x", x);
    PartialSums sums(exchange.layers()[0].channels, PartialSums::Kind::moments, exchange.layers()[0].range);
    affine.mask ? accumulate(sums, x, *affine.mask, options) : accumulate(sums, x, options);
    if (own != nullptr) *own = sums;
    return Contribution{std::move(sums), purpose_of(options.epsilon, options.epsilon_placement) + purpose};
  });
}

Statistics synchronized_training(SumExchange& exchange, const TensorView& x, const MutableTensorView& y,
                                 const Affine& affine, const Options& options) {
  Statistics statistics = normalizing_statistics(exchange_moments(exchange, x, y, affine, options), options);
  inference(x, statistics, y, affine, options);
  return statistics;
}

void synchronized_backward(SumExchange& exchange, const TensorView& dy, const TensorView& x,
                           const Statistics& statistics, const Affine& affine, const SynchronizedGradients& gradients,
                           const Options& options) {
  check_layers(exchange);
  // Whether a mask leaves out x alone is the same on all ranks.
  const bool has_more = affine.mask && affine.mask->masked == MaskedOutput::normalized;
  const Gradients of_batch = {gradients.dx, gradients.dgamma, gradients.dbeta, gradients.d_residual};
  IndexList axes;
  Shares shares;
  const PartialSums total = exchange_sums(exchange, [&] {
    const DefaultFloatingPoint default_floating_point;
    const BackwardArguments arguments(dy, x, affine, of_batch, options);
    arguments.check(pointers_of(dy, x, affine, of_batch));
    check_batch_statistics(statistics, arguments);
    axes = arguments.channel_axes();
    check_shares(gradients, axes, dy, x, affine);
    check_channels(exchange, arguments.channels());
    check_range(exchange, "x", x);
    check_range(exchange, "dy", dy);
    PartialSums own(exchange.layers()[0].channels, PartialSums::Kind::gradients, exchange.layers()[0].range);
    accumulate_gradients(own, dy, x, statistics, affine, options);
    if (gradients.dgamma_share || gradients.dbeta_share) shares = shares_of(own, statistics);
    return Contribution{std::move(own), purpose_of(statistics) + (has_more ? ", masked elements normalized" : "")};
  });
  const DefaultFloatingPoint default_floating_point;
  // The same on all ranks, which have the same statistics.
  if (!are_of_batch(total.count(), statistics.count, affine)) {
    throw Error("statistics", "are of " + std::to_string(statistics.count) + " elements per channel; expected " +
                                  std::to_string(total.count()) + ", as in x on all ranks together");
  }
  backward_from_sums(dy, x, statistics, total, affine, of_batch, options);
  const auto write = [&](const char* name, const std::optional<MutableTensorView>& share,
                         const std::vector<double>& values) {
    if (share) write_values(Argument::output_parameter(name, *share, axes, x).at(share->data), values.data());
  };
  write("dgamma_share", gradients.dgamma_share, shares.dgamma);
  write("dbeta_share", gradients.dbeta_share, shares.dbeta);
}

}  // namespace exactnorm

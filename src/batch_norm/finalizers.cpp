#include "batch_norm/finalizers.h"

#include <algorithm>

#include "batch_norm/channel_columns.h"
#include "batch_norm/operation.h"
#include "batch_norm/renormalization.h"
#include "batch_norm/stretches.h"
#include "sums/exact_finalize.h"
#include "sums/quick_finalize.h"

namespace exactnorm {

namespace {

// Calls take(position, channel) for each wanted channel whose flag says that it is decided, and leaves the others in
// `wanted`. Returns the channels that were taken.
template <typename Take>
std::span<const Index> take_decided(const ChannelColumns& columns, std::span<const Index> channels,
                                    std::vector<Index>& wanted, const Take& take) {
  thread_local std::vector<Index> taken;
  taken.clear();
  std::size_t left = 0;
  for (const Index position : wanted) {
    const auto at = static_cast<std::size_t>(position);
    if (columns.flags[at] == 0) {
      wanted[left++] = position;
      continue;
    }
    take(at, channels[at]);
    taken.push_back(channels[at]);
  }
  wanted.resize(left);
  return taken;
}

// The same where results are in their place already.
void keep_undecided(const ChannelColumns& columns, std::span<const Index> channels, std::vector<Index>& wanted) {
  if (std::find(columns.flags.begin(), columns.flags.end(), 0) == columns.flags.end()) {
    wanted.clear();
  } else {
    static_cast<void>(take_decided(columns, channels, wanted, [](std::size_t, Index) {}));
  }
}

}  // namespace

// All channels are wanted, and results go where they stay. Those of channels that are not decided are overwritten
// later.
void StatisticsFinalizer::finalize_consecutive(QuickSums& sums, const double* centres, std::span<const Index> channels,
                                               std::vector<Index>& wanted) {
  ChannelColumns& columns = ChannelColumns::of(channels.size());
  const Index first = channels.front();
  const Index size = sums.channels();
  double* const mean = statistics_.mean + first;
  finalize_quick_statistics(
      sums.columns(), centres, size, count_, options_,
      {mean, statistics_.variance + first, statistics_.inverse_deviation + first, columns.flags.data()});
  // 0, or NaN.
  std::transform(mean, mean + size, statistics_.mean_residual + first, [](double value) { return value - value; });
  keep_undecided(columns, channels, wanted);
  // Channels that are not decided get theirs again.
  set_stretch(first, size);
}

void StatisticsFinalizer::finalize(QuickSums& sums, std::span<const double> centres, std::span<const Index> channels,
                                   std::vector<Index>& wanted) {
  const double* const about = centres.empty() ? nullptr : centres.data();
  if (wanted.size() == channels.size() && is_one_stretch(channels)) {
    finalize_consecutive(sums, about, channels, wanted);
    return;
  }
  ChannelColumns& columns = ChannelColumns::of(channels.size());
  finalize_quick_statistics(sums.columns(), about, sums.channels(), count_, options_,
                            {columns[0], columns[1], columns[2], columns.flags.data()});
  const std::span<const Index> taken = take_decided(columns, channels, wanted, [&](std::size_t at, Index channel) {
    const double mean = columns[0][at];
    set_channel(statistics_, channel, {mean, mean - mean, columns[1][at], columns[2][at]});  // a residual of 0, or NaN
  });
  set_coefficients(taken);
}

void StatisticsFinalizer::finalize(const PartialSums& sums, std::span<const Index> channels) {
  for (std::size_t at = 0; at < channels.size(); ++at) {
    set_channel(statistics_, channels[at],
                finalize_normalizing_statistics(sums, static_cast<Index>(at), count_, options_));
  }
  set_coefficients(channels);
}

void StatisticsFinalizer::set_coefficients(std::span<const Index> channels) {
  for_each_stretch(channels, [&](Index first, Index count) { set_stretch(first, count); });
}

void StatisticsFinalizer::renormalize_by(const Reference& reference, Index channels) {
  const std::vector<double> none(static_cast<std::size_t>(channels));
  renormalizer_ = Renormalizer{reference, none, none};
}

void StatisticsFinalizer::set_stretch(Index first, Index count) {
  if (!renormalizer_) {
    set_forward(table_, first, count, statistics_, parameters_);
    return;
  }
  auto& [reference, gamma, beta] = *renormalizer_;
  for (Index channel = first; channel < first + count; ++channel) {
    const auto [r, d] = renormalize(statistics_.mean[channel], statistics_.inverse_deviation[channel],
                                    reference.statistics.mean[channel], reference.statistics.inverse_deviation[channel],
                                    reference.limits);
    const auto at = static_cast<std::size_t>(channel);
    gamma[at] = parameters_.gamma[channel] * r;
    beta[at] = parameters_.beta[channel] + parameters_.gamma[channel] * d;
  }
  set_forward(table_, first, count, statistics_, {gamma.data(), beta.data()});
}

void GradientsFinalizer::set_centres(std::span<const Index> channels, std::span<double> centres) const {
  for (std::size_t at = 0; at < channels.size(); ++at) {
    centres[at] = statistics_.mean[channels[at]];
  }
}

void GradientsFinalizer::finalize(QuickSums& sums, std::span<const double> centres, std::span<const Index> channels,
                                  std::vector<Index>& wanted) {
  ChannelColumns& columns = ChannelColumns::of(channels.size());
  const Index size = sums.channels();
  if (is_one_stretch(channels)) {
    const Index first = channels.front();
    finalize_quick_gradients(sums.columns(), from_channel(statistics_, first), size, counts_.summed,
                             {gradients_.dgamma + first, gradients_.dbeta + first, columns.flags.data()});
    keep_undecided(columns, channels, wanted);
    set_coefficients(channels);  // those of channels that are not decided are set again
    return;
  }
  for (std::size_t at = 0; at < channels.size(); ++at) {
    const ChannelStatistics statistics = channel_of(statistics_, channels[at]);
    columns[2][at] = statistics.mean_residual;
    columns[3][at] = statistics.variance;
    columns[4][at] = statistics.inverse_deviation;
  }
  finalize_quick_gradients(sums.columns(), {centres.data(), columns[2], columns[3], columns[4]}, size, counts_.summed,
                           {columns[0], columns[1], columns.flags.data()});
  const std::span<const Index> taken = take_decided(columns, channels, wanted, [&](std::size_t at, Index channel) {
    gradients_.dgamma[channel] = columns[0][at];
    gradients_.dbeta[channel] = columns[1][at];
  });
  set_coefficients(taken);
}

void GradientsFinalizer::finalize(const PartialSums& sums, std::span<const Index> channels) {
  for (std::size_t at = 0; at < channels.size(); ++at) {
    const Index channel = channels[at];
    const ChannelGradients gradients =
        finalize_gradients(sums, static_cast<Index>(at), counts_.summed, channel_of(statistics_, channel));
    gradients_.dgamma[channel] = gradients.dgamma;
    gradients_.dbeta[channel] = gradients.dbeta;
  }
  set_coefficients(channels);
}

void GradientsFinalizer::set_coefficients(std::span<const Index> channels) {
  for_each_stretch(channels, [&](Index first, Index count) {
    if (!frozen_) {
      set_backward_columns({from_channel(statistics_, first), gamma_ + first, gradients_.dgamma + first,
                            gradients_.dbeta + first, counts_.of_statistics},
                           count, options_, table_.backward(first));
      table_.finish_backward(first, count);
      return;
    }
    const ForwardColumns columns = table_.forward(first);
    for (Index i = 0; i < count; ++i) {
      columns.scale[i] = gamma_[first + i] * statistics_.inverse_deviation[first + i];
      columns.mean[i] = columns.shift[i] = columns.variance[i] = 0;
    }
    table_.finish_forward(first, count);
  });
}

}  // namespace exactnorm

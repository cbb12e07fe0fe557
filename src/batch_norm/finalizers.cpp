#include "batch_norm/finalizers.h"

#include "batch_norm/channel_columns.h"
#include "batch_norm/operation.h"
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
    take(at, static_cast<std::size_t>(channels[at]));
    taken.push_back(channels[at]);
  }
  wanted.resize(left);
  return taken;
}

}  // namespace

void StatisticsFinalizer::finalize(QuickSums& sums, std::span<const double> centres, std::span<const Index> channels,
                                   std::vector<Index>& wanted) {
  ChannelColumns& columns = ChannelColumns::of(channels.size());
  const double* const about = centres.empty() ? nullptr : centres.data();
  finalize_quick_statistics(sums.columns(), about, sums.channels(), statistics_.count, options_,
                            {columns[0], columns[1], columns[2], columns.flags.data()});
  const std::span<const Index> taken =
      take_decided(columns, channels, wanted, [&](std::size_t at, std::size_t channel) {
        statistics_.mean[channel] = columns[0][at];
        statistics_.mean_residual[channel] = columns[0][at] - columns[0][at];  // 0, or NaN
        statistics_.variance[channel] = columns[1][at];
        statistics_.inverse_deviation[channel] = columns[2][at];
      });
  set_forward(table_, taken, statistics_, parameters_.gamma, parameters_.beta);
}

void StatisticsFinalizer::finalize(const PartialSums& sums, std::span<const Index> channels) {
  for (std::size_t at = 0; at < channels.size(); ++at) {
    set_channel(statistics_, channels[at],
                finalize_normalizing_statistics(sums, static_cast<Index>(at), statistics_.count, options_));
  }
  set_forward(table_, channels, statistics_, parameters_.gamma, parameters_.beta);
}

void GradientsFinalizer::set_centres(std::span<const Index> channels, std::span<double> centres) const {
  for (std::size_t at = 0; at < channels.size(); ++at) {
    centres[at] = statistics_.mean[static_cast<std::size_t>(channels[at])];
  }
}

void GradientsFinalizer::finalize(QuickSums& sums, std::span<const double> centres, std::span<const Index> channels,
                                  std::vector<Index>& wanted) {
  ChannelColumns& columns = ChannelColumns::of(channels.size());
  for (std::size_t at = 0; at < channels.size(); ++at) {
    const ChannelStatistics statistics = channel_of(statistics_, channels[at]);
    columns[2][at] = statistics.mean_residual;
    columns[3][at] = statistics.variance;
    columns[4][at] = statistics.inverse_deviation;
  }
  finalize_quick_gradients(sums.columns(), {centres.data(), columns[2], columns[3], columns[4]}, sums.channels(),
                           count_, {columns[0], columns[1], columns.flags.data()});
  const std::span<const Index> taken =
      take_decided(columns, channels, wanted, [&](std::size_t at, std::size_t channel) {
        gradients_.dgamma[channel] = columns[0][at];
        gradients_.dbeta[channel] = columns[1][at];
      });
  set_coefficients(taken);
}

void GradientsFinalizer::finalize(const PartialSums& sums, std::span<const Index> channels) {
  for (std::size_t at = 0; at < channels.size(); ++at) {
    const auto channel = static_cast<std::size_t>(channels[at]);
    const ChannelGradients gradients =
        finalize_gradients(sums, static_cast<Index>(at), count_, channel_of(statistics_, channels[at]));
    gradients_.dgamma[channel] = gradients.dgamma;
    gradients_.dbeta[channel] = gradients.dbeta;
  }
  set_coefficients(channels);
}

void GradientsFinalizer::set_coefficients(std::span<const Index> channels) {
  for (const Index channel : channels) {
    const auto at = static_cast<std::size_t>(channel);
    if (frozen_) {
      table_.set(channel, ForwardCoefficients{0, gamma_[at] * statistics_.inverse_deviation[at], 0, 0});
    } else {
      table_.set(channel, backward_coefficients({gradients_.dgamma[at], gradients_.dbeta[at]},
                                                channel_of(statistics_, channel), gamma_[at], count_, options_));
    }
  }
  frozen_ ? table_.finish_forward(channels) : table_.finish_backward(channels);
}

}  // namespace exactnorm

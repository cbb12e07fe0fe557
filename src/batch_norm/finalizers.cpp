#include "batch_norm/finalizers.h"

#include "batch_norm/channel_columns.h"
#include "batch_norm/operation.h"
#include "batch_norm/solve_channels.h"
#include "solve/solve.h"
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

void StatisticsFinalizer::finalize(ExactSums& sums, const std::vector<Index>& channels) {
  solve_channels(sums.sums, channels, statistics_.count, options_, statistics_);
  if (range_ == PartialSums::Range::single) put_on_grid(statistics_, channels, options_);
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

// `squares` are empty where gradients are not rounded to the grid.
void GradientsFinalizer::set(const std::vector<GradientSums>& sums, const std::vector<double>& squares,
                             const std::vector<Index>& channels) {
  for (std::size_t at = 0; at < channels.size(); ++at) {
    const auto channel = static_cast<std::size_t>(channels[at]);
    const ChannelStatistics statistics = channel_of(statistics_, channels[at]);
    ChannelGradients gradients = gradients_of(sums[at], statistics);
    if (!squares.empty()) gradients = on_grid(gradients, statistics, count_, squares[at]);
    gradients_.dgamma[channel] = gradients.dgamma;
    gradients_.dbeta[channel] = gradients.dbeta;
  }
  set_coefficients(channels);
}

void GradientsFinalizer::finalize(ExactSums& sums, const std::vector<Index>& channels) {
  std::vector<double> squares;
  for (Index slot = 0; sums.has_squares() && slot < sums.sums.channels(); ++slot) {
    squares.push_back(sum_of_squares(sums.of_dy.long_sums_of(slot), slot));
  }
  set(gradient_sums_of(sums.sums, channels, statistics_), squares, channels);
}

void GradientsFinalizer::finalize(const PartialSums& sums) {
  std::vector<double> squares;
  for (Index channel = 0; sums.range() == PartialSums::Range::single && channel < sums.channels(); ++channel) {
    squares.push_back(sum_of_squares(sums, channel));
  }
  set(gradient_sums_of(sums, statistics_), squares, all_channels(sums.channels()));
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

#include "batch_norm/solve_channels.h"

#include <algorithm>
#include <cstdint>

#include "batch_norm/channel_columns.h"
#include "combine/accumulator.h"
#include "combine/short_sums.h"
#include "solve/solve_short.h"

namespace exactnorm {

namespace {

bool any_short(const ChannelSums& sums) {
  for (Index slot = 0; slot < sums.channels(); ++slot) {
    if (sums.is_short(slot)) return true;
  }
  return false;
}

}  // namespace

void solve_channels(ChannelSums& sums, const std::vector<Index>& channels, Index count, const Options& options,
                    Statistics& statistics) {
  ChannelColumns& columns = ChannelColumns::of(channels.size());
  std::vector<std::uint8_t>& solved = columns.flags;
  const bool consecutive = std::adjacent_find(channels.begin(), channels.end(),
                                              [](Index a, Index b) { return b != a + 1; }) == channels.end();
  // Into their places at once where these lie side by side.
  const auto place = [&](std::vector<double>& values, std::size_t column) {
    return consecutive && !channels.empty() ? values.data() + channels.front() : columns[column];
  };
  const ShortStatistics to = {place(statistics.mean, 0), place(statistics.mean_residual, 1),
                              place(statistics.variance, 2), place(statistics.inverse_deviation, 3), solved.data()};
  if (any_short(sums)) (void)solve_short_statistics(sums.short_sums().view(), count, options, to);
  for (std::size_t at = 0; at < channels.size(); ++at) {
    const auto slot = static_cast<Index>(at);
    if (solved[at] == 0 || !sums.is_short(slot)) {
      set_channel(statistics, channels[at], solve_statistics(sums.long_sums_of(slot), slot, count, options));
    } else if (!consecutive) {
      set_channel(statistics, channels[at],
                  {to.mean[at], to.mean_residual[at], to.variance[at], to.inverse_deviation[at]});
    }
  }
}

std::vector<GradientSums> gradient_sums_of(ChannelSums& sums, const std::vector<Index>& channels,
                                           const Statistics& statistics) {
  ChannelColumns& columns = ChannelColumns::of(channels.size());
  std::vector<std::uint8_t>& solved = columns.flags;
  if (any_short(sums)) {
    for (std::size_t at = 0; at < channels.size(); ++at) {
      const auto channel = static_cast<std::size_t>(channels[at]);
      columns[0][at] = statistics.mean[channel];
      columns[1][at] = statistics.mean_residual[channel];
    }
    (void)solve_short_gradients(sums.short_sums().view(), columns[0], columns[1],
                                {columns[2], columns[3], solved.data()});
  }
  std::vector<GradientSums> result(channels.size());
  for (std::size_t at = 0; at < channels.size(); ++at) {
    const auto slot = static_cast<Index>(at);
    result[at] = solved[at] != 0 && sums.is_short(slot)
                     ? gradient_sums(columns[2][at], columns[3][at])
                     : gradient_sums(sums.long_sums_of(slot), slot, channel_of(statistics, channels[at]));
  }
  return result;
}

namespace {

// Long sums as short ones, where they fit: which of them do.
std::vector<std::uint8_t> shorten(const PartialSums& sums, ShortSums& to) {
  to.resize(sums.channels());
  std::vector<std::uint8_t> fits(static_cast<std::size_t>(sums.channels()));
  for (Index channel = 0; channel < sums.channels(); ++channel) {
    const bool is_finite =
        PartialSumsAccess::nonfinite(sums, channel, 0) == 0 && PartialSumsAccess::nonfinite(sums, channel, 1) == 0;
    fits[static_cast<std::size_t>(channel)] = is_finite && to_short(sums, channel, to, channel) ? 1 : 0;
  }
  return fits;
}

}  // namespace

void solve_channels(const PartialSums& sums, const Options& options, Statistics& statistics) {
  ShortSums short_sums;
  const std::vector<std::uint8_t> fits = shorten(sums, short_sums);
  std::vector<std::uint8_t>& solved = ChannelColumns::of(fits.size()).flags;
  if (sums.count() > 0) {
    (void)solve_short_statistics(short_sums.view(), sums.count(), options,
                                 {statistics.mean.data(), statistics.mean_residual.data(), statistics.variance.data(),
                                  statistics.inverse_deviation.data(), solved.data()});
  }
  for (std::size_t at = 0; at < fits.size(); ++at) {
    if (solved[at] != 0 && fits[at] != 0) continue;
    const auto channel = static_cast<Index>(at);
    set_channel(statistics, channel, solve_statistics(sums, channel, sums.count(), options));
  }
}

std::vector<GradientSums> gradient_sums_of(const PartialSums& sums, const Statistics& statistics) {
  ShortSums short_sums;
  const std::vector<std::uint8_t> fits = shorten(sums, short_sums);
  ChannelColumns& columns = ChannelColumns::of(fits.size());
  (void)solve_short_gradients(short_sums.view(), statistics.mean.data(), statistics.mean_residual.data(),
                              {columns[0], columns[1], columns.flags.data()});
  std::vector<GradientSums> result(fits.size());
  for (std::size_t at = 0; at < fits.size(); ++at) {
    const auto channel = static_cast<Index>(at);
    result[at] = columns.flags[at] != 0 && fits[at] != 0
                     ? gradient_sums(columns[0][at], columns[1][at])
                     : gradient_sums(sums, channel, channel_of(statistics, channel));
  }
  return result;
}

void put_on_grid(Statistics& statistics, std::span<const Index> channels, const Options& options) {
  for (const Index channel : channels) {
    set_channel(statistics, channel, on_grid(channel_of(statistics, channel), options));
  }
}

}  // namespace exactnorm

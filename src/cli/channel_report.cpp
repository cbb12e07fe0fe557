#include "cli/channel_report.h"

#include <fmt/core.h>

#include "cli/streams.h"

namespace exactnorm::cli {
namespace {

// The most channels that a warning names.
constexpr Index named_channels = 5;

}  // namespace

std::vector<ChannelDeviations> standard_deviations(const PartialSums& sums) {
  std::vector<ChannelDeviations> deviations;
  for (Index channel = 0; channel < sums.channels(); ++channel) {
    deviations.push_back(finalize_deviations(sums, channel, sums.count()));
  }
  return deviations;
}

IndexList channel_sizes(const IndexList& axes, const IndexList& shape) {
  IndexList sizes;
  for (const Index axis : axes) sizes.push_back(shape[static_cast<std::size_t>(axis)]);
  return sizes;
}

std::string channel_name(Index channel, const IndexList& sizes) {
  if (sizes.size() <= 1) return std::to_string(channel);
  IndexList index = sizes;
  for (std::size_t i = sizes.size(); i-- > 0;) {
    index[i] = channel % sizes[i];
    channel /= sizes[i];
  }
  return to_string(index);
}

void warn_of_non_finite(const PartialSums& sums, const IndexList& sizes, const std::string& consequence) {
  Index affected = 0;
  std::string names;
  for (Index channel = 0; channel < sums.channels(); ++channel) {
    if (sums.nonfinite_count(channel) == 0) continue;
    if (affected < named_channels) names += (affected == 0 ? "" : ", ") + channel_name(channel, sizes);
    ++affected;
  }
  if (affected == 0) return;
  if (affected > named_channels) names += ", ...";
  print_message(fmt::format("exactnorm: warning: {} of {} channels {} NaN or infinity and {}: {}\n", affected,
                            sums.channels(), affected == 1 ? "holds" : "hold", consequence, names));
}

}  // namespace exactnorm::cli

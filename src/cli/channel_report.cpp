#include "channel_report.h"

#include <fmt/core.h>

#include "streams.h"

namespace exactnorm::cli {
namespace {

// The most channels that a warning names.
constexpr Index named_channels = 5;

}  // namespace

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

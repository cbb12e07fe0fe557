#include "exactnorm/running_statistics.h"

#include <cmath>
#include <string>

#include "exactnorm/batch_norm.h"

namespace exactnorm {

namespace {

std::size_t checked_channels(Index channels) {
  if (channels < 0) throw Error("channels", "is " + std::to_string(channels) + "; expected 0 or more");
  return static_cast<std::size_t>(channels);
}

}  // namespace

RunningStatistics::RunningStatistics(Index channels)
    : mean(checked_channels(channels), 0.0), variance(checked_channels(channels), 1.0) {}

std::vector<Index> RunningStatistics::update(const Statistics& batch) {
  if (batch.channels() != channels() || variance.size() != mean.size()) {
    throw Error("batch",
                "has " + std::to_string(batch.channels()) + " channels; expected " + std::to_string(channels()));
  }
  if (momentum && !(*momentum >= 0 && *momentum <= 1)) {
    throw Error("momentum", "is " + std::to_string(*momentum) + "; expected 0 to 1");
  }
  if (batch.count == 1) {
    throw Error("batch", "has 1 value per channel; expected at least 2, as one value has no unbiased variance");
  }
  std::vector<Index> refused;
  if (batch.count == 0) return refused;

  ++batches_tracked;
  const double weight = momentum ? *momentum : 1.0 / static_cast<double>(batches_tracked);
  const auto count = static_cast<double>(batch.count);
  for (std::size_t channel = 0; channel < mean.size(); ++channel) {
    const double new_mean = batch.mean[channel];
    const double new_variance = batch.variance[channel] * (count / (count - 1));
    if (!std::isfinite(new_mean) || !std::isfinite(new_variance)) {
      refused.push_back(static_cast<Index>(channel));
      continue;
    }
    mean[channel] = (1 - weight) * mean[channel] + weight * new_mean;
    variance[channel] = (1 - weight) * variance[channel] + weight * new_variance;
  }
  return refused;
}

Statistics RunningStatistics::statistics(const Options& options) const {
  return given_statistics(view(mean, {channels()}), view(variance, {static_cast<Index>(variance.size())}), options);
}

}  // namespace exactnorm

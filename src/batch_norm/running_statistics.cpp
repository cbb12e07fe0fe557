#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "batch_norm/arguments.h"
#include "exactnorm/batch_norm.h"
#include "exactnorm/layer.h"
#include "tensor/checks.h"
#include "traverse/floating_point.h"

namespace exactnorm {

namespace {

std::size_t checked_channels(Index channels) {
  if (channels < 0) throw Error("channels", "is " + std::to_string(channels) + "; expected 0 or more");
  return static_cast<std::size_t>(channels);
}

}  // namespace

RunningStatistics::RunningStatistics(Index channels)
    : mean(checked_channels(channels), 0.0), variance(mean.size(), 1.0), batches_refused(mean.size(), 0) {}

void check_running(const RunningStatistics& running) {
  const std::size_t channels = running.mean.size();
  if (running.variance.size() != channels) {
    throw Error("variance", "has " + std::to_string(running.variance.size()) + " values; expected " +
                                std::to_string(channels) + ", as many as mean has");
  }
  if (running.momentum && !(*running.momentum >= 0 && *running.momentum <= 1)) {
    throw Error("momentum", "is " + to_text(*running.momentum) + "; expected 0 to 1");
  }
  const Index tracked = running.batches_tracked;
  if (tracked < 0 || tracked == std::numeric_limits<Index>::max()) {
    throw Error("batches_tracked", "is " + std::to_string(tracked) + "; expected 0 to 2^63 - 2");
  }
  for (std::size_t channel = 0; channel < std::min(channels, running.batches_refused.size()); ++channel) {
    const Index refused = running.batches_refused[channel];
    if (refused >= 0 && refused <= tracked) continue;
    throw Error("batches_refused", "is " + std::to_string(refused) + " in channel " + std::to_string(channel) +
                                       "; expected 0 to " + std::to_string(tracked) + ", the batches tracked");
  }
}

std::vector<Index> RunningStatistics::update(const Statistics& batch) {
  const DefaultFloatingPoint default_floating_point;
  check_running(*this);
  for (const std::vector<double>* values : {&batch.mean, &batch.variance}) {
    if (values->size() == mean.size()) continue;
    throw Error("batch", "has " + std::to_string(values->size()) + (values == &batch.mean ? " means" : " variances") +
                             "; expected " + std::to_string(channels()) + ", one per channel");
  }
  if (!batch.counts.empty() && batch.counts.size() != mean.size()) {
    throw Error("batch", "has " + std::to_string(batch.counts.size()) + " counts; expected none, or " +
                             std::to_string(channels()) + ", one per channel");
  }
  const bool unbiased = variance_kind == VarianceKind::unbiased;
  if (batch.count == 1 && unbiased) {
    throw Error("batch", "has 1 value per channel; expected at least 2, as one value has no unbiased variance");
  }
  std::vector<Index> refused;
  if (batch.count == 0) return refused;

  refused.reserve(mean.size());
  batches_refused.resize(mean.size());
  ++batches_tracked;
  const auto factor = [unbiased](Index count) {
    return unbiased ? static_cast<double>(count) / (static_cast<double>(count) - 1) : 1.0;
  };
  const double factor_of_all = factor(batch.count);
  for (std::size_t channel = 0; channel < mean.size(); ++channel) {
    const double new_mean = batch.mean[channel];
    const double new_variance =
        batch.variance[channel] * (batch.counts.empty() ? factor_of_all : factor(batch.counts[channel]));
    if (!std::isfinite(new_mean) || !std::isfinite(new_variance)) {
      refused.push_back(static_cast<Index>(channel));
      ++batches_refused[channel];
      continue;
    }
    const double weight = momentum ? *momentum : 1.0 / static_cast<double>(batches_tracked - batches_refused[channel]);
    mean[channel] = (1 - weight) * mean[channel] + weight * new_mean;
    variance[channel] = (1 - weight) * variance[channel] + weight * new_variance;
  }
  return refused;
}

Statistics RunningStatistics::statistics(const Options& options) const {
  return given_statistics(view(mean, {channels()}), view(variance, {static_cast<Index>(variance.size())}), options);
}

}  // namespace exactnorm

#include "exactnorm/value_ranges.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <optional>
#include <string>

#include "batch_norm/blocks.h"
#include "batch_norm/mask_argument.h"
#include "sums/value_range.h"
#include "tensor/checks.h"
#include "traverse/floating_point.h"
#include "traverse/parallel.h"

namespace exactnorm {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

std::size_t checked_channels(Index channels) {
  if (channels < 0) throw Error("channels", "is " + std::to_string(channels) + "; expected 0 or more");
  return static_cast<std::size_t>(channels);
}

void check_ranges(const char* name, const ValueRanges& ranges) {
  if (ranges.minimum.size() == ranges.maximum.size()) return;
  throw Error(name, "have " + std::to_string(ranges.minimum.size()) + " minima and " +
                        std::to_string(ranges.maximum.size()) + " maxima; expected one of each for each channel");
}

}  // namespace

ValueRanges::ValueRanges(Index channels)
    : minimum(checked_channels(channels), infinity), maximum(minimum.size(), -infinity) {}

void ValueRanges::merge(const ValueRanges& other) {
  const DefaultFloatingPoint default_floating_point;
  check_ranges("ranges", *this);
  check_ranges("other", other);
  if (other.channels() != channels()) {
    throw Error("other",
                "has " + std::to_string(other.channels()) + " channels; expected " + std::to_string(channels()));
  }
  for (std::size_t channel = 0; channel < minimum.size(); ++channel) {
    minimum[channel] = std::min(minimum[channel], other.minimum[channel]);
    maximum[channel] = std::max(maximum[channel], other.maximum[channel]);
  }
}

void accumulate(ValueRanges& ranges, const TensorView& x, const Options& options) {
  check_options(options);
  check_view("x", x);
  const IndexList axes = resolve_channel_axes(options.channel_axes, x);
  const Index channels = channel_count(axes, x);
  if (channels != ranges.channels()) {
    throw Error("x", "has " + std::to_string(channels) + " channels; expected " + std::to_string(ranges.channels()) +
                         ", as in ranges");
  }
  IndexList begin = x.shape;
  std::fill(begin.begin(), begin.end(), 0);
  accumulate(ranges, x, Place{x.shape, begin}, options);
}

namespace {

void widen(ValueRanges& ranges, const TensorView& x, const Place& place, const Mask* mask, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  check_view("x", x);
  check_ranges("ranges", ranges);
  const IndexList axes = check_place_channels(place, x, options.channel_axes, ranges.channels(), "ranges");
  std::optional<SelectedView> selected;
  if (mask != nullptr) selected = selected_view(*mask, axes, x);
  widen_value_ranges(x, selected ? &*selected : nullptr, axes, number_channels_in(place, axes),
                     resolve_threads(options.threads), ranges.minimum, ranges.maximum);
}

}  // namespace

void accumulate(ValueRanges& ranges, const TensorView& x, const Place& place, const Options& options) {
  widen(ranges, x, place, nullptr, options);
}

void accumulate(ValueRanges& ranges, const TensorView& x, const Place& place, const Mask& mask,
                const Options& options) {
  widen(ranges, x, place, &mask, options);
}

}  // namespace exactnorm

#include "batch_norm/blocks.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "batch_norm/accumulate.h"
#include "batch_norm/arguments.h"
#include "batch_norm/mask_argument.h"
#include "exactnorm/batch_norm.h"
#include "exactnorm/sums.h"
#include "sums/superaccumulator.h"
#include "tensor/checks.h"
#include "traverse/floating_point.h"

namespace exactnorm {

void check_place(const Place& place, const TensorView& x) {
  const auto refuse = [&](const std::string& expected) {
    throw Error("place", "begins at " + to_string(place.begin) + " of shape " + to_string(place.whole_shape) +
                             "; expected " + expected);
  };
  if (place.whole_shape.size() != x.rank() || place.begin.size() != x.rank()) {
    refuse(std::to_string(x.rank()) + " numbers in each, one per dimension of x");
  }
  try {
    static_cast<void>(element_count(place.whole_shape));
  } catch (const Error& error) {
    throw Error("place", "has a whole shape that " + error.problem());
  }
  for (std::size_t axis = 0; axis < x.rank(); ++axis) {
    const Index begin = place.begin[axis];
    if (begin < 0 || begin > place.whole_shape[axis] || x.shape[axis] > place.whole_shape[axis] - begin) {
      refuse("a place that holds x of shape " + to_string(x.shape));
    }
  }
}

ChannelMap number_channels_in(const Place& place, const IndexList& resolved_axes) {
  ChannelMap map = number_channels(resolved_axes, place.whole_shape);
  for (std::size_t axis = 0; axis < place.begin.size(); ++axis) map.offset += place.begin[axis] * map.strides[axis];
  return map;
}

IndexList check_place_channels(const Place& place, const TensorView& x, const IndexList& channel_axes, Index channels,
                               const char* owner) {
  check_place(place, x);
  IndexList axes = resolve_channel_axes(channel_axes, x);
  const Index whole_channels = channel_count(axes, without_data(place.whole_shape));
  if (whole_channels != channels) {
    throw Error("place", "is of a tensor of " + std::to_string(whole_channels) + " channels; expected " +
                             std::to_string(channels) + ", as in " + owner);
  }
  return axes;
}

namespace {

// Returns the elements per channel that were added.
Index accumulate_block(PartialSums& sums, const TensorView& x, const Place& place, const Mask* mask,
                       const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  check_view("x", x);
  check_kind(sums, PartialSums::Kind::moments);
  const IndexList axes = check_place_channels(place, x, options.channel_axes, sums.channels(), "sums");
  std::optional<SelectedView> selected;
  if (mask != nullptr) selected = selected_view(*mask, axes, x);
  accumulate_part(sums, std::array{x}, selected ? &*selected : nullptr, axes, number_channels_in(place, axes),
                  options.threads);
  return selected ? selected->selection.count : 0;
}

// The values of a block's channels among those of all channels.
std::vector<double> values_in(const Place& place, const TensorView& x, const IndexList& axes, TensorView all) {
  for (std::size_t i = 0; i < axes.size(); ++i) {
    const auto axis = static_cast<std::size_t>(axes[i]);
    all = slice(all, i, place.begin[axis], x.shape[axis]);
  }
  return values_of(all);
}

}  // namespace

void accumulate(PartialSums& sums, const TensorView& x, const Place& place, const Options& options) {
  static_cast<void>(accumulate_block(sums, x, place, nullptr, options));
}

Index accumulate(PartialSums& sums, const TensorView& x, const Place& place, const Mask& mask, const Options& options) {
  return accumulate_block(sums, x, place, &mask, options);
}

void inference(const TensorView& x, const Place& place, const Statistics& statistics, const MutableTensorView& y,
               const Affine& affine, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  // Parameters are those of the whole tensor.
  const IndexList axes = check_forward(x, y, {.residual = affine.residual, .mask = affine.mask}, options);
  for (const auto& [name, given] : {std::pair{"gamma", affine.gamma}, std::pair{"beta", affine.beta}}) {
    if (!given) continue;
    check_view(name, *given);
    check_overlap("y", y, name, *given, false);
  }
  check_place(place, x);
  const TensorView whole = without_data(place.whole_shape);
  check_statistics(statistics, channel_count(axes, whole));
  const auto has_all_of = [&](Index axis) {
    const auto at = static_cast<std::size_t>(axis);
    return x.shape[at] == place.whole_shape[at];
  };
  if (std::all_of(axes.begin(), axes.end(), has_all_of)) {  // the block has all channels
    inference(x, statistics, y, affine, options);
    return;
  }

  const IndexList sizes = channel_axes_of(place.whole_shape, options).sizes;
  const auto of_block = [&](const TensorView& all) { return values_in(place, x, axes, all); };
  const auto statistic = [&](const std::vector<double>& values) { return of_block(view(values, sizes)); };
  const Statistics own = {statistics.count,
                          statistic(statistics.mean),
                          statistic(statistics.mean_residual),
                          statistic(statistics.variance),
                          statistic(statistics.inverse_deviation),
                          statistics.epsilon,
                          statistics.epsilon_placement};
  const auto parameter = [&](const char* name, const std::optional<TensorView>& all, double value) {
    if (!all) return std::vector<double>(own.mean.size(), value);
    return of_block(view_parameter(name, *all, axes, whole));
  };
  const std::vector<double> gamma = parameter("gamma", affine.gamma, 1);
  const std::vector<double> beta = parameter("beta", affine.beta, 0);
  inference(x, own, y, {view(gamma, {own.channels()}), view(beta, {own.channels()}), affine.residual, affine.mask},
            options);
}

}  // namespace exactnorm

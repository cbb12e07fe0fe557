#include "exactnorm/statistics.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "batch_norm/accumulate.h"
#include "batch_norm/mask_argument.h"
#include "batch_norm/operation.h"
#include "exactnorm/batch_norm.h"
#include "exactnorm/sums.h"
#include "sums/exact_finalize.h"
#include "sums/exact_sums.h"
#include "sums/superaccumulator.h"
#include "tensor/checks.h"
#include "tensor/element_type.h"
#include "traverse/floating_point.h"
#include "traverse/parallel.h"

namespace exactnorm {

PartialSums::Range range_for(DType dtype) noexcept {
  return dtype_fits_float32(dtype) ? PartialSums::Range::single : PartialSums::Range::extended;
}

namespace {

// The range that all operands fit.
PartialSums::Range common_range(std::span<const TensorView> operands) {
  PartialSums::Range range = PartialSums::Range::single;
  for (const TensorView& operand : operands) range = std::max(range, range_for(operand.dtype));
  return range;
}

}  // namespace

void accumulate_part(PartialSums& sums, std::span<const TensorView> operands, const SelectedView* selected,
                     const IndexList& channel_axes, const ChannelMap& channels, int threads) {
  if (element_count(operands.front().shape) == 0) return;
  if (common_range(operands) == PartialSums::Range::extended) PartialSumsAccess::widen(sums);
  const std::vector<Operand> without_layout(operands.begin(), operands.end());
  std::vector<TensorView> views(operands.begin(), operands.end());
  if (selected != nullptr) views.push_back(selected->bytes);
  const Selection* const selection = selected != nullptr ? &selected->selection : nullptr;
  const SumOperands summed = {.inputs = without_layout, .selection = selection};
  reduce_all(accumulate_schedule(views, channel_axes, channels, threads), summed, sums);
}

namespace {

// Blocks may have been added that no count tells of.
bool holds_nothing(const PartialSums& sums) {
  if (sums.count() > 0) return false;
  const SumFormat format = format_of(sums.kind(), sums.range());
  for (Index channel = 0; channel < sums.channels(); ++channel) {
    const std::uint64_t* words = PartialSumsAccess::words(sums, channel, 0);
    if (std::any_of(words, words + format.words_per_channel(), [](std::uint64_t word) { return word != 0; })) {
      return false;
    }
    if (sums.nonfinite_count(channel) > 0) return false;
  }
  return true;
}

void accumulate_all(PartialSums& sums, PartialSums::Kind kind, std::span<const TensorView> operands, const Mask* mask,
                    const Options& options) {
  const TensorView& x = operands.back();
  check_kind(sums, kind);
  const IndexList axes = resolve_channel_axes(options.channel_axes, x);
  const Index channels = channel_count(axes, x);
  if (channels != sums.channels()) {
    throw Error("x", "has " + std::to_string(channels) + " channels; expected " + std::to_string(sums.channels()) +
                         ", as in sums");
  }
  std::optional<SelectedView> of_mask;
  if (mask != nullptr) of_mask = selected_view(*mask, axes, x);
  const SelectedView* const selected = of_mask ? &*of_mask : nullptr;
  const Index elements = element_count(x.shape);
  if (elements == 0) return;
  const Index count = of_mask ? of_mask->selection.count : elements / channels;
  if (count > (Index{1} << 62) - sums.count()) throw Error("x", "has too many elements; expected at most 2^62 in all");
  const ChannelMap numbers = number_channels(axes, x.shape);
  if (holds_nothing(sums)) {
    const PartialSums::Range range = sums.range();
    try {
      accumulate_part(sums, operands, selected, axes, numbers, options.threads);
    } catch (...) {
      PartialSumsAccess::clear(sums, channels, range);  // where memory ends half way, they are of nothing again
      throw;
    }
    PartialSumsAccess::set_count(sums, count);
    return;
  }
  // Into sums of its own: where memory ends half way, those given are as they were.
  PartialSums added(channels, kind, std::max(sums.range(), common_range(operands)));
  accumulate_part(added, operands, selected, axes, numbers, options.threads);
  PartialSumsAccess::set_count(added, count);
  sums.merge(added);
}

}  // namespace

void accumulate(PartialSums& sums, const TensorView& x, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  check_view("x", x);
  const std::array operands = {x};
  accumulate_all(sums, PartialSums::Kind::moments, operands, nullptr, options);
}

void accumulate(PartialSums& sums, const TensorView& x, const Mask& mask, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  check_view("x", x);
  const std::array operands = {x};
  accumulate_all(sums, PartialSums::Kind::moments, operands, &mask, options);
}

void accumulate(PartialSums& sums, const TensorView& dy, const TensorView& x, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  check_view("x", x);
  check_gradient(dy, x);
  check_address("dy", dy);
  const std::array operands = {dy, x};
  accumulate_all(sums, PartialSums::Kind::gradients, operands, nullptr, options);
}

namespace {

// The elements that a channel's statistics are of.
Index count_of(const PartialSums& sums, Index channel, Nonfinite nonfinite) {
  if (nonfinite == Nonfinite::propagate) return sums.count();
  // Before add_count sums of blocks may tell of more.
  return std::max<Index>(sums.count() - sums.nonfinite_count(channel), 0);
}

// The statistics that finalize(sums, channel, count, options, nonfinite) gives for each channel.
template <typename Finalize>
Statistics finalize_all(const PartialSums& sums, const Options& options, Nonfinite nonfinite,
                        const Finalize& finalize) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  check_kind(sums, PartialSums::Kind::moments);
  Statistics statistics = make_statistics(sums.channels(), sums.count(), options);
  for (Index channel = 0; channel < sums.channels(); ++channel) {
    const Index count = count_of(sums, channel, nonfinite);
    set_channel(mutable_view(statistics), channel, finalize(sums, channel, count, options, nonfinite));
    if (nonfinite == Nonfinite::ignore) statistics.counts.push_back(count);
  }
  return statistics;
}

}  // namespace

Statistics statistics_of(const PartialSums& sums, const Options& options, Nonfinite nonfinite) {
  return finalize_all(sums, options, nonfinite, finalize_statistics);
}

Deviations deviations_of(const PartialSums& sums, Nonfinite nonfinite) {
  const DefaultFloatingPoint default_floating_point;
  check_kind(sums, PartialSums::Kind::moments);
  Deviations deviations;
  for (Index channel = 0; channel < sums.channels(); ++channel) {
    const ChannelDeviations of_channel =
        finalize_deviations(sums, channel, count_of(sums, channel, nonfinite), nonfinite);
    deviations.biased.push_back(of_channel.biased);
    deviations.unbiased.push_back(of_channel.unbiased);
  }
  return deviations;
}

Statistics normalizing_statistics(const PartialSums& sums, const Options& options, Nonfinite nonfinite) {
  return finalize_all(sums, options, nonfinite, finalize_normalizing_statistics);
}

namespace {

[[noreturn]] void refuse(const char* name, double value, Index channel, const std::string& expected) {
  throw Error(name, "is " + to_text(value) + " in channel " + std::to_string(channel) + "; expected " + expected);
}

// Published networks have variances a little below zero, which epsilon makes good.
void check_variance(double variance, Index channel, const Options& options) {
  const auto fail = [&](const std::string& expected) { refuse("variance", variance, channel, expected); };
  if (!std::isfinite(variance)) fail("a finite number");
  if (options.epsilon_placement == EpsilonPlacement::deviation && variance < 0) {
    fail("0 or more, as epsilon is added to its square root");
  }
  if (variance <= 0 && options.epsilon == 0) fail("more than 0, as epsilon is 0");
  if (variance < 0 && !(variance + options.epsilon > 0)) {
    fail("more than " + to_text(-options.epsilon) + ", so that variance + epsilon is more than 0");
  }
}

}  // namespace

Statistics given_statistics(const TensorView& mean, const TensorView& variance, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  check_view("mean", mean);
  check_view("variance", variance);
  const Index channels = element_count(mean.shape);
  if (element_count(variance.shape) != channels) {
    throw Error("variance", "has shape " + to_string(variance.shape) + "; expected " + std::to_string(channels) +
                                " elements, as many as mean has");
  }
  // Each is a parameter of a tensor that has its shape, and channels only.
  const auto read = [](const char* name, const TensorView& values) {
    IndexList every_axis;
    for (std::size_t i = 0; i < values.rank(); ++i) every_axis.push_back(static_cast<Index>(i));
    return values_of(view_parameter(name, values, every_axis, values));
  };
  const std::vector<double> means = read("mean", mean);
  const std::vector<double> variances = read("variance", variance);
  Statistics statistics = make_statistics(channels, 0, options);
  for (Index channel = 0; channel < channels; ++channel) {
    const auto at = static_cast<std::size_t>(channel);
    if (!std::isfinite(means[at])) refuse("mean", means[at], channel, "a finite number");
    check_variance(variances[at], channel, options);
    set_channel(mutable_view(statistics), channel,
                {means[at], 0, variances[at], inverse_deviation_of(variances[at], options)});
  }
  return statistics;
}

}  // namespace exactnorm

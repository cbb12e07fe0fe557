#include "exactnorm/segments.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "batch_norm/arguments.h"
#include "batch_norm/mask_argument.h"
#include "sums/quick_kernels.h"
#include "tensor/checks.h"
#include "tensor/elements.h"
#include "traverse/floating_point.h"
#include "traverse/parallel.h"

namespace exactnorm {

struct SegmentRows {
  static std::span<const Index> of(const Segments& segments, Index segment) {
    const auto begin = static_cast<std::size_t>(segments.begins_[static_cast<std::size_t>(segment)]);
    return std::span(segments.rows_).subspan(begin, static_cast<std::size_t>(segments.rows_of(segment)));
  }
};

namespace {

void check_ghost_batches(Index rows, Index size) {
  if (rows < 0) throw Error("rows", "is " + std::to_string(rows) + "; expected 0 or more");
  if (size < 1) throw Error("size", "is " + std::to_string(size) + "; expected 1 or more");
}

std::vector<Index> ids_of_size(Index rows, Index size) {
  std::vector<Index> ids;
  ids.reserve(static_cast<std::size_t>(rows));
  for (Index row = 0; row < rows; ++row) ids.push_back(row / size);
  return ids;
}

Index count_of(const std::vector<Index>& ids) { return ids.empty() ? 0 : ids.back() + 1; }

bool follow_each_other(std::span<const Index> rows) {
  return rows.empty() || rows.back() - rows.front() == static_cast<Index>(rows.size()) - 1;
}

}  // namespace

Segments::Segments(const std::vector<Index>& ids, Index count, Index axis) : axis_(axis) {
  if (count < 0) throw Error("count", "is " + std::to_string(count) + "; expected 0 or more");
  begins_.resize(static_cast<std::size_t>(count) + 1);
  for (std::size_t row = 0; row < ids.size(); ++row) {
    if (ids[row] < 0 || ids[row] >= count) {
      throw Error("segments", "have id " + std::to_string(ids[row]) + " in row " + std::to_string(row) +
                                  "; expected 0 to " + std::to_string(count - 1));
    }
    ++begins_[static_cast<std::size_t>(ids[row]) + 1];
  }
  for (std::size_t segment = 1; segment < begins_.size(); ++segment) begins_[segment] += begins_[segment - 1];
  rows_.resize(ids.size());
  std::vector<Index> next = begins_;
  for (std::size_t row = 0; row < ids.size(); ++row) {
    rows_[static_cast<std::size_t>(next[static_cast<std::size_t>(ids[row])]++)] = static_cast<Index>(row);
  }
}

Segments Segments::even(Index rows, Index size, Index axis) {
  check_ghost_batches(rows, size);
  if (rows == 0) return {{}, 0, axis};
  const Index parts = (rows + size - 1) / size;
  const std::vector<Index> ids = ids_of_size(rows, (rows + parts - 1) / parts);
  return {ids, count_of(ids), axis};
}

Segments Segments::exact(Index rows, Index size, Index axis) {
  check_ghost_batches(rows, size);
  std::vector<Index> ids = ids_of_size(rows, size);
  if (rows > 1 && size > 1 && rows % size == 1) ids.back() = ids[ids.size() - 2];
  return {ids, count_of(ids), axis};
}

namespace {

// The rows of one segment: a stretch of the axis, and where they do not follow each other, which of it.
class SegmentView {
 public:
  SegmentView(const Segments& segments, Index segment, std::size_t axis, std::size_t rank)
      : axis_(axis), rows_(SegmentRows::of(segments, segment)) {
    if (rows_.empty() || follow_each_other(rows_)) return;
    bytes_.resize(static_cast<std::size_t>(size()));
    for (const Index row : rows_) bytes_[static_cast<std::size_t>(row - rows_.front())] = 1;
    TensorView view = {bytes_.data(), DType::boolean, {}, {}};
    for (std::size_t i = 0; i < rank; ++i) {
      view.shape.push_back(i == axis ? size() : 1);
      view.strides.push_back(i == axis ? 1 : 0);
    }
    mask_.emplace(view, MaskedOutput::untouched);
  }
  SegmentView(const SegmentView&) = delete;
  SegmentView& operator=(const SegmentView&) = delete;

  template <typename View>
  [[nodiscard]] View of(const View& x) const {
    return slice(x, axis_, rows_.empty() ? 0 : rows_.front(), size());
  }
  template <typename View>
  [[nodiscard]] std::optional<View> of(const std::optional<View>& x) const {
    return x ? std::optional(of(*x)) : std::nullopt;
  }
  // The mask has x's rank.
  [[nodiscard]] Affine of(const Affine& affine) const {
    Affine result = {affine.gamma, affine.beta, of(affine.residual), mask_, of(affine.output)};
    if (affine.mask) result.mask = Mask(of(affine.mask->selected), affine.mask->masked);
    return result;
  }
  [[nodiscard]] const std::optional<Mask>& mask() const noexcept { return mask_; }

 private:
  [[nodiscard]] Index size() const noexcept { return rows_.empty() ? 0 : rows_.back() - rows_.front() + 1; }

  std::size_t axis_;
  std::span<const Index> rows_;
  std::vector<std::uint8_t> bytes_;
  std::optional<Mask> mask_;
};

// What all operations on segments share.
class SegmentWork {
 public:
  // x is checked, and `channel_axes` are resolved.
  SegmentWork(const Segments& segments, const TensorView& x, const IndexList& channel_axes, const Options& options)
      : segments_(segments), rank_(x.rank()), options_(options) {
    const auto rank = static_cast<Index>(x.rank());
    const Index axis = segments.axis() < 0 ? segments.axis() + rank : segments.axis();
    const auto text = std::to_string(segments.axis());
    if (axis < 0 || axis >= rank) {
      throw Error("segments", "are along axis " + text + "; expected one of x's " + std::to_string(rank));
    }
    if (std::find(channel_axes.begin(), channel_axes.end(), axis) != channel_axes.end()) {
      throw Error("segments", "are along axis " + text + ", a channel axis; expected another one");
    }
    axis_ = static_cast<std::size_t>(axis);
    if (segments.rows() != x.shape[axis_]) {
      throw Error("segments", "are of " + std::to_string(segments.rows()) + " rows; expected " +
                                  std::to_string(x.shape[axis_]) + ", as x has on axis " + text);
    }
    for (Index i = 0; i < segments.count(); ++i) {
      are_stretches_ = are_stretches_ && follow_each_other(SegmentRows::of(segments, i));
    }
  }

  void check_statistics(const std::vector<Statistics>& statistics, Index channels) const {
    if (static_cast<Index>(statistics.size()) != segments_.count()) {
      throw Error("statistics", "are of " + std::to_string(statistics.size()) + " segments; expected " +
                                    std::to_string(segments_.count()));
    }
    for (const Statistics& of_segment : statistics) exactnorm::check_statistics(of_segment, channels);
  }

  // gamma and beta as they are, the mask with x's rank.
  [[nodiscard]] Affine prepared(const Affine& affine, const IndexList& channel_axes, const TensorView& x) const {
    if (!affine.mask) return affine;
    if (!are_stretches_) {
      throw Error("mask", "was given; expected none, as there are segments whose rows do not follow each other");
    }
    TensorView full = spread_reduced("mask", affine.mask->selected, channel_axes, x);
    for (const Index axis : channel_axes) full.shape[static_cast<std::size_t>(axis)] = 1;
    Affine result = affine;
    result.mask = Mask(full, affine.mask->masked);
    return result;
  }

  // For a backward pass: `statistics`, one for each segment, are of as many elements as x has. The mask is prepared.
  void check_counts(const std::vector<Statistics>& statistics, const Affine& prepared, const IndexList& channel_axes,
                    const TensorView& x) const {
    for (Index segment = 0; segment < segments_.count(); ++segment) {
      const Index rows = segments_.rows_of(segment);
      Index expected = rows == 0 || element_count(x.shape) == 0
                           ? 0
                           : element_count(x.shape) / channel_count(channel_axes, x) / segments_.rows() * rows;
      if (prepared.mask && expected > 0) {
        const SegmentView view(segments_, segment, axis_, rank_);
        expected = selected_view(*view.of(prepared).mask, channel_axes, view.of(x)).selection.count;
      }
      const Index count = statistics[static_cast<std::size_t>(segment)].count;
      if (count == expected) continue;
      throw Error("statistics", "are of " + std::to_string(count) + " elements per channel in segment " +
                                    std::to_string(segment) + "; expected " + std::to_string(expected) + ", as in x");
    }
  }

  // Calls visit(segment, view, options) for each segment, for several at a time where there are many: never for two
  // that share rows of memory.
  template <typename Visit>
  void for_each(const Visit& visit) const {
    const int threads = resolve_threads(options_.threads);
    const bool is_shared = are_stretches_ && segments_.count() >= 2 * threads;
    Options of_segment = options_;
    if (is_shared) of_segment.threads = 1;
    parallel_for(segments_.count(), is_shared ? threads : 1, Order::forwards, [&](Index segment, int) {
      visit(segment, SegmentView(segments_, segment, axis_, rank_), of_segment);
    });
  }

 private:
  const Segments& segments_;
  std::size_t rank_;
  std::size_t axis_ = 0;
  Options options_;
  bool are_stretches_ = true;
};

}  // namespace

std::vector<Statistics> segmented_training(const TensorView& x, const Segments& segments, const MutableTensorView& y,
                                           const Affine& affine, const Options& options) {
  const IndexList axes = check_forward(x, y, affine, options);
  const SegmentWork work(segments, x, axes, options);
  const Affine prepared = work.prepared(affine, axes, x);
  std::vector<Statistics> statistics(static_cast<std::size_t>(segments.count()));
  work.for_each([&](Index segment, const SegmentView& view, const Options& of_segment) {
    statistics[static_cast<std::size_t>(segment)] = training(view.of(x), view.of(y), view.of(prepared), of_segment);
  });
  return statistics;
}

void segmented_inference(const TensorView& x, const Segments& segments, const std::vector<Statistics>& statistics,
                         const MutableTensorView& y, const Affine& affine, const Options& options) {
  const IndexList axes = check_forward(x, y, affine, options);
  const SegmentWork work(segments, x, axes, options);
  work.check_statistics(statistics, channel_count(axes, x));
  const Affine prepared = work.prepared(affine, axes, x);
  work.for_each([&](Index segment, const SegmentView& view, const Options& of_segment) {
    inference(view.of(x), statistics[static_cast<std::size_t>(segment)], view.of(y), view.of(prepared), of_segment);
  });
}

namespace {

// The gradients of a parameter, of each segment, and their sum.
class ParameterGradients {
 public:
  ParameterGradients(Index segments, Index channels)
      : channels_(channels), values_(static_cast<std::size_t>(segments * channels)) {}

  [[nodiscard]] MutableTensorView of(Index segment) {
    return mutable_view(values_.data() + segment * channels_, {channels_});
  }
  void write_sum(const OptionalArgument& argument, const std::optional<MutableTensorView>& to) const {
    if (!argument) return;
    const auto channels = static_cast<std::size_t>(channels_);
    std::vector<double> high(channels);
    std::vector<double> low(channels);
    for (std::size_t i = 0; i < values_.size(); ++i) add_to_pair(values_[i], high[i % channels], low[i % channels]);
    for (std::size_t i = 0; i < channels; ++i) high[i] += low[i];
    write_values(argument->at(to->data), high.data());
  }

 private:
  Index channels_;
  std::vector<double> values_;
};

}  // namespace

void segmented_backward(const TensorView& dy, const TensorView& x, const Segments& segments,
                        const std::vector<Statistics>& statistics, const Affine& affine, const Gradients& gradients,
                        const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  const BackwardArguments arguments(dy, x, affine, gradients, options);
  arguments.check(pointers_of(dy, x, affine, gradients));
  const SegmentWork work(segments, x, arguments.channel_axes(), options);
  work.check_statistics(statistics, arguments.channels());
  const Affine prepared = work.prepared(affine, arguments.channel_axes(), x);
  work.check_counts(statistics, prepared, arguments.channel_axes(), x);
  ParameterGradients dgamma(segments.count(), arguments.channels());
  ParameterGradients dbeta(segments.count(), arguments.channels());
  work.for_each([&](Index segment, const SegmentView& view, const Options& of_segment) {
    Gradients of_view = {view.of(gradients.dx), std::nullopt, std::nullopt, view.of(gradients.d_residual)};
    if (gradients.dgamma) of_view.dgamma = dgamma.of(segment);
    if (gradients.dbeta) of_view.dbeta = dbeta.of(segment);
    backward(view.of(dy), view.of(x), statistics[static_cast<std::size_t>(segment)], view.of(prepared), of_view,
             of_segment);
  });
  dgamma.write_sum(arguments.dgamma(), gradients.dgamma);
  dbeta.write_sum(arguments.dbeta(), gradients.dbeta);
}

void accumulate(std::vector<PartialSums>& sums, const TensorView& x, const Segments& segments, const Options& options) {
  check_options(options);
  check_view("x", x);
  const SegmentWork work(segments, x, resolve_channel_axes(options.channel_axes, x), options);
  if (static_cast<Index>(sums.size()) != segments.count()) {
    throw Error("sums",
                "are of " + std::to_string(sums.size()) + " segments; expected " + std::to_string(segments.count()));
  }
  work.for_each([&](Index segment, const SegmentView& view, const Options& of_segment) {
    PartialSums& of_view = sums[static_cast<std::size_t>(segment)];
    view.mask() ? accumulate(of_view, view.of(x), *view.mask(), of_segment)
                : accumulate(of_view, view.of(x), of_segment);
  });
}

}  // namespace exactnorm

#include "traverse/traversal.h"

#include <algorithm>

#include "traverse/cache_size.h"
#include "traverse/tuning.h"
#include "traverse/walk.h"

namespace exactnorm {

Traversal::Traversal(const LoopNest& nest, const Box& box, std::size_t operands) : operands_(operands) {
  first_.offsets = start_of(nest, box).offsets;
  Steps steps;
  for (std::size_t i = 0; i < nest.loops.size(); ++i) {
    const Loop& loop = nest.loops[i];
    if (box[i].size == 1) continue;
    steps.push_back({box[i].size, loop.strides, 0, loop.is_channel});
  }
  for (std::size_t i = steps.size(); i-- > 0;) {
    if (!steps[i].is_channel) continue;
    steps[i].slot_stride = slots_.channels;
    slots_.channels *= steps[i].size;
  }
  Index elements = static_cast<Index>(operands);
  for (const Loop& loop : nest.loops) elements *= loop.size;
  reads_memory_ = elements * static_cast<Index>(sizeof(float)) > last_level_cache_size() / cached_share;
  if (steps.empty()) steps.push_back({.size = 1});
  const Step inner = steps.back();
  if (inner.is_channel) {
    steps.pop_back();
    first_.steps = inner.strides;
    set_lanes(steps, inner.size, 1);
  } else if (has_short_runs(steps)) {
    steps.pop_back();
    const Index channels = steps.back().size;
    steps.pop_back();
    first_.steps = inner.strides;
    set_lanes(steps, channels, inner.size);
  } else {
    set_runs(steps);
  }
}

// Whether a step of `outer` is `inner_size` steps of `inner`, in every operand.
bool Traversal::follows(const Step& outer, const Step& inner, Index inner_size) const noexcept {
  for (std::size_t j = 0; j < operands_; ++j) {
    if (outer.strides[j] != inner.strides[j] * inner_size) return false;
  }
  return true;
}

// Runs of few elements, each next to one of the next channel, in rows that come often.
bool Traversal::has_short_runs(const Steps& steps) const noexcept {
  if (steps.size() < 3) return false;
  const Step& inner = steps.back();
  const Step& channels = steps[steps.size() - 2];
  if (inner.is_channel || inner.size >= shortest_run) return false;
  if (!channels.is_channel || !follows(channels, inner, inner.size)) return false;
  Index rows = 1;
  for (std::size_t i = 0; i + 2 < steps.size(); ++i) rows *= steps[i].is_channel ? 1 : steps[i].size;
  return rows >= fewest_rows_of_short_runs;
}

void Traversal::set_lanes(Steps& steps, Index columns, Index places) {
  is_lanes_ = true;
  slots_.row_channels = columns;
  slots_.places = places;
  first_.count = columns * places;
  Steps reduced;
  for (const Step& step : steps) step.is_channel ? outer_.push_back(step) : reduced.push_back(step);
  if (!reduced.empty()) {
    rows_ = reduced.back();
    reduced.pop_back();
  }
  for (const Step& step : reduced) outer_.push_back(step);
  const bool joined = rows_.size > 1 && first_.count < enough_lanes &&
                      (first_.count < fewest_lanes || follows(rows_, {.strides = first_.steps}, first_.count));
  if (joined) slots_.repeats = std::min((enough_lanes + first_.count - 1) / first_.count, rows_.size);
  for (Step& step : outer_) step.slot_stride *= places * slots_.repeats;
  // From memory, in blocks two of which fit in L2 cache: while one is read, the next one is prefetched.
  const bool prefetches = reads_memory_ && follows(rows_, {.strides = first_.steps}, first_.count);
  const Index wanted =
      prefetches ? std::max(fewest_rows_from_memory, lane_elements / first_.count / static_cast<Index>(operands_))
                 : std::max(fewest_lane_rows, lane_elements / first_.count);
  rows_at_once_ = (wanted + slots_.repeats - 1) / slots_.repeats * slots_.repeats;
  count_at_once_ = first_.count;
  if (prefetches) first_.prefetch = rows_at_once_ * first_.count;
}

void Traversal::set_runs(Steps& steps) {
  const Step inner = steps.back();
  steps.pop_back();
  first_.steps = inner.strides;
  first_.count = inner.size;
  // The fastest of the other reduced loops gives the rows.
  std::size_t at = steps.size();
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (!steps[i].is_channel) at = i;
  }
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (i == at) {
      rows_ = steps[i];
    } else if (steps[i].is_channel) {
      channels_.push_back(steps[i]);
    } else {
      outer_.push_back(steps[i]);
    }
  }
  // Short runs of neighbouring channels are taken in the order of memory.
  if (inner.size <= longest_short_run && !channels_.empty() && channels_.back().slot_stride == 1) {
    first_.channels = channels_.back().size;
    first_.channel_strides = channels_.back().strides;
    channels_.pop_back();
    rows_at_once_ = rows_.size;
    count_at_once_ = inner.size;
    return;
  }
  if (channels_.empty()) {
    rows_at_once_ = rows_.size;
    count_at_once_ = inner.size;
  } else {
    rows_at_once_ = std::max<Index>(run_elements / inner.size, 1);
    count_at_once_ = std::min(inner.size, run_elements);
  }
  // Runs that lie apart are strangers to the hardware's prefetchers.
  const Step& next = channels_.empty() ? rows_ : channels_.back();
  const bool alike = std::all_of(next.strides.begin(), next.strides.begin() + operands_,
                                 [&](Index stride) { return stride == next.strides[0] && stride != 0; });
  first_.prefetch = inner.size <= run_elements && alike ? next.strides[0] : prefetch_distance;
}

void Traversal::walk(const Steps& steps, std::size_t at, Region region,
                     FunctionView<void(const Region&)> visitor) const {
  if (at == steps.size()) {
    visitor(region);
    return;
  }
  const Step& step = steps[at];
  for (Index i = 0; i < step.size; ++i) {
    walk(steps, at + 1, region, visitor);
    for (std::size_t j = 0; j < operands_; ++j) region.offsets[j] += step.strides[j];
    region.slot += step.slot_stride;
  }
}

void Traversal::visit(FunctionView<void(const Region&)> visitor) const {
  walk(outer_, 0, first_, [&](const Region& start) {
    for (Index row = 0; row < rows_.size; row += rows_at_once_) {
      for (Index done = 0; done < first_.count; done += count_at_once_) {
        Region region = start;
        region.rows = std::min(rows_at_once_, rows_.size - row);
        region.count = std::min(count_at_once_, first_.count - done);
        region.row_strides = rows_.strides;
        for (std::size_t j = 0; j < operands_; ++j) {
          region.offsets[j] += row * rows_.strides[j] + done * first_.steps[j];
        }
        walk(channels_, 0, region, visitor);
      }
    }
  });
}

}  // namespace exactnorm

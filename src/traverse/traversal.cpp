#include "traverse/traversal.h"

#include <algorithm>
#include <numeric>

#include "traverse/cache_size.h"
#include "traverse/tuning.h"

namespace exactnorm {

Traversal::Traversal(const LoopNest& nest, const Box& box, std::size_t operands, Stage stage, Index line)
    : operands_(operands), stage_(stage) {
  first_.offsets = offsets_of(nest, box);
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
  if (steps.empty()) steps.push_back(one_step);
  const Step inner = steps.back();
  if (inner.is_channel) {
    steps.pop_back();
    first_.steps = inner.strides;
    set_lanes(steps, inner.size, 1, line);
  } else if (has_short_runs(steps)) {
    steps.pop_back();
    const Index channels = steps.back().size;
    steps.pop_back();
    first_.steps = inner.strides;
    set_lanes(steps, channels, inner.size, line);
  } else if (stage_ == Stage::apply) {
    set_runs_in_memory_order(steps);
  } else {
    set_runs(steps);
  }
  if (outer_.empty()) outer_.push_back(one_step);
  Index step_elements = rows_.size * first_.count * first_.channels;
  for (std::size_t i = 1; i < outer_.size(); ++i) step_elements *= outer_[i].size;
  outer_blocks_ = blocks_of(outer_[0].size, apply_elements / step_elements);
}

Traversal::Blocks Traversal::blocks_of(Index size, Index at_once) const noexcept {
  at_once = std::clamp<Index>(at_once, 1, size);
  if (stage_ == Stage::accumulate) return {size, 0, at_once};
  return {size, (size - 1) / at_once * at_once, -at_once};
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
  return rows >= (stage_ == Stage::apply ? std::max(fewest_rows_of_short_runs, rows_per_place * inner.size)
                                         : fewest_rows_of_short_runs);
}

void Traversal::set_lanes(Steps& steps, Index columns, Index places, Index line) {
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
  const bool is_dense = follows(rows_, {1, first_.steps, 0, true}, first_.count);
  Index wanted = apply_elements / first_.count;
  bool prefetches = false;
  if (stage_ == Stage::apply) {
    if (is_dense) repeat_for_whole_lines(line);
  } else {
    const bool joined = rows_.size > 1 && first_.count < enough_lanes && (first_.count < fewest_lanes || is_dense);
    if (joined) slots_.repeats = std::min((enough_lanes + first_.count - 1) / first_.count, rows_.size);
    // From memory, in blocks two of which fit in L2 cache: while one is read, the next one is prefetched.
    prefetches = reads_memory_ && is_dense;
    wanted = prefetches
                 ? std::max(fewest_rows_from_memory, lane_elements / first_.count / static_cast<Index>(operands_))
                 : std::max(fewest_lane_rows, lane_elements / first_.count);
  }
  for (Step& step : outer_) step.slot_stride = step.slot_stride / columns * slots_.row_slots();
  const Index rows_at_once = std::max<Index>((wanted + slots_.repeats - 1) / slots_.repeats, 1) * slots_.repeats;
  row_blocks_ = blocks_of(rows_.size, rows_at_once);
  count_blocks_ = blocks_of(first_.count, first_.count);
  if (prefetches) first_.prefetch = rows_at_once * first_.count;
}

// Rows without gaps are one long run whose coefficients repeat. It is cut into rows of whole lines, so that vectors
// have no remainder at their ends. The first whole line of an output starts with any slot, hence the spare slots.
void Traversal::repeat_for_whole_lines(Index line) {
  const Index repeats = line / std::gcd(first_.count, line);
  if (repeats == 1 || repeats >= rows_.size || repeats * first_.count > longest_joined_row) return;
  slots_.repeats = repeats;
  slots_.spare = line;
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
    row_blocks_ = blocks_of(rows_.size, rows_.size);
    count_blocks_ = blocks_of(inner.size, inner.size);
    return;
  }
  row_blocks_ = blocks_of(rows_.size, channels_.empty() ? rows_.size : run_elements / inner.size);
  count_blocks_ = blocks_of(inner.size, channels_.empty() ? inner.size : run_elements);
  // The hardware's prefetchers do not follow jumps between runs.
  const Step& next = channels_.empty() ? rows_ : channels_.back();
  const bool alike = std::all_of(next.strides.begin(), next.strides.begin() + operands_,
                                 [&](Index stride) { return stride == next.strides[0] && stride != 0; });
  first_.prefetch = inner.size <= run_elements && alike ? next.strides[0] : prefetch_distance;
}

// A region has the runs of the innermost loop around them.
void Traversal::set_runs_in_memory_order(Steps& steps) {
  first_.steps = steps.back().strides;
  first_.count = steps.back().size;
  count_blocks_ = blocks_of(first_.count, apply_elements);
  steps.pop_back();
  if (!steps.empty()) {
    if (steps.back().is_channel) {
      first_.channels = steps.back().size;
      first_.channel_strides = steps.back().strides;
    } else {
      rows_ = steps.back();
      row_blocks_ = blocks_of(rows_.size, rows_.size);
    }
    steps.pop_back();
  }
  outer_ = steps;
}

void Traversal::move(Region& region, const Step& step, Index count) const noexcept {
  for (std::size_t j = 0; j < operands_; ++j) region.offsets[j] += count * step.strides[j];
  region.slot += count * step.slot_stride;
}

void Traversal::walk(const Steps& steps, std::size_t at, const Region& start,
                     FunctionView<void(const Region&)> visitor) const {
  if (at == steps.size()) {
    visitor(start);
    return;
  }
  Region region = start;
  for (Index i = 0; i < steps[at].size; ++i) {
    walk(steps, at + 1, region, visitor);
    move(region, steps[at], 1);
  }
}

void Traversal::visit_rows(const Region& start, FunctionView<void(const Region&)> visitor) const {
  for (Index row = row_blocks_.first; row_blocks_.has(row); row += row_blocks_.step) {
    for (Index column = count_blocks_.first; count_blocks_.has(column); column += count_blocks_.step) {
      Region region = start;
      region.rows = row_blocks_.size_at(row);
      region.count = count_blocks_.size_at(column);
      region.row_strides = rows_.strides;
      for (std::size_t j = 0; j < operands_; ++j) {
        region.offsets[j] += row * rows_.strides[j] + column * first_.steps[j];
      }
      walk(channels_, 0, region, visitor);
    }
  }
}

void Traversal::visit(FunctionView<void(const Region&)> visitor) const {
  for (Index at = outer_blocks_.first; outer_blocks_.has(at); at += outer_blocks_.step) {
    Region start = first_;
    move(start, outer_[0], at);
    for (Index i = 0; i < outer_blocks_.size_at(at); ++i) {
      walk(outer_, 1, start, [&](const Region& region) { visit_rows(region, visitor); });
      move(start, outer_[0], 1);
    }
  }
}

}  // namespace exactnorm

#include "traverse/short_runs.h"

namespace exactnorm {

namespace {

// To have a sum, or coefficients, for each place costs as much as some rows.
constexpr Index fewest_rows = 8;
constexpr Index shortest_row = 32;

}  // namespace

bool has_short_runs(const LoopNest& nest) noexcept {
  const std::size_t loops = nest.loops.size();
  if (loops < 3) return false;
  const Loop& inner = nest.loops[loops - 1];
  const Loop& channels = nest.loops[loops - 2];
  if (inner.is_channel || !channels.is_channel || inner.size >= shortest_run) return false;
  for (std::size_t j = 0; j < maximum_operands; ++j) {
    if (channels.strides[j] != inner.size * inner.strides[j]) return false;
  }
  Index rows = 1;
  for (std::size_t i = 0; i + 2 < loops; ++i) rows *= nest.loops[i].is_channel ? 1 : nest.loops[i].size;
  return channels.size * inner.size >= shortest_row && rows >= fewest_rows;
}

LoopNest rows_of_places(const LoopNest& nest) noexcept {
  const std::size_t at = nest.loops.size() - 2;
  LoopNest rows;
  rows.offsets = nest.offsets;
  for (std::size_t i = 0; i < at; ++i) rows.loops.push_back(nest.loops[i]);
  Loop across = nest.loops.back();
  across.is_channel = true;
  across.size *= nest.loops[at].size;
  rows.loops.push_back(across);
  return rows;
}

Box rows_of_places(const LoopNest& nest, const Box& box) noexcept {
  const std::size_t at = nest.loops.size() - 2;
  const Index places = nest.loops.back().size;
  Box rows;
  for (std::size_t i = 0; i < at; ++i) rows.push_back(box[i]);
  rows.push_back({box[at].begin * places, box[at].size * places});
  return rows;
}

}  // namespace exactnorm

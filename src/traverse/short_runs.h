#pragma once

#include "traverse/loop_nest.h"
#include "traverse/partition.h"
#include "traverse/tuning.h"

// Runs of few elements of one channel, each next to one of the next channel: planes of 2x2, say. A vector holds
// several, so that they are better taken as rows, in which each place of a run is a channel of its own.

namespace exactnorm {

/// Whether the innermost runs of a walk are such, and come in rows of some length, and often.
[[nodiscard]] bool has_short_runs(const LoopNest& nest) noexcept;

/// The same walk with places for channels: place i of a row belongs to channel i / (size of a run). Boxes are of
/// whole runs.
[[nodiscard]] LoopNest rows_of_places(const LoopNest& nest) noexcept;
[[nodiscard]] Box rows_of_places(const LoopNest& nest, const Box& box) noexcept;

}  // namespace exactnorm

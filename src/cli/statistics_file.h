#pragma once

#include <string>
#include <vector>

#include "exactnorm/options.h"
#include "exactnorm/statistics.h"
#include "exactnorm/tensor.h"
#include "json_text.h"

namespace exactnorm::cli {

/// What each channel is normalized by: what `normalize --statistics` writes, and `--statistics-from` reads.
struct NormalizedBy {
  /// Sizes of the channel axes, in the order of these.
  IndexList channel_shape;
  double epsilon = 1e-5;
  EpsilonPlacement epsilon_placement = EpsilonPlacement::variance;
  Statistics statistics;
};

/// "variance" or "deviation".
[[nodiscard]] std::string name_of(EpsilonPlacement placement);
[[nodiscard]] EpsilonPlacement placement_of(const std::string& name);

/// The members of the JSON that read_statistics() needs, in their order. Numbers are written so that they are read as
/// the same float64.
void add_statistics(Json& json, const NormalizedBy& value);

/// Reads such a file; "-" is standard input. y is then the same, bit for bit, as in the call that wrote it. Throws
/// Error, with the file's name as its argument, when it is no JSON, lacks a member or holds a value that cannot be:
/// null for a channel of which the data held NaN, for example.
[[nodiscard]] NormalizedBy read_statistics(const std::string& path);

}  // namespace exactnorm::cli

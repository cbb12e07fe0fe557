#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "exactnorm/sums.h"
#include "sums/exact_kernels.h"

namespace exactnorm {

/// The channels that the lanes of a tile belong to.
struct LaneTarget {
  const Index* channels = nullptr;  // of each lane; of all lanes where one_channel holds
  int first_lane = 0;               // lanes below it, and from `lanes` on, are dropped
  int lanes = tile_lanes;
  bool one_channel = false;

  [[nodiscard]] Index channel(int lane) const noexcept { return channels[one_channel ? 0 : lane]; }
};

/// Adds tiles of any numbers, finite or not, to superaccumulators.
///
/// One pass of the kernels is exact for magnitudes within a window of a few binades (exact_kernels.h). Nearly always
/// one window holds all of a tile; where it does not, passes over the tile, which is in L1 cache by now, follow for the
/// numbers below, until none is left.
template <typename T>
class TileAdder {
 public:
  /// `sums` outlives this object; its range holds T.
  explicit TileAdder(PartialSums& sums) : sums_(&sums) {}

  /// Adds x and x * x.
  void add(const std::array<Tile<T>, 1>& x, const LaneTarget& target);
  /// Adds dy and dy * x and, where `sums` have it, dy * dy. Both tiles have the same rows.
  void add(const std::array<Tile<T>, 2>& dy_and_x, const LaneTarget& target);

 private:
  /// The windows of a tile, largest magnitudes first.
  class Windows;

  void store_linear(const Window<T>& window, const LaneTarget& target);
  /// Products of numbers within the two windows, to the sum `which`.
  void store_products(const Window<T>& first, const Window<T>& second, int which, const LaneTarget& target);
  void store_term(const Lanes<double>& values, int unit, int factors, const Window<T>& first, const Window<T>& second,
                  int which, const LaneTarget& target);
  void add_to_channel(Index channel, int which, std::int64_t value, int unit);
  /// The same tile with zeros for what is not finite, which is counted.
  Tile<T> without_nonfinite(const Tile<T>& tile, std::size_t operand, const LaneTarget& target);

  PartialSums* sums_;
  TileSums<T> tile_sums_;
  std::array<std::vector<T>, 2> finite_;
};

extern template class TileAdder<float>;
extern template class TileAdder<double>;

}  // namespace exactnorm

#pragma once

#include <cstdint>
#include <vector>

#include "combine/channel_sums.h"
#include "reduce/guarded_adder.h"
#include "reduce/tile_kernels.h"

namespace exactnorm {

/// Adds tiles of any finite or non-finite numbers to exact sums.
///
/// float32 tiles first take the fast way of guarded_sums.h. Else: one pass of the kernels is exact for magnitudes
/// within a window of a few binades (tile_kernels.h). Nearly always one window holds all of a tile; where it does not,
/// the tile (in L1 cache by now) is passed over again for the numbers below, until none is left.
template <typename T>
class TileAdder {
 public:
  /// `sums` outlives this object, and has been told to make room for what comes.
  explicit TileAdder(ChannelSums& sums) : sums_(&sums), guarded_(sums) {}

  /// All lanes are elements of one channel.
  void add_to_channel(const Tile<T>& x, Index channel);
  void add_to_channel(const Tile<T>& dy, const Tile<T>& x, Index channel);
  /// Lane i is an element of channel first_channel + i % period; lanes below first_lane and from `lanes` on are
  /// dropped.
  void add_to_channels(const Tile<T>& x, Index first_channel, int first_lane, int lanes, int period);
  void add_to_channels(const Tile<T>& dy, const Tile<T>& x, Index first_channel, int first_lane, int lanes, int period);

  /// Runs of one channel, as sum_runs takes them; false, with nothing added, where they need to come as tiles.
  [[nodiscard]] bool add_runs(const Runs& x, Index runs, Index count, Index ahead, Index channel);
  [[nodiscard]] bool add_runs(const Runs& dy, const Runs& x, Index runs, Index count, Index ahead, Index channel);

 private:
  void add(const Tile<T>& x, const LaneTarget& target);
  void add(const Tile<T>& first, const Tile<T>& second, const LaneTarget& target);
  void store(const Window<T>& first, const Window<T>& second, bool with_linear, const LaneTarget& target);

  /// Tries the fast way; `second` is `first` for moments.
  [[nodiscard]] bool add_guarded(const Tile<T>& first, const Tile<T>& second, const LaneTarget& target);

  /// The windows of a tile, largest magnitudes first.
  class Windows;
  Tile<T> without_nonfinite(const Tile<T>& tile, std::vector<T>& scratch, int operand, const LaneTarget& target);

  ChannelSums* sums_;
  TileSums<T> tile_sums_;
  std::vector<T> first_scratch_;
  std::vector<T> second_scratch_;
  GuardedAdder guarded_;
};

extern template class TileAdder<float>;
extern template class TileAdder<double>;

}  // namespace exactnorm

#pragma once

#include <cstdint>

#include "combine/channel_sums.h"
#include "reduce/guarded_sums.h"

namespace exactnorm {

/// Which lanes of a tile count, and for which channels.
struct LaneTarget {
  Index first_channel;
  int first_lane;
  int lanes;
  int period;  // 0: all lanes belong to first_channel

  [[nodiscard]] bool one_channel() const noexcept { return period == 0; }
  [[nodiscard]] Index channel(int lane) const noexcept { return first_channel + (one_channel() ? 0 : lane % period); }
};

/// Adds float32 numbers to exact sums by the fast way of guarded_sums.h: keeps the guesses, and chooses how far the
/// sums reach.
class GuardedAdder {
 public:
  /// `sums` outlives this object, and has been told to make room for what comes.
  explicit GuardedAdder(ChannelSums& sums) : sums_(&sums) {}

  // All return false, with nothing added, for what has to be added another way: numbers that are not finite, or that
  // lie too far apart.

  /// Runs of one channel, as sum_runs takes them.
  [[nodiscard]] bool add_runs(const Runs& x, Index runs, Index count, Index ahead, Index channel);
  [[nodiscard]] bool add_runs(const Runs& dy, const Runs& x, Index runs, Index count, Index ahead, Index channel);
  /// Lanes of several channels; `second` is `first` for squares.
  [[nodiscard]] bool add_lanes(const Tile<float>& first, const Tile<float>& second, bool squares,
                               const LaneTarget& target);

 private:
  /// sum(reach) with the reach that numbers are expected to need, and with the other one where that fails.
  template <typename Sum>
  [[nodiscard]] bool in_reach(const Sum& sum);
  /// A channel's sum(exponents, reach, sums), tried once more where its guesses were too low.
  template <typename Sum>
  [[nodiscard]] bool sum_in_reach(const Sum& sum, Index channel);
  void add_run_sums(const RunSums& run_sums, Index channel);
  void add_rests(std::int64_t linear_rest, std::int64_t lowest, Index channel);
  [[nodiscard]] bool add_lanes_under_guesses(const Tile<float>& first, const Tile<float>& second, bool squares,
                                             const LaneTarget& target);
  void raise_guesses(const Extremes<float>& first, const Extremes<float>& second, const LaneTarget& target);

  ChannelSums* sums_;
  int far_left_ = 0;  // so many more sums are taken with Reach::far
};

}  // namespace exactnorm

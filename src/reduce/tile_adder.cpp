#include "reduce/tile_adder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include "reduce/magnitude.h"

namespace exactnorm {

namespace {

double power_of_two(int exponent) { return std::bit_cast<double>(static_cast<std::uint64_t>(1023 + exponent) << 52); }

}  // namespace

template <typename T>
class TileAdder<T>::Windows {
 public:
  Windows(const Tile<T>& tile, bool one_channel) : tile_(tile), one_channel_(one_channel) {
    limits_.fill(std::numeric_limits<Magnitude<T>>::max());
    scan();
  }

  [[nodiscard]] bool has_nonfinite() const {
    return std::any_of(extremes_.largest.begin(), extremes_.largest.end(),
                       [](Magnitude<T> magnitude) { return magnitude >= infinity<T>; });
  }
  /// Whether any value but zero is left.
  [[nodiscard]] bool any() const {
    return std::any_of(extremes_.largest.begin(), extremes_.largest.end(),
                       [](Magnitude<T> magnitude) { return magnitude != 0; });
  }
  /// The window of the largest values left, which are then no longer left.
  void take(Window<T>& window) {
    bool lower = false;
    for (std::size_t i = 0; i < tile_lanes; ++i) {
      const int exponent = exponent_of<T>(extremes_.largest[i]);
      const Magnitude<T> low = magnitude_of_power<T>(exponent - window_bits<T>);
      window.exponents[i] = exponent;
      window.low[i] = std::bit_cast<T>(low);
      window.high[i] = std::bit_cast<T>(limits_[i] < infinity<T> ? limits_[i] + 1 : infinity<T>);
      lower = lower || extremes_.smallest[i] < low;
      limits_[i] = low - 1;
    }
    window.everything = first_ && !lower;
    first_ = false;
    if (lower) {
      scan();
    } else {
      extremes_.largest.fill(0);
    }
  }

 private:
  void scan() {
    scan_tile(tile_, limits_, extremes_);
    if (!one_channel_) return;
    extremes_.largest.fill(*std::max_element(extremes_.largest.begin(), extremes_.largest.end()));
    extremes_.smallest.fill(*std::min_element(extremes_.smallest.begin(), extremes_.smallest.end()));
  }

  Tile<T> tile_;
  bool one_channel_;
  bool first_ = true;
  alignas(64) Lanes<Magnitude<T>> limits_;  // the largest magnitude that is left, NaN of all ones included
  Extremes<T> extremes_;
};

template <typename T>
Tile<T> TileAdder<T>::without_nonfinite(const Tile<T>& tile, std::vector<T>& scratch, int operand,
                                        const LaneTarget& target) {
  scratch.resize(static_cast<std::size_t>(tile.rows) * tile_lanes);
  for (Index row = 0; row < tile.rows; ++row) {
    for (int lane = 0; lane < tile_lanes; ++lane) {
      T value = tile.data[row * tile.stride + lane];
      if (!std::isfinite(value)) {
        value = 0;
        if (lane >= target.first_lane && lane < target.lanes) sums_->count_nonfinite(target.channel(lane), operand);
      }
      scratch[static_cast<std::size_t>(row * tile_lanes + lane)] = value;
    }
  }
  return {scratch.data(), tile.rows, tile_lanes, scratch.data()};
}

template <typename T>
void TileAdder<T>::store(const Window<T>& first, const Window<T>& second, bool with_linear, const LaneTarget& target) {
  const auto store_term = [&](const Lanes<double>& values, int unit, int which) {
    // The power of two that the lane's float64 counts in, and the one that its true sum counts in.
    const auto exponents = [&](std::size_t lane) {
      const int window = first.exponents[lane] + (which == 0 ? 0 : second.exponents[lane]);
      const int true_unit = unit + window - (SumTerms<T>::scaled ? which + 1 : 0);
      return std::pair(SumTerms<T>::scaled ? unit : unit + window, true_unit);
    };
    if (target.one_channel()) {  // all lanes have one window
      const auto [kernel_unit, true_unit] = exponents(0);
      const double inverse_unit = power_of_two(-kernel_unit);
      std::int64_t sum = 0;
      for (const double value : values) sum += static_cast<std::int64_t>(value * inverse_unit);
      sums_->add(target.first_channel, which, sum, true_unit);
      return;
    }
    for (int i = target.first_lane; i < target.lanes; ++i) {
      const auto lane = static_cast<std::size_t>(i);
      if (values[lane] == 0) continue;
      const auto [kernel_unit, true_unit] = exponents(lane);
      sums_->add(target.channel(i), which, static_cast<std::int64_t>(values[lane] * power_of_two(-kernel_unit)),
                 true_unit);
    }
  };
  if (with_linear) {
    for (std::size_t t = 0; t < tile_sums_.linear.size(); ++t) {
      store_term(tile_sums_.linear[t], SumTerms<T>::linear_units[t], 0);
    }
  }
  for (std::size_t t = 0; t < tile_sums_.products.size(); ++t) {
    store_term(tile_sums_.products[t], SumTerms<T>::product_units[t], 1);
  }
}

template <typename T>
void TileAdder<T>::add(const Tile<T>& x, const LaneTarget& target) {
  Tile<T> tile = x;
  Windows windows(tile, target.one_channel());
  if (windows.has_nonfinite()) {
    tile = without_nonfinite(tile, first_scratch_, 0, target);
    if (add_guarded(tile, tile, target)) return;
    windows = Windows(tile, target.one_channel());
  }
  Window<T> window;
  while (windows.any()) {
    windows.take(window);
    sum_squares(tile, window, tile_sums_);
    store(window, window, true, target);
  }
}

template <typename T>
void TileAdder<T>::add(const Tile<T>& first, const Tile<T>& second, const LaneTarget& target) {
  const bool one_channel = target.one_channel();
  Tile<T> a = first;
  Tile<T> b = second;
  Windows a_windows(a, one_channel);
  Windows b_windows(b, one_channel);
  const bool a_has_nonfinite = a_windows.has_nonfinite();
  const bool b_has_nonfinite = b_windows.has_nonfinite();
  if (a_has_nonfinite) a = without_nonfinite(a, first_scratch_, 0, target);
  if (b_has_nonfinite) b = without_nonfinite(b, second_scratch_, 1, target);
  if (a_has_nonfinite || b_has_nonfinite) {
    if (add_guarded(a, b, target)) return;
    a_windows = Windows(a, one_channel);
    b_windows = Windows(b, one_channel);
  }
  Window<T> a_window;
  Window<T> b_window;
  while (a_windows.any()) {
    a_windows.take(a_window);
    // The first operand's own sum is taken with the first window of the second, which may be empty.
    Windows rest = b_windows;
    bool with_linear = true;
    do {
      rest.take(b_window);
      sum_products(a, a_window, b, b_window, tile_sums_);
      store(a_window, b_window, with_linear, target);
      with_linear = false;
    } while (rest.any());
  }
}

template <typename T>
bool TileAdder<T>::add_runs(const Runs& x, Index runs, Index count, Index ahead, Index channel) {
  return guarded_.add_runs(x, runs, count, ahead, channel);
}
template <typename T>
bool TileAdder<T>::add_runs(const Runs& dy, const Runs& x, Index runs, Index count, Index ahead, Index channel) {
  return guarded_.add_runs(dy, x, runs, count, ahead, channel);
}

template <typename T>
bool TileAdder<T>::add_guarded(const Tile<T>& first, const Tile<T>& second, const LaneTarget& target) {
  if constexpr (std::is_same_v<T, float>) {
    const bool squares = first.data == second.data && sums_->kind() == PartialSums::Kind::moments;
    if (!target.one_channel()) return guarded_.add_lanes(first, second, squares, target);
    const Index count = first.rows * tile_lanes;
    if (first.stride != tile_lanes || second.stride != tile_lanes) return false;
    return squares ? add_runs({first.data, 0}, 1, count, far_enough, target.first_channel)
                   : add_runs({first.data, 0}, {second.data, 0}, 1, count, far_enough, target.first_channel);
  }
  return false;
}

template <typename T>
void TileAdder<T>::add_to_channel(const Tile<T>& x, Index channel) {
  const LaneTarget target = {channel, 0, tile_lanes, 0};
  if (!add_guarded(x, x, target)) add(x, target);
}
template <typename T>
void TileAdder<T>::add_to_channel(const Tile<T>& dy, const Tile<T>& x, Index channel) {
  const LaneTarget target = {channel, 0, tile_lanes, 0};
  if (!add_guarded(dy, x, target)) add(dy, x, target);
}
template <typename T>
void TileAdder<T>::add_to_channels(const Tile<T>& x, Index first_channel, int first_lane, int lanes, int period) {
  const LaneTarget target = {first_channel, first_lane, lanes, period};
  if (!add_guarded(x, x, target)) add(x, target);
}
template <typename T>
void TileAdder<T>::add_to_channels(const Tile<T>& dy, const Tile<T>& x, Index first_channel, int first_lane, int lanes,
                                   int period) {
  const LaneTarget target = {first_channel, first_lane, lanes, period};
  if (!add_guarded(dy, x, target)) add(dy, x, target);
}

template class TileAdder<float>;
template class TileAdder<double>;

}  // namespace exactnorm

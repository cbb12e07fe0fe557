#include "sums/tile_adder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "sums/magnitude.h"
#include "sums/superaccumulator.h"

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
Tile<T> TileAdder<T>::without_nonfinite(const Tile<T>& tile, std::size_t operand, const LaneTarget& target) {
  std::vector<T>& values = finite_[operand];
  values.resize(static_cast<std::size_t>(tile.rows) * tile_lanes);
  for (Index row = 0; row < tile.rows; ++row) {
    for (int lane = 0; lane < tile_lanes; ++lane) {
      T value = tile.data[row * tile.stride + lane];
      if (!std::isfinite(value)) {
        value = 0;
        if (lane >= target.first_lane && lane < target.lanes) {
          ++PartialSumsAccess::nonfinite(*sums_, target.channel(lane), static_cast<int>(operand));
        }
      }
      values[static_cast<std::size_t>(row * tile_lanes + lane)] = value;
    }
  }
  return {values.data(), tile.rows, tile_lanes};
}

template <typename T>
void TileAdder<T>::add_to_channel(Index channel, int which, std::int64_t value, int unit) {
  const SumFormat format = format_of(sums_->kind(), sums_->range());
  add_scaled(PartialSumsAccess::words(*sums_, channel, which), format.words[which], value,
             unit - format.unit_exponents[which]);
}

template <typename T>
void TileAdder<T>::store_term(const Lanes<double>& values, int unit, int factors, const Window<T>& first,
                              const Window<T>& second, int which, const LaneTarget& target) {
  // The power of two that a lane's float64 counts in, and the one that its true sum counts in.
  struct Units {
    int of_kernel;
    int of_sum;
  };
  const auto units = [&](std::size_t lane) -> Units {
    const int window = first.exponents[lane] + (factors == 1 ? 0 : second.exponents[lane]);
    if (SumTerms<T>::scaled) return {unit, unit + window - factors};
    return {unit + window, unit + window};
  };
  if (target.one_channel) {  // all lanes have one window
    const Units of_lanes = units(0);
    const double inverse_unit = power_of_two(-of_lanes.of_kernel);
    std::int64_t sum = 0;
    for (const double value : values) sum += static_cast<std::int64_t>(value * inverse_unit);
    add_to_channel(target.channel(0), which, sum, of_lanes.of_sum);
    return;
  }
  for (int i = target.first_lane; i < target.lanes; ++i) {
    const auto lane = static_cast<std::size_t>(i);
    if (values[lane] == 0) continue;
    const Units of_lane = units(lane);
    add_to_channel(target.channel(i), which, static_cast<std::int64_t>(values[lane] * power_of_two(-of_lane.of_kernel)),
                   of_lane.of_sum);
  }
}

template <typename T>
void TileAdder<T>::store_linear(const Window<T>& window, const LaneTarget& target) {
  for (std::size_t t = 0; t < tile_sums_.linear.size(); ++t) {
    store_term(tile_sums_.linear[t], SumTerms<T>::linear_units[t], 1, window, window, 0, target);
  }
}

template <typename T>
void TileAdder<T>::store_products(const Window<T>& first, const Window<T>& second, int which,
                                  const LaneTarget& target) {
  for (std::size_t t = 0; t < tile_sums_.products.size(); ++t) {
    store_term(tile_sums_.products[t], SumTerms<T>::product_units[t], 2, first, second, which, target);
  }
}

template <typename T>
void TileAdder<T>::add(const std::array<Tile<T>, 1>& x, const LaneTarget& target) {
  Tile<T> tile = x[0];
  Windows windows(tile, target.one_channel);
  if (windows.has_nonfinite()) {
    tile = without_nonfinite(tile, 0, target);
    windows = Windows(tile, target.one_channel);
  }
  Window<T> window;
  while (windows.any()) {
    windows.take(window);
    sum_squares(tile, window, tile_sums_);
    store_linear(window, target);
    store_products(window, window, 1, target);
  }
}

template <typename T>
void TileAdder<T>::add(const std::array<Tile<T>, 2>& dy_and_x, const LaneTarget& target) {
  Tile<T> dy = dy_and_x[0];
  Tile<T> x = dy_and_x[1];
  Windows dy_windows(dy, target.one_channel);
  Windows x_windows(x, target.one_channel);
  if (dy_windows.has_nonfinite()) {
    dy = without_nonfinite(dy, 0, target);
    dy_windows = Windows(dy, target.one_channel);
  }
  if (x_windows.has_nonfinite()) {
    x = without_nonfinite(x, 1, target);
    x_windows = Windows(x, target.one_channel);
  }
  const bool with_squares = format_of(sums_->kind(), sums_->range()).words[2] != 0;
  Window<T> dy_window;
  Window<T> x_window;
  while (dy_windows.any()) {
    dy_windows.take(dy_window);
    // The sum of dy is taken with the first window of x, which may be empty.
    Windows left = x_windows;
    bool is_first = true;
    do {
      left.take(x_window);
      sum_products(dy, dy_window, x, x_window, tile_sums_);
      if (is_first) store_linear(dy_window, target);
      store_products(dy_window, x_window, 1, target);
      is_first = false;
    } while (left.any());
    if (with_squares) {
      sum_squares(dy, dy_window, tile_sums_);
      store_products(dy_window, dy_window, 2, target);
    }
  }
}

template class TileAdder<float>;
template class TileAdder<double>;

}  // namespace exactnorm

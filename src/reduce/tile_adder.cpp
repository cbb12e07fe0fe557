#include "reduce/tile_adder.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

namespace exactnorm {

namespace {

template <typename T>
struct Format;
template <>
struct Format<float> {
  static constexpr int mantissa_bits = 23;
  static constexpr int bias = 127;
};
template <>
struct Format<double> {
  static constexpr int mantissa_bits = 52;
  static constexpr int bias = 1023;
};

template <typename T>
constexpr Magnitude<T> infinity = std::bit_cast<Magnitude<T>>(std::numeric_limits<T>::infinity());

// The e with |value| < 2^(e+1); that of the smallest normal number for all subnormal ones.
template <typename T>
int exponent_of(Magnitude<T> magnitude) {
  return std::max(static_cast<int>(magnitude >> Format<T>::mantissa_bits), 1) - Format<T>::bias;
}

// The magnitude 2^exponent, or zero below the normal numbers, where all share one unit anyway.
template <typename T>
Magnitude<T> magnitude_of_power(int exponent) {
  const int biased = exponent + Format<T>::bias;
  return biased <= 0 ? 0 : static_cast<Magnitude<T>>(biased) << Format<T>::mantissa_bits;
}

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
  [[nodiscard]] const Extremes<T>& extremes() const { return extremes_; }
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
                                        const Target& target) {
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
  return {scratch.data(), tile.rows, tile_lanes};
}

template <typename T>
void TileAdder<T>::store(const Window<T>& first, const Window<T>& second, bool with_linear, const Target& target) {
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
void TileAdder<T>::add(const Tile<T>& x, const Target& target) {
  Tile<T> tile = x;
  Windows windows(tile, target.one_channel());
  if (windows.has_nonfinite()) {
    tile = without_nonfinite(tile, first_scratch_, 0, target);
    windows = Windows(tile, target.one_channel());
  }
  raise_guesses(windows.extremes(), windows.extremes(), target);
  Window<T> window;
  while (windows.any()) {
    windows.take(window);
    sum_squares(tile, window, tile_sums_);
    store(window, window, true, target);
  }
}

template <typename T>
void TileAdder<T>::add(const Tile<T>& first, const Tile<T>& second, const Target& target) {
  const bool one_channel = target.one_channel();
  Tile<T> a = first;
  Tile<T> b = second;
  Windows a_windows(a, one_channel);
  Windows b_windows(b, one_channel);
  if (a_windows.has_nonfinite()) {
    a = without_nonfinite(a, first_scratch_, 0, target);
    a_windows = Windows(a, one_channel);
  }
  if (b_windows.has_nonfinite()) {
    b = without_nonfinite(b, second_scratch_, 1, target);
    b_windows = Windows(b, one_channel);
  }
  raise_guesses(a_windows.extremes(), b_windows.extremes(), target);
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

namespace {

// Numbers met later may be somewhat larger than those of now.
template <typename T>
int guess_of(Magnitude<T> largest) {
  return std::min(exponent_of<T>(largest) + 1, Format<T>::bias);
}

// A guess from the first elements of a run.
int sampled_guess(const float* values, Index count) {
  constexpr Index sample = 128;
  Magnitude<float> largest = 0;
  for (Index i = 0; i < std::min(count, sample); ++i) {
    largest =
        std::max(largest, std::bit_cast<Magnitude<float>>(values[i]) & std::numeric_limits<Magnitude<float>>::max());
  }
  return guess_of<float>(largest);
}

}  // namespace

template <typename T>
void TileAdder<T>::raise_guesses(const Extremes<T>& first, const Extremes<T>& second, const Target& target) {
  if constexpr (std::is_same_v<T, float>) {
    const auto raise = [&](int i) {
      const auto lane = static_cast<std::size_t>(i);
      sums_->raise_guess(target.channel(i), guess_of<T>(first.largest[lane]), guess_of<T>(second.largest[lane]));
    };
    if (target.one_channel()) {
      raise(0);
    } else {
      for (int i = target.first_lane; i < target.lanes; ++i) raise(i);
    }
  }
}

template <typename T>
bool TileAdder<T>::add_runs(const Runs& x, Index runs, Index count, Index ahead, Index channel) {
  if (!sums_->has_guesses(channel, 1)) {
    const int guess = sampled_guess(x.data, count);
    sums_->raise_guess(channel, guess, guess);
  }
  ShortSums& sums = sums_->short_sums();
  const auto at = static_cast<std::size_t>(channel);
  RunSums run_sums;
  if (!sum_runs(x, runs, count, ahead, sums.first_exponents[at], run_sums)) return false;
  sums.linear[at] += run_sums.linear;
  sums.upper[at] += run_sums.upper;
  sums.lower[at] += run_sums.lower;
  return true;
}

template <typename T>
bool TileAdder<T>::add_runs(const Runs& dy, const Runs& x, Index runs, Index count, Index ahead, Index channel) {
  if (!sums_->has_guesses(channel, 1)) {
    sums_->raise_guess(channel, sampled_guess(dy.data, count), sampled_guess(x.data, count));
  }
  ShortSums& sums = sums_->short_sums();
  const auto at = static_cast<std::size_t>(channel);
  RunSums run_sums;
  if (!sum_runs(dy, x, runs, count, ahead, sums.first_exponents[at], sums.second_exponents[at], run_sums)) return false;
  sums.linear[at] += run_sums.linear;
  sums.upper[at] += run_sums.upper;
  sums.lower[at] += run_sums.lower;
  return true;
}

template <typename T>
bool TileAdder<T>::add_guarded(const Tile<T>& first, const Tile<T>& second, const Target& target) {
  if constexpr (std::is_same_v<T, float>) {
    const bool squares = first.data == second.data && sums_->kind() == PartialSums::Kind::moments;
    if (target.one_channel()) {
      const Index count = first.rows * tile_lanes;
      if (first.stride != tile_lanes || second.stride != tile_lanes) return false;
      return squares ? add_runs({first.data, 0}, 1, count, far_enough, target.first_channel)
                     : add_runs({first.data, 0}, {second.data, 0}, 1, count, far_enough, target.first_channel);
    }
    if (first.rows > guarded_rows) return false;
    const int channels = std::min(target.period, target.lanes);
    if (!sums_->has_guesses(target.first_channel, channels)) {
      alignas(64) Lanes<Magnitude<T>> limits;
      limits.fill(std::numeric_limits<Magnitude<T>>::max());
      Extremes<T> extremes[2];
      scan_tile(first, limits, extremes[0]);
      if (!squares) scan_tile(second, limits, extremes[1]);
      raise_guesses(extremes[0], extremes[squares ? 0 : 1], target);
      if (!sums_->has_guesses(target.first_channel, channels)) return false;
    }
    ShortSums& sums = sums_->short_sums();
    const auto sum = [&](const LaneSums& lanes) {
      return squares ? sum_lanes(first, lanes) : sum_lanes(first, second, lanes);
    };
    const auto at = static_cast<std::size_t>(target.first_channel);
    if (target.first_lane == 0 && target.lanes == tile_lanes && target.period == tile_lanes) {
      return sum(
          {&sums.first_exponents[at], &sums.second_exponents[at], &sums.linear[at], &sums.upper[at], &sums.lower[at]});
    }
    // Lanes of few channels, or some that are dropped: those are watched all the same, under guesses of others.
    alignas(64) Lanes<int> first_exponents;
    alignas(64) Lanes<int> second_exponents;
    alignas(64) Lanes<std::int64_t> values[3] = {};
    Lanes<std::size_t> channel_of;
    for (std::size_t i = 0, channel = at; i < tile_lanes; ++i) {
      channel_of[i] = channel;
      first_exponents[i] = sums.first_exponents[channel];
      second_exponents[i] = sums.second_exponents[channel];
      if (++channel == at + static_cast<std::size_t>(channels)) channel = at;
    }
    if (!sum({first_exponents.data(), second_exponents.data(), values[0].data(), values[1].data(), values[2].data()})) {
      return false;
    }
    for (auto i = static_cast<std::size_t>(target.first_lane); i < static_cast<std::size_t>(target.lanes); ++i) {
      sums.linear[channel_of[i]] += values[0][i];
      sums.upper[channel_of[i]] += values[1][i];
      sums.lower[channel_of[i]] += values[2][i];
    }
    return true;
  }
  return false;
}

template <typename T>
void TileAdder<T>::add_to_channel(const Tile<T>& x, Index channel) {
  const Target target = {channel, 0, tile_lanes, 0};
  if (!add_guarded(x, x, target)) add(x, target);
}
template <typename T>
void TileAdder<T>::add_to_channel(const Tile<T>& dy, const Tile<T>& x, Index channel) {
  const Target target = {channel, 0, tile_lanes, 0};
  if (!add_guarded(dy, x, target)) add(dy, x, target);
}
template <typename T>
void TileAdder<T>::add_to_channels(const Tile<T>& x, Index first_channel, int first_lane, int lanes, int period) {
  const Target target = {first_channel, first_lane, lanes, period};
  if (!add_guarded(x, x, target)) add(x, target);
}
template <typename T>
void TileAdder<T>::add_to_channels(const Tile<T>& dy, const Tile<T>& x, Index first_channel, int first_lane, int lanes,
                                   int period) {
  const Target target = {first_channel, first_lane, lanes, period};
  if (!add_guarded(dy, x, target)) add(dy, x, target);
}

template class TileAdder<float>;
template class TileAdder<double>;

}  // namespace exactnorm

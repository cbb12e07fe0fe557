#include "reduce/guarded_adder.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "reduce/magnitude.h"

namespace exactnorm {

namespace {

// Numbers met later may be somewhat larger than those of now.
int guess_of(Magnitude<float> largest) { return std::min(exponent_of<float>(largest) + 1, Format<float>::bias); }

// A guess from some elements of some runs: samples of a batch may differ much, as their gradients do.
int sampled_guess(const Runs& values, Index runs, Index count) {
  constexpr Index most_runs = 8;
  constexpr Index most_elements = 64;
  const Index sampled_runs = std::min(runs, most_runs);
  const Index elements = std::min(count, most_elements / sampled_runs);
  Magnitude<float> largest = 0;
  for (Index i = 0; i < sampled_runs; ++i) {
    const float* run = values.data + i * runs / sampled_runs * values.stride;
    for (Index k = 0; k < elements; ++k) {
      const auto bits = std::bit_cast<Magnitude<float>>(run[k]);
      const Magnitude<float> magnitude = bits & std::numeric_limits<Magnitude<float>>::max();
      if (magnitude < infinity<float>) largest = std::max(largest, magnitude);
    }
  }
  return guess_of(largest);
}

// Numbers that have outgrown a guess once may do so again.
int raised_guess(Magnitude<float> largest, int guess) {
  constexpr int more = 2;
  return exponent_of<float>(largest) > guess ? std::min(guess_of(largest) + more, Format<float>::bias) : guess;
}

}  // namespace

void GuardedAdder::raise_guesses(const Extremes<float>& first, const Extremes<float>& second,
                                 const LaneTarget& target) {
  const ShortSums& sums = sums_->short_sums();
  const bool all_have_some = sums_->has_guesses(target.first_channel, std::min(target.period, target.lanes));
  for (int i = target.first_lane; i < target.lanes; ++i) {
    const auto lane = static_cast<std::size_t>(i);
    const Index channel = target.channel(i);
    const auto at = static_cast<std::size_t>(channel);
    if (all_have_some) {
      sums_->raise_guess(channel, raised_guess(first.largest[lane], sums.first_exponents[at]),
                         raised_guess(second.largest[lane], sums.second_exponents[at]));
    } else {
      sums_->raise_guess(channel, guess_of(first.largest[lane]), guess_of(second.largest[lane]));
    }
  }
}

template <typename Sum>
bool GuardedAdder::in_reach(const Sum& sum) {
  // Where numbers had tails they are expected to have some again, and a failed attempt costs as much as a sum.
  constexpr int for_a_while = 30;
  if (far_left_ > 0) {
    --far_left_;
    return sum(Reach::far);
  }
  if (sum(Reach::near)) return true;
  if (!sum(Reach::far)) return false;
  far_left_ = for_a_while;
  return true;
}

void GuardedAdder::add_rests(std::int64_t linear_rest, std::int64_t lowest, Index channel) {
  const ShortSums& sums = sums_->short_sums();
  const int first = sums.first_exponents[static_cast<std::size_t>(channel)];
  const int both = first + sums.second_exponents[static_cast<std::size_t>(channel)];
  if (linear_rest != 0) sums_->add(channel, 0, linear_rest, first + linear_rest_unit);
  if (lowest != 0) sums_->add(channel, 1, lowest, both + lowest_unit);
}

void GuardedAdder::add_run_sums(const RunSums& run_sums, Index channel) {
  ShortSums& sums = sums_->short_sums();
  const auto at = static_cast<std::size_t>(channel);
  sums.linear[at] += run_sums.linear;
  sums.upper[at] += run_sums.upper;
  sums.lower[at] += run_sums.lower;
  add_rests(run_sums.linear_rest, run_sums.lowest, channel);
}

template <typename Sum>
bool GuardedAdder::sum_in_reach(const Sum& sum, Index channel) {
  const auto at = static_cast<std::size_t>(channel);
  const ShortSums& sums = sums_->short_sums();
  RunSums run_sums;
  const auto sum_under_guess = [&](Reach reach) {
    return sum(sums.first_exponents[at], sums.second_exponents[at], reach, run_sums);
  };
  if (!in_reach(sum_under_guess)) {
    const auto first = static_cast<Magnitude<float>>(run_sums.first_largest);
    const auto second = static_cast<Magnitude<float>>(run_sums.second_largest);
    if (std::max(first, second) >= infinity<float>) return false;
    const int first_guess = raised_guess(first, sums.first_exponents[at]);
    const int second_guess = raised_guess(second, sums.second_exponents[at]);
    if (first_guess == sums.first_exponents[at] && second_guess == sums.second_exponents[at]) return false;
    sums_->raise_guess(channel, first_guess, second_guess);
    if (!in_reach(sum_under_guess)) return false;
  }
  add_run_sums(run_sums, channel);
  return true;
}

bool GuardedAdder::add_runs(const Runs& x, Index runs, Index count, Index ahead, Index channel) {
  if (!sums_->has_guesses(channel, 1)) {
    const int guess = sampled_guess(x, runs, count);
    sums_->raise_guess(channel, guess, guess);
  }
  const auto sum = [&](int exponent, int, Reach reach, RunSums& run_sums) {
    return sum_runs(x, runs, count, ahead, exponent, reach, run_sums);
  };
  return sum_in_reach(sum, channel);
}

bool GuardedAdder::add_runs(const Runs& dy, const Runs& x, Index runs, Index count, Index ahead, Index channel) {
  if (!sums_->has_guesses(channel, 1)) {
    sums_->raise_guess(channel, sampled_guess(dy, runs, count), sampled_guess(x, runs, count));
  }
  const auto sum = [&](int dy_exponent, int x_exponent, Reach reach, RunSums& run_sums) {
    return sum_runs(dy, x, runs, count, ahead, dy_exponent, x_exponent, reach, run_sums);
  };
  return sum_in_reach(sum, channel);
}

bool GuardedAdder::add_lanes_under_guesses(const Tile<float>& first, const Tile<float>& second, bool squares,
                                           const LaneTarget& target) {
  const int channels = std::min(target.period, target.lanes);
  if (!sums_->has_guesses(target.first_channel, channels)) return false;
  ShortSums& sums = sums_->short_sums();
  const auto at = static_cast<std::size_t>(target.first_channel);
  alignas(64) Lanes<std::int64_t> rests[2];
  bool has_rests = false;
  const auto sum = [&](const int* first_exponents, const int* second_exponents, std::int64_t* linear,
                       std::int64_t* upper, std::int64_t* lower) {
    const LaneSums lanes = {first_exponents, second_exponents, linear, upper, lower, rests[0].data(), rests[1].data()};
    return in_reach([&](Reach reach) {
      has_rests = reach == Reach::far;
      if (has_rests) {
        rests[0].fill(0);
        rests[1].fill(0);
      }
      return squares ? sum_lanes(first, reach, lanes) : sum_lanes(first, second, reach, lanes);
    });
  };
  if (target.first_lane == 0 && target.lanes == tile_lanes && target.period == tile_lanes) {
    if (!sum(&sums.first_exponents[at], &sums.second_exponents[at], &sums.linear[at], &sums.upper[at],
             &sums.lower[at])) {
      return false;
    }
    for (std::size_t i = 0; i < tile_lanes && has_rests; ++i) {
      add_rests(rests[0][i], rests[1][i], static_cast<Index>(at + i));
    }
    return true;
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
  if (!sum(first_exponents.data(), second_exponents.data(), values[0].data(), values[1].data(), values[2].data())) {
    return false;
  }
  for (auto i = static_cast<std::size_t>(target.first_lane); i < static_cast<std::size_t>(target.lanes); ++i) {
    const std::size_t channel = channel_of[i];
    sums.linear[channel] += values[0][i];
    sums.upper[channel] += values[1][i];
    sums.lower[channel] += values[2][i];
    if (has_rests) add_rests(rests[0][i], rests[1][i], static_cast<Index>(channel));
  }
  return true;
}

bool GuardedAdder::add_lanes(const Tile<float>& first, const Tile<float>& second, bool squares,
                             const LaneTarget& target) {
  if (first.rows > guarded_rows) return false;
  if (add_lanes_under_guesses(first, second, squares, target)) return true;
  // There were no guesses, or some were too low.
  alignas(64) Lanes<Magnitude<float>> limits;
  limits.fill(std::numeric_limits<Magnitude<float>>::max());
  Extremes<float> extremes[2];
  scan_tile(first, limits, extremes[0]);
  if (!squares) scan_tile(second, limits, extremes[1]);
  const Extremes<float>& of_second = extremes[squares ? 0 : 1];
  Magnitude<float> largest = 0;
  for (std::size_t lane = 0; lane < tile_lanes; ++lane) {
    largest = std::max({largest, extremes[0].largest[lane], of_second.largest[lane]});
  }
  if (largest >= infinity<float>) return false;
  raise_guesses(extremes[0], of_second, target);
  return add_lanes_under_guesses(first, second, squares, target);
}

}  // namespace exactnorm

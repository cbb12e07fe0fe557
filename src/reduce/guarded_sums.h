#pragma once

#include <cstdint>

#include "reduce/tile_kernels.h"

// The fast half of the reduce room: exact float32 sums in one pass, under a guess of how large the numbers
// are. The pass watches the magnitudes that it meets; where the guess was wrong its sums are thrown away, and
// the passes of tile_kernels.h, which guess nothing, take its place.
//
// A guess is an exponent e: every number is 0 or of a magnitude from 2^(e - guarded_bits) to below 2^(e + 1).
// Sums come in the units of ShortSums.

namespace exactnorm {

inline constexpr int guarded_bits = 20;
/// The bound on rows that the exactness of the sums rests on.
inline constexpr Index guarded_rows = 128;

/// Runs of neighbouring elements, `stride` elements from the start of one to the start of the next.
struct Runs {
  const float* data = nullptr;
  Index stride = 0;
};

/// Sums of one channel.
struct RunSums {
  std::int64_t linear = 0;
  std::int64_t upper = 0;
  std::int64_t lower = 0;
};

/// A distance at which long runs in memory are well asked for, in elements.
inline constexpr Index far_enough = 1024;

/// Sums of x and x * x, or of dy and dy * x, over `runs` runs of `count` elements of one channel, which are added
/// to `sums`; false, with `sums` as they were, where the guess was wrong. While it reads, it asks for what lies
/// `ahead` elements further on.
[[nodiscard]] bool sum_runs(const Runs& x, Index runs, Index count, Index ahead, int exponent, RunSums& sums);
[[nodiscard]] bool sum_runs(const Runs& dy, const Runs& x, Index runs, Index count, Index ahead, int dy_exponent,
                            int x_exponent, RunSums& sums);

/// Guesses and sums of 32 lanes.
struct LaneSums {
  const int* first_exponents = nullptr;
  const int* second_exponents = nullptr;
  std::int64_t* linear = nullptr;
  std::int64_t* upper = nullptr;
  std::int64_t* lower = nullptr;
};

/// The same for each lane of a tile of at most `guarded_rows` rows.
[[nodiscard]] bool sum_lanes(const Tile<float>& x, const LaneSums& sums);
[[nodiscard]] bool sum_lanes(const Tile<float>& dy, const Tile<float>& x, const LaneSums& sums);

}  // namespace exactnorm

#pragma once

#include <cstdint>

#include "reduce/tile_kernels.h"

// The fast half of exact sums: exact float32 sums in one pass, under a guess of how large the numbers
// are. The pass watches the magnitudes that it meets; where the guess was wrong its sums are thrown away, and
// the passes of tile_kernels.h, which guess nothing, take its place.
//
// A guess is an exponent e: every number is 0 or of a magnitude from 2^(e - guarded_bits) to below 2^(e + 1). How far
// down that is is a matter of choice, of three terms or of five: activations nearly always stay within 20 binades,
// gradients have tails that do not. Sums come in the units of ShortSums, and in two below.

namespace exactnorm {

enum class Reach { near, far };
[[nodiscard]] constexpr int guarded_bits(Reach reach) noexcept { return reach == Reach::near ? 20 : 43; }
/// The bound on rows that the exactness of the sums rests on.
inline constexpr Index guarded_rows = 128;

/// Runs of neighbouring elements, `stride` elements from the start of one to the start of the next.
struct Runs {
  const float* data = nullptr;
  Index stride = 0;
};

/// The powers of two that the terms below those of ShortSums count in, beside those of a channel's exponents.
inline constexpr int linear_rest_unit = -88;
inline constexpr int lowest_unit = -132;

/// Sums of one channel. The last two sums are terms of Reach::far.
struct RunSums {
  std::int64_t linear = 0;
  std::int64_t upper = 0;
  std::int64_t lower = 0;
  std::int64_t linear_rest = 0;
  std::int64_t lowest = 0;
  /// Where a guess was wrong: the largest magnitude of each operand, as bits.
  std::uint32_t first_largest = 0;
  std::uint32_t second_largest = 0;
};

/// A distance at which long runs in memory are well asked for, in elements.
inline constexpr Index far_enough = 1024;

/// Sums of x and x * x, or of dy and dy * x, over `runs` runs of `count` elements of one channel, which are added
/// to `sums`; false, with the sums as they were, where the guess was wrong. While it reads, it asks for what lies
/// `ahead` elements further on.
[[nodiscard]] bool sum_runs(const Runs& x, Index runs, Index count, Index ahead, int exponent, Reach reach,
                            RunSums& sums);
[[nodiscard]] bool sum_runs(const Runs& dy, const Runs& x, Index runs, Index count, Index ahead, int dy_exponent,
                            int x_exponent, Reach reach, RunSums& sums);

/// Guesses and sums of 32 lanes. The last two are for Reach::far alone.
struct LaneSums {
  const int* first_exponents = nullptr;
  const int* second_exponents = nullptr;
  std::int64_t* linear = nullptr;
  std::int64_t* upper = nullptr;
  std::int64_t* lower = nullptr;
  std::int64_t* linear_rest = nullptr;
  std::int64_t* lowest = nullptr;
};

/// The same for each lane of a tile of at most `guarded_rows` rows.
[[nodiscard]] bool sum_lanes(const Tile<float>& x, Reach reach, const LaneSums& sums);
[[nodiscard]] bool sum_lanes(const Tile<float>& dy, const Tile<float>& x, Reach reach, const LaneSums& sums);

}  // namespace exactnorm

#pragma once

#include <cstddef>

#include "exactnorm/tensor.h"

// The vector code of quick sums: plain float64 sums of elements that float32 holds, in short chains, each chain's sum
// added to a pair of float64 numbers without a rounding error.
//
//     moments:    d = x - centre,  sums of d, d * d
//     gradients:  d = x - centre,  sums of dy, dy * d, dy * dy, d * d

namespace exactnorm {

/// No element passes through more additions than this, in a chain that rounds, before a pair takes its chain's sum.
/// quick_finalize.h derives the error bounds from it.
inline constexpr int quick_chain = 40;

inline constexpr std::size_t moment_sums = 2;
inline constexpr std::size_t gradient_sums_count = 4;

/// The sums of consecutive slots as unevaluated pairs: high[s][i] + low[s][i] is sum s of slot i. Arrays have room for
/// one vector beyond the last slot, whose contents have no meaning.
struct QuickColumns {
  double* high[gradient_sums_count] = {};
  double* low[gradient_sums_count] = {};

  /// The same from slot `at` on.
  [[nodiscard]] QuickColumns from(Index at) const noexcept {
    QuickColumns columns;
    for (std::size_t s = 0; s < gradient_sums_count && high[s] != nullptr; ++s) {
      columns.high[s] = high[s] + at;
      columns.low[s] = low[s] + at;
    }
    return columns;
  }
};

/// high + low += value, where only the sum of the low parts rounds (Knuth's two-sum).
inline void add_to_pair(double value, double& high, double& low) noexcept {
  const double sum = high + value;
  const double of_value = sum - high;
  low += (high - (sum - of_value)) + (value - of_value);
  high = sum;
}

/// `rows` rows of `count` neighbouring elements, float, bfloat16 or float16. dy is null for moments.
template <typename Element>
struct QuickBlock {
  const Element* x = nullptr;
  const Element* dy = nullptr;
  Index x_stride = 0;  // elements from a row to the next
  Index dy_stride = 0;
  Index x_channel_stride = 0;  // of short runs: elements from a channel to the next
  Index dy_channel_stride = 0;
  Index rows = 0;
  Index channels = 1;
  Index count = 0;
  // Elements from each element (runs), or from the start of each row (lanes), to what is prefetched meanwhile: as many
  // elements as are read. 0 for nothing.
  Index prefetch = 0;
};

/// What sums are about, by slots, with room as QuickColumns have.
struct QuickSlots {
  const double* centres = nullptr;  // null for zeros, which gradients cannot have
  // Of gradients: where both are given, dy counts where lower < x < upper, and as 0 elsewhere.
  const float* lower = nullptr;
  const float* upper = nullptr;

  /// The same from slot `at` on.
  [[nodiscard]] QuickSlots from(Index at) const noexcept {
    QuickSlots slots;
    if (centres != nullptr) slots.centres = centres + at;
    if (lower != nullptr) {
      slots.lower = lower + at;
      slots.upper = upper + at;
    }
    return slots;
  }
};

/// How a block's elements belong to slots, and have what QuickSlots hold.
enum class QuickWay {
  /// All to slot 0.
  runs,
  /// `rows` rows of each of `channels` channels, of at most longest_short_run elements (traverse/tuning.h): channel i
  /// belongs to slot i. Rows are taken in the order of memory, all channels' first rows first.
  short_runs,
  /// Element i of a row to slot i.
  lanes
};

/// Adds a block to sums.
template <typename Element>
void add_quick(QuickWay way, const QuickBlock<Element>& block, const QuickSlots& slots, const QuickColumns& to);

}  // namespace exactnorm

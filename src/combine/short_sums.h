#pragma once

#include <cstdint>
#include <vector>

#include "exactnorm/partial_sums.h"

namespace exactnorm {

/// The powers of two that the integers of ShortSums count in, beside those of a channel's exponents.
inline constexpr int short_linear_unit = -43;
inline constexpr int short_upper_unit = -42;
inline constexpr int short_lower_unit = -87;

/// Some channels of ShortSums, as plain arrays.
struct ShortView {
  const std::int64_t* linear = nullptr;
  const std::int64_t* upper = nullptr;
  const std::int64_t* lower = nullptr;
  const int* first_exponents = nullptr;
  const int* second_exponents = nullptr;
  Index size = 0;
};

/// Exact sums of channels whose elements were near enough in magnitude for three 64-bit integers. With e and
/// f the exponents of channel i (first_exponents[i], second_exponents[i]; for moments they are equal):
///   first sum  = linear[i] * 2^(e - 43)
///   second sum = upper[i] * 2^(e + f - 42) + lower[i] * 2^(e + f - 87)
struct ShortSums {
  std::vector<std::int64_t> linear;
  std::vector<std::int64_t> upper;
  std::vector<std::int64_t> lower;
  std::vector<int> first_exponents;
  std::vector<int> second_exponents;

  [[nodiscard]] Index size() const noexcept { return static_cast<Index>(linear.size()); }
  /// `channels` sums of nothing, with the memory kept.
  void resize(Index channels);
  /// Channels first to first + count - 1.
  [[nodiscard]] ShortView view(Index first, Index count) const noexcept;
  [[nodiscard]] ShortView view() const noexcept { return view(0, size()); }
};

/// Adds one channel's sums to another's, in units of the smaller exponents of the two. Where one of the
/// integers would overflow, returns false and changes nothing. Sums of nothing take any exponents.
[[nodiscard]] bool merge_channel(ShortSums& to, Index channel, const ShortSums& from, Index from_channel) noexcept;

/// Adds one channel to the long integers of `sums`, of either range, which must be able to hold each of the three
/// terms: multiples of their units, as sums of numbers of that range are.
void add_to_long(const ShortSums& from, Index channel, PartialSums& sums, Index to_channel) noexcept;

/// Sets a channel from the long integers of another, where the three short ones hold them exactly; if not, returns
/// false and changes nothing. Non-finite elements are the caller's to look for.
[[nodiscard]] bool to_short(const PartialSums& sums, Index channel, ShortSums& to, Index to_channel) noexcept;

}  // namespace exactnorm

#pragma once

#include <array>
#include <cstdint>

#include "exactnorm/tensor.h"

// The vector code of exact sums over a small tile of numbers.
//
// A tile has `rows` rows of 32 lanes: neighbouring elements of one channel, or of neighbouring channels. Each lane is
// summed by itself.

namespace exactnorm {

inline constexpr int tile_lanes = 32;
/// The bound on rows that the exactness of the sums below rests on.
inline constexpr Index maximum_tile_rows = 512;

template <typename Value>
using Lanes = std::array<Value, tile_lanes>;

/// The bit pattern of |value| orders as the value does: an integer of the same size.
template <typename T>
struct MagnitudeOf;
template <>
struct MagnitudeOf<float> {
  using Type = std::int32_t;
};
template <>
struct MagnitudeOf<double> {
  using Type = std::int64_t;
};
template <typename T>
using Magnitude = typename MagnitudeOf<T>::Type;

template <typename T>
struct Tile {
  const T* data = nullptr;
  Index rows = 0;
  Index stride = tile_lanes;  // elements from one row to the next
};

/// Per lane: the largest magnitude that does not exceed `limits`, and the smallest such one that is not zero
/// (all ones but the sign bit where there is none).
template <typename T>
struct Extremes {
  alignas(64) Lanes<Magnitude<T>> largest;
  alignas(64) Lanes<Magnitude<T>> smallest;
};
void scan_tile(const Tile<float>& tile, const Lanes<std::int32_t>& limits, Extremes<float>& extremes);
void scan_tile(const Tile<double>& tile, const Lanes<std::int64_t>& limits, Extremes<double>& extremes);

/// The magnitudes that one pass over a tile takes in, per lane: low <= |value| < high; the others count
/// as zero. `exponents` bound them: |value| < 2^(exponent + 1).
template <typename T>
struct Window {
  alignas(64) Lanes<T> low;
  alignas(64) Lanes<T> high;
  alignas(64) Lanes<int> exponents;
  bool everything = true;  // no finite value lies outside: low and high need not be looked at
};

/// How far below 2^exponent a window may reach for sums to be exact.
template <typename T>
inline constexpr int window_bits = 0;
template <>
inline constexpr int window_bits<float> = 19;
template <>
inline constexpr int window_bits<double> = 31;

/// What the terms of one pass stand for. Each is an integer multiple, of at most 53 bits, of 2^unit. With e
/// and f the exponents of the two operands' windows, the sum of the first operand is
///     sum over t of linear[t] * 2^(e * scaled),        units linear_units[t] + e * !scaled,
/// and the sum of products likewise with e + f. `scaled` says that the kernel has divided e away (by
/// 2^(e-1), to be exact), so that no intermediate overflows or underflows.
template <typename T>
struct SumTerms;
template <>
struct SumTerms<float> {
  static constexpr bool scaled = false;
  static constexpr std::array<int, 1> linear_units = {-42};
  static constexpr std::array<int, 2> product_units = {-40, -84};
};
template <>
struct SumTerms<double> {
  static constexpr bool scaled = true;
  static constexpr std::array<int, 2> linear_units = {-40, -82};
  static constexpr std::array<int, 4> product_units = {-38, -80, -121, -164};
};

/// One float64 per term and lane.
template <typename T>
struct TileSums {
  alignas(64) std::array<Lanes<double>, SumTerms<T>::linear_units.size()> linear;
  alignas(64) std::array<Lanes<double>, SumTerms<T>::product_units.size()> products;
};

/// Sums of x and of x * x over the values in the window.
void sum_squares(const Tile<float>& x, const Window<float>& window, TileSums<float>& sums);
void sum_squares(const Tile<double>& x, const Window<double>& window, TileSums<double>& sums);
/// Sums of first and of first * second, each within its window. Both tiles have the same rows.
void sum_products(const Tile<float>& first, const Window<float>& first_window, const Tile<float>& second,
                  const Window<float>& second_window, TileSums<float>& sums);
void sum_products(const Tile<double>& first, const Window<double>& first_window, const Tile<double>& second,
                  const Window<double>& second_window, TileSums<double>& sums);

}  // namespace exactnorm

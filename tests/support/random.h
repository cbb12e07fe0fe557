#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <random>
#include <utility>
#include <vector>

#include "exactnorm/tensor.h"

namespace exactnorm::testing {

/// Seeded numbers that are the same with every standard library, whose distributions are not.
class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  /// From low to high, both included.
  Index between(Index low, Index high) {
    const auto span = static_cast<std::uint64_t>(high - low) + 1;
    return low + static_cast<Index>(engine_() % span);
  }
  bool chance(double probability) { return unit() < probability; }
  /// At least 0 and below 1.
  double unit() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  double uniform(double low, double high) { return low + (high - low) * unit(); }
  double normal() { return std::sqrt(-2 * std::log(1 - unit())) * std::cos(2 * std::numbers::pi_v<double> * unit()); }
  /// Of either sign, with a magnitude from 2^low to 2^(high + 1), all exponents alike.
  double of_exponent(int low, int high) {
    const double magnitude = std::ldexp(1 + unit(), static_cast<int>(between(low, high)));
    return chance(0.5) ? magnitude : -magnitude;
  }
  std::uint64_t bits() { return engine_(); }
  template <typename Values>
  void shuffle(Values& values) {
    for (auto i = static_cast<Index>(values.size()); i > 1; --i) {
      std::swap(values[static_cast<std::size_t>(i - 1)], values[static_cast<std::size_t>(between(0, i - 1))]);
    }
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace exactnorm::testing

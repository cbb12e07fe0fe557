#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "combine/short_sums.h"
#include "exactnorm/info.h"
#include "support/exact.h"
#include "support/integer.h"
#include "support/random.h"

// Short sums made by hand, and what they stand for.

namespace exactnorm::testing {

inline constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
inline constexpr std::int64_t smallest = std::numeric_limits<std::int64_t>::min();

/// Boost's integers are slow to add.
__extension__ using Wide = __int128;

/// One channel of ShortSums.
struct Channel {
  std::int64_t linear = 0;
  std::int64_t upper = 0;
  std::int64_t lower = 0;
  int first = 0;
  int second = 0;
};

inline void append(ShortSums& sums, const Channel& channel) {
  sums.linear.push_back(channel.linear);
  sums.upper.push_back(channel.upper);
  sums.lower.push_back(channel.lower);
  sums.first_exponents.push_back(channel.first);
  sums.second_exponents.push_back(channel.second);
}

inline Channel channel_of(const ShortSums& sums, std::size_t at) {
  return {sums.linear[at], sums.upper[at], sums.lower[at], sums.first_exponents[at], sums.second_exponents[at]};
}

inline Rational times_power(const Integer& value, int exponent) {
  const Integer power = Integer(1) << static_cast<unsigned>(std::abs(exponent));
  return exponent >= 0 ? Rational(value * power) : Rational(value, power);
}
inline Rational first_sum(const Channel& c) { return times_power(c.linear, c.first - 43); }
inline Rational second_sum(const Channel& c) {
  return times_power((Integer(c.upper) << 45U) + c.lower, c.first + c.second - 87);
}

/// The sums of integers times 2^(e - 43), each of at most 44 bits, as the reduce room makes them but for the cut
/// between upper and lower, which may be anywhere.
struct Elements {
  explicit Elements(Random& generator) : random(generator) {}
  void add(std::int64_t a, std::int64_t b) {
    linear += a;
    product += static_cast<Wide>(a) * b;
    ++count;
  }
  void add(std::int64_t a) { add(a, a); }
  /// Whether the sums fit.
  bool channel(int first, int second, Channel& result) const {
    // In units of 2^(e + f - 87), half that of a product.
    const Wide doubled = product * 2;
    Wide upper = doubled >> 45;
    upper += random.between(-1000, 0);
    if (upper < 0 && product > 0) upper = 0;
    const Wide lower = doubled - upper * (Wide{1} << 45);
    const auto fits = [](Wide value) { return value >= smallest && value <= largest; };
    if (!fits(linear) || !fits(upper) || !fits(lower)) return false;
    result = {static_cast<std::int64_t>(linear), static_cast<std::int64_t>(upper), static_cast<std::int64_t>(lower),
              first, second};
    return true;
  }
  Random& random;
  Wide linear = 0;
  Wide product = 0;
  Index count = 0;
};

/// Integers of `bits` bits around mean_ratio deviations, as float32 numbers of one binade or a few would be.
inline std::int64_t element(Random& random, double mean_ratio, int bits) {
  const double deviation = std::ldexp(1.0, bits) / (mean_ratio + 8);
  const double value = deviation * (mean_ratio + random.normal());
  const double limit = std::ldexp(1.0, bits);
  return std::llround(std::fmin(std::fmax(value, -limit), limit)) * (std::int64_t{1} << (43 - bits));
}

/// The same sums as long integers.
inline PartialSums long_sums(const ShortSums& sums, PartialSums::Kind kind) {
  PartialSums result(sums.size(), kind, PartialSums::Range::extended);
  for (Index i = 0; i < sums.size(); ++i) add_to_long(sums, i, result, i);
  return result;
}

/// Whether the bits are the same.
inline bool same(double a, double b) { return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b); }

/// Calls check() with each target that the processor supports.
template <typename Check>
void on_every_target(const Check& check) {
  const std::string before = active_target();
  for (const std::string& target : supported_targets()) {
    SCOPED_TRACE(target);
    set_target(target);
    check();
  }
  set_target(before);
}

}  // namespace exactnorm::testing

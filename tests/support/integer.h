#pragma once

#include <boost/multiprecision/cpp_int.hpp>
#include <cmath>
#include <cstdint>
#include <vector>

// Integers of any size, to compare the library's long integers with.

namespace exactnorm::testing {

using Integer = boost::multiprecision::cpp_int;

/// Two's complement words, least significant first, as a number.
inline Integer number(const std::vector<std::uint64_t>& words) {
  Integer value = 0;
  for (std::size_t i = words.size(); i-- > 0;) value = (value << 64) + words[i];
  if (!words.empty() && words.back() >> 63 != 0) value -= Integer(1) << static_cast<unsigned>(64 * words.size());
  return value;
}

/// value / 2^unit, of a value that is a multiple of that.
inline Integer in_units(double value, int unit) {
  int exponent = 0;
  const double fraction = std::frexp(value, &exponent);
  const Integer mantissa = static_cast<std::int64_t>(std::ldexp(fraction, 53));
  const int shift = exponent - 53 - unit;
  return shift >= 0 ? Integer(mantissa << static_cast<unsigned>(shift))
                    : Integer(mantissa / (Integer(1) << static_cast<unsigned>(-shift)));
}

}  // namespace exactnorm::testing

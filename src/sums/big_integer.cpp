#include "sums/big_integer.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace exactnorm {

namespace {

__extension__ using Word128 = unsigned __int128;

}  // namespace

BigInteger::BigInteger(std::uint64_t value) {
  words_[0] = value;
  size_ = value == 0 ? 0 : 1;
}

BigInteger::BigInteger(std::int64_t value)
    : BigInteger(value < 0 ? ~static_cast<std::uint64_t>(value) + 1 : static_cast<std::uint64_t>(value)) {
  negative_ = value < 0;
}

BigInteger::BigInteger(const BigInteger& other) noexcept : size_(other.size_), negative_(other.negative_) {
  std::copy_n(other.words_.begin(), size_, words_.begin());
}

BigInteger& BigInteger::operator=(const BigInteger& other) noexcept {
  if (this == &other) return *this;
  size_ = other.size_;
  negative_ = other.negative_;
  std::copy_n(other.words_.begin(), size_, words_.begin());
  return *this;
}

BigInteger::BigInteger(const std::uint64_t* words, int size) : size_(size) {
  negative_ = size > 0 && words[size - 1] >> 63 != 0;
  std::uint64_t carry = negative_ ? 1 : 0;
  for (int i = 0; i < size; ++i) {
    const auto at = static_cast<std::size_t>(i);
    words_[at] = (negative_ ? ~words[i] : words[i]) + carry;
    carry = carry != 0 && words_[at] == 0 ? 1 : 0;
  }
  trim();
}

void BigInteger::trim() noexcept {
  while (size_ > 0 && words_[static_cast<std::size_t>(size_ - 1)] == 0) --size_;
  if (size_ == 0) negative_ = false;
}

int BigInteger::bit_length() const noexcept {
  return size_ == 0 ? 0 : 64 * size_ - std::countl_zero(words_[static_cast<std::size_t>(size_ - 1)]);
}

std::uint64_t BigInteger::bits_from(int first) const noexcept {
  const auto word_at = [&](int i) { return i < 0 || i >= size_ ? 0 : words_[static_cast<std::size_t>(i)]; };
  const int word = first >= 0 ? first / 64 : -((63 - first) / 64);
  const int bit = first - 64 * word;
  return bit == 0 ? word_at(word) : (word_at(word) >> bit) | (word_at(word + 1) << (64 - bit));
}

bool BigInteger::any_bit_below(int end) const noexcept {
  for (int i = 0; i < size_ && 64 * i < end; ++i) {
    const std::uint64_t word = words_[static_cast<std::size_t>(i)];
    const int bits = end - 64 * i;
    if ((bits >= 64 ? word : word & ((std::uint64_t{1} << bits) - 1)) != 0) return true;
  }
  return false;
}

BigInteger BigInteger::negated() const noexcept {
  BigInteger result = *this;
  result.negative_ = !negative_ && size_ > 0;
  return result;
}

int BigInteger::compare_magnitudes(const BigInteger& a, const BigInteger& b) noexcept {
  if (a.size_ != b.size_) return a.size_ < b.size_ ? -1 : 1;
  for (auto i = static_cast<std::size_t>(a.size_); i-- > 0;) {
    if (a.words_[i] != b.words_[i]) return a.words_[i] < b.words_[i] ? -1 : 1;
  }
  return 0;
}

BigInteger BigInteger::add(const BigInteger& a, const BigInteger& b, bool b_negative) noexcept {
  const bool swap = compare_magnitudes(a, b) < 0;
  const BigInteger& larger = swap ? b : a;
  const BigInteger& smaller = swap ? a : b;
  const bool subtract = a.negative_ != b_negative;
  BigInteger result;
  result.negative_ = swap ? b_negative : a.negative_;
  std::uint64_t carry = 0;
  const auto smaller_size = static_cast<std::size_t>(smaller.size_);
  for (std::size_t i = 0; i < static_cast<std::size_t>(larger.size_); ++i) {
    const std::uint64_t x = larger.words_[i];
    const std::uint64_t y = i < smaller_size ? smaller.words_[i] : 0;
    if (subtract) {
      const std::uint64_t difference = x - y;
      result.words_[i] = difference - carry;
      carry = static_cast<std::uint64_t>(x < y) | static_cast<std::uint64_t>(difference < carry);
    } else {
      const std::uint64_t sum = x + y;
      result.words_[i] = sum + carry;
      carry = static_cast<std::uint64_t>(sum < x) | static_cast<std::uint64_t>(result.words_[i] < sum);
    }
  }
  result.size_ = larger.size_;
  if (!subtract && carry != 0) result.words_[static_cast<std::size_t>(result.size_++)] = carry;
  result.trim();
  return result;
}

BigInteger operator*(const BigInteger& a, const BigInteger& b) noexcept {
  BigInteger result;
  if (a.is_zero() || b.is_zero()) return result;
  result.size_ = a.size_ + b.size_;
  result.negative_ = a.negative_ != b.negative_;
  std::fill_n(result.words_.begin(), result.size_, 0);
  for (std::size_t i = 0; i < static_cast<std::size_t>(a.size_); ++i) {
    std::uint64_t carry = 0;
    for (std::size_t j = 0; j < static_cast<std::size_t>(b.size_); ++j) {
      const Word128 total = static_cast<Word128>(a.words_[i]) * b.words_[j] + result.words_[i + j] + carry;
      result.words_[i + j] = static_cast<std::uint64_t>(total);
      carry = static_cast<std::uint64_t>(total >> 64);
    }
    result.words_[i + static_cast<std::size_t>(b.size_)] = carry;
  }
  result.trim();
  return result;
}

BigInteger BigInteger::shifted_left(int bits) const noexcept {
  if (size_ == 0) return *this;
  const int words = (bits + 63) / 64;
  BigInteger result;
  result.negative_ = negative_;
  result.size_ = size_ + words;
  if (bits % 64 == 0) {
    std::copy_n(words_.begin(), size_, std::fill_n(result.words_.begin(), words, 0));
    return result;
  }
  for (int i = 0; i < result.size_; ++i) result.words_[static_cast<std::size_t>(i)] = bits_from(64 * i - bits);
  result.trim();
  return result;
}

bool BigInteger::divide_by(std::uint64_t divisor) noexcept {
  std::uint64_t remainder = 0;
  for (auto i = static_cast<std::size_t>(size_); i-- > 0;) {
    const Word128 dividend = (static_cast<Word128>(remainder) << 64) | words_[i];
    words_[i] = static_cast<std::uint64_t>(dividend / divisor);
    // Modulo 2^64, where the remainder is at home: one division less.
    remainder = static_cast<std::uint64_t>(dividend) - words_[i] * divisor;
  }
  trim();
  return remainder != 0;
}

namespace {

// The bits of `quotient` from `unit` upwards, at most 53, rounded to nearest even; `inexact` says that there are more
// below bit 0.
double round_at(const BigInteger& quotient, int unit, bool inexact) {
  std::uint64_t mantissa = quotient.bit_length() > unit ? quotient.bits_from(unit) : 0;
  // The 64 bits below decide; those beyond matter to a tie alone.
  const std::uint64_t below = quotient.bits_from(unit - 64);
  constexpr std::uint64_t half = std::uint64_t{1} << 63;
  if (below > half || (below == half && ((mantissa & 1) != 0 || inexact || quotient.any_bit_below(unit - 64)))) {
    ++mantissa;
  }
  return static_cast<double>(mantissa);
}

constexpr int mantissa_bits = 53;
constexpr int smallest_exponent = -1074;  // of the lowest bit of a float64

}  // namespace

ScaledNumber divide(const BigInteger& numerator, std::uint64_t first_divisor, std::uint64_t second_divisor,
                    int exponent) {
  if (numerator.is_zero()) return {};
  BigInteger quotient = numerator;
  int unit_exponent = exponent;  // of the quotient's lowest bit
  bool inexact = false;
  const auto bits_of = [](std::uint64_t divisor) { return 64 - std::countl_zero(divisor - 1); };
  const int divisor_bits = bits_of(first_divisor) + bits_of(second_divisor);
  if (divisor_bits > 0) {
    // Whole words, so many that the quotient has at least 118 bits: those rounded at and 64 below.
    const int missing = divisor_bits + mantissa_bits + 65 - quotient.bit_length();
    const int shift = missing > 0 ? (missing + 63) / 64 * 64 : 0;
    if (shift > 0) quotient = quotient.shifted_left(shift);
    unit_exponent -= shift;
    if (divisor_bits < 64) {
      inexact = quotient.divide_by(first_divisor * second_divisor);
    } else {
      inexact = quotient.divide_by(first_divisor);
      inexact = quotient.divide_by(second_divisor) || inexact;
    }
  }
  const double sign = quotient.is_negative() ? -1.0 : 1.0;

  const int unit = quotient.bit_length() - mantissa_bits;
  ScaledNumber result;
  result.high = sign * round_at(quotient, unit, inexact) * 0x1p-52;
  result.exponent = unit_exponent + unit + mantissa_bits - 1;
  if (std::fabs(result.high) == 2.0) {
    result.high /= 2;
    ++result.exponent;
  }
  if (unit_exponent + unit >= smallest_exponent) {
    result.nearest = std::ldexp(result.high, result.exponent);
  } else {
    // Subnormal: fewer bits, rounded once all the same.
    const double subnormal = round_at(quotient, smallest_exponent - unit_exponent, inexact);
    result.nearest = std::ldexp(sign * subnormal, smallest_exponent);
  }
  return result;
}

namespace {

struct Quotient {
  BigInteger magnitude;
  int exponent;
};

// numerator / divisor of a numerator that is not 0, by long division, one bit at a time: 118 bits or one more, and one
// that stands for all that follow.
Quotient quotient_of(const BigInteger& numerator, const BigInteger& divisor) {
  constexpr int quotient_bits = 118;
  const int shift = quotient_bits - (numerator.bit_length() - divisor.bit_length());
  const BigInteger magnitude = numerator.is_negative() ? numerator.negated() : numerator;
  BigInteger rest = shift > 0 ? magnitude.shifted_left(shift) : magnitude;
  const BigInteger scaled = shift < 0 ? divisor.shifted_left(-shift) : divisor;
  std::array<std::uint64_t, 3> words = {};
  for (int bit = quotient_bits; bit >= 0; --bit) {
    BigInteger difference = rest - scaled.shifted_left(bit);
    if (difference.is_negative()) continue;
    rest = difference;
    const int at = bit + 1;
    words[static_cast<std::size_t>(at / 64)] |= std::uint64_t{1} << (at % 64);
  }
  if (!rest.is_zero()) words[0] |= 1;
  return {{words.data(), static_cast<int>(words.size())}, -shift - 1};
}

}  // namespace

ScaledNumber divide(const BigInteger& numerator, const BigInteger& divisor, int exponent) {
  if (numerator.is_zero()) return {};
  const Quotient quotient = quotient_of(numerator, divisor);
  const BigInteger& magnitude = quotient.magnitude;
  return divide(numerator.is_negative() ? magnitude.negated() : magnitude, 1, 1, exponent + quotient.exponent);
}

namespace {

// floor(sqrt(value)) of a value below 2^126.
std::uint64_t integer_root(Word128 value) {
  // A float64 is right to 2^-52 of it, one step of Newton's to within 1.
  auto root = static_cast<std::uint64_t>(std::sqrt(static_cast<double>(value)));
  if (root == 0) return 0;
  root = static_cast<std::uint64_t>((root + value / root) / 2);
  while (static_cast<Word128>(root) * root > value) --root;
  while (static_cast<Word128>(root + 1) * (root + 1) <= value) ++root;
  return root;
}

}  // namespace

double square_root(const BigInteger& numerator, std::uint64_t first_divisor, std::uint64_t second_divisor,
                   int exponent) {
  if (numerator.is_zero()) return 0;
  constexpr int most_bits = 126;
  const auto bits_of = [](std::uint64_t divisor) { return 64 - std::countl_zero(divisor); };
  const int missing = most_bits + bits_of(first_divisor) + bits_of(second_divisor) - numerator.bit_length();
  const int shift = missing > 0 ? missing : 0;
  BigInteger quotient = numerator.shifted_left(shift);
  bool inexact = quotient.divide_by(first_divisor);
  inexact = quotient.divide_by(second_divisor) || inexact;
  // Its highest 125 or 126 bits, above an even exponent; their root has 63.
  int unit = quotient.bit_length() - most_bits;
  if ((exponent - shift + unit) % 2 != 0) ++unit;
  inexact = quotient.any_bit_below(unit) || inexact;
  const Word128 value = (static_cast<Word128>(quotient.bits_from(unit + 64)) << 64) | quotient.bits_from(unit);
  const std::uint64_t root = integer_root(value);
  inexact = inexact || static_cast<Word128>(root) * root != value;
  // One bit below the root stands for all that follow.
  const BigInteger result(2 * root + (inexact ? 1 : 0));
  return divide(result, 1, 1, (exponent - shift + unit) / 2 - 1).nearest;
}

// A root that ends where float64 rounds has a square of at most 108 bits: the quotient's last bit tells it from others.
double square_root(const BigInteger& numerator, const BigInteger& divisor, int exponent) {
  if (numerator.is_zero()) return 0;
  const Quotient quotient = quotient_of(numerator, divisor);
  return square_root(quotient.magnitude, 1, 1, exponent + quotient.exponent);
}

}  // namespace exactnorm

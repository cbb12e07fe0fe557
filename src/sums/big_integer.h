#pragma once

#include <array>
#include <cstdint>

namespace exactnorm {

/// A signed integer of up to 12,000 bits, on the stack: what exact solutions per channel need and no more.
class BigInteger {
 public:
  BigInteger() = default;
  ~BigInteger() = default;
  // The words in use alone are copied: a small fraction of them all.
  BigInteger(const BigInteger& other) noexcept;
  BigInteger& operator=(const BigInteger& other) noexcept;
  explicit BigInteger(std::uint64_t value);
  explicit BigInteger(std::int64_t value);
  /// From two's complement words, least significant first.
  BigInteger(const std::uint64_t* words, int size);

  [[nodiscard]] bool is_zero() const noexcept { return size_ == 0; }
  [[nodiscard]] bool is_negative() const noexcept { return negative_; }
  /// Bits of the magnitude; 0 for zero.
  [[nodiscard]] int bit_length() const noexcept;
  /// Bits first to first + 63 of the magnitude; bits below 0 are zeros.
  [[nodiscard]] std::uint64_t bits_from(int first) const noexcept;
  /// Whether any of the magnitude's bits below `end` is set.
  [[nodiscard]] bool any_bit_below(int end) const noexcept;

  friend BigInteger operator*(const BigInteger& a, const BigInteger& b) noexcept;
  friend BigInteger operator+(const BigInteger& a, const BigInteger& b) noexcept { return add(a, b, b.negative_); }
  friend BigInteger operator-(const BigInteger& a, const BigInteger& b) noexcept { return add(a, b, !b.negative_); }
  [[nodiscard]] BigInteger negated() const noexcept;
  [[nodiscard]] BigInteger shifted_left(int bits) const noexcept;

  /// Divides the magnitude, rounding towards zero, and returns whether there was a remainder.
  bool divide_by(std::uint64_t divisor) noexcept;

 private:
  static constexpr int capacity = 192;

  void trim() noexcept;
  // a and the magnitude of b with another sign, perhaps.
  static BigInteger add(const BigInteger& a, const BigInteger& b, bool b_negative) noexcept;
  static int compare_magnitudes(const BigInteger& a, const BigInteger& b) noexcept;

  std::array<std::uint64_t, capacity> words_;  // those from size_ on are not initialized
  int size_ = 0;
  bool negative_ = false;
};

/// A number, rounded to nearest even, as high * 2^exponent: 1 <= |high| < 2, or 0.
struct ScaledNumber {
  double high = 0;
  int exponent = 0;
  /// The number rounded once to float64, subnormal or infinite where it has to be.
  double nearest = 0;
};

/// numerator * 2^exponent / (first_divisor * second_divisor), divisors not zero.
[[nodiscard]] ScaledNumber divide(const BigInteger& numerator, std::uint64_t first_divisor,
                                  std::uint64_t second_divisor, int exponent);

/// The same for any divisor that is more than 0.
[[nodiscard]] ScaledNumber divide(const BigInteger& numerator, const BigInteger& divisor, int exponent);

/// sqrt(numerator * 2^exponent / (first_divisor * second_divisor)), rounded once to float64, to nearest even. The
/// numerator is 0 or positive, divisors are not zero.
[[nodiscard]] double square_root(const BigInteger& numerator, std::uint64_t first_divisor, std::uint64_t second_divisor,
                                 int exponent);

/// The same for any divisor that is more than 0.
[[nodiscard]] double square_root(const BigInteger& numerator, const BigInteger& divisor, int exponent);

}  // namespace exactnorm

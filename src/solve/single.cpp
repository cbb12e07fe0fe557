#include "solve/single.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

// How near the results are. Let u be 2^-24, so that rounding to float32 changes a number by u of itself at most.
//
// Let m be the mean, and h the float32 number that stands for it: the nearest one, or, where m is within 8 deviations
// of zero, the nearest multiple of some 2^-20 deviations. d = x - h is exact for x from h / 2 to 2 h (Sterbenz), and
// for most others if h has few bits; elsewhere it is rounded. What h leaves of m goes into the shift. If h is the
// nearest number, then no x is nearer to m, and (m - h) * scale is no larger than y - beta; else it is below 2^-20 *
// |gamma|. `scale` and `scale_rest` together are the scale to 2^-46, and the second product is below 2^-22 of the
// first. So with E = |y - beta|, and but for 2^-43 * |gamma|, which is the rounding of what h leaves:
//
//   d rounded: u * E by d, u * |beta| for the shift, u * |beta| for the inner sum, u * |y| for the outer
//   d exact:   u * (|beta| + E) for the shift, as much for the inner sum, u * |y| for the outer
//
// which is at most 4 * u * max(|y|, |beta|, E) in both cases. Where beta is zero and h is not the nearest number, it is
// u * |y|, and u * E where d is rounded. Terms of 2^-46 come on top.
//
// Backward, let P be the product with dy, Q the one with x - m, and R the rest of the sum: u * |Q| each by d and by
// x_scale, u * (|Q| + |R|) each for the shift, the inner sum and the middle one, u * |dx| for the outer:
// u * (|dx| + 5 * |Q| + 3 * |R|).

namespace exactnorm {

namespace {

// Numbers that keep their products with each other, and with what is rounded of them, from overflow and
// underflow.
constexpr double largest = 0x1p96;
constexpr double smallest = 0x1p-96;

bool is_ordinary(double value) { return value == 0 || (std::fabs(value) <= largest && std::fabs(value) >= smallest); }

constexpr SingleCoefficients beyond_single = {.mean = std::numeric_limits<float>::quiet_NaN()};

// The float32 number below `value` in magnitude. What it leaves has the same sign, and is not zero: an infinite x
// would otherwise meet one of another sign, or zero, and be no number.
float next_below(double value) {
  const auto nearest = static_cast<float>(value);
  if (value == 0 || std::fabs(static_cast<double>(nearest)) < std::fabs(value)) return nearest;
  return std::bit_cast<float>(std::bit_cast<std::uint32_t>(nearest) - 1);
}

// `anchor` stands for the mean, and `shift` takes account of that.
SingleCoefficients set_single(float anchor, double scale, double x_scale, double shift) {
  if (!(std::fabs(shift) <= largest && is_ordinary(scale) && is_ordinary(x_scale))) return beyond_single;
  const float upper = next_below(scale);
  return {anchor, upper, static_cast<float>(scale - static_cast<double>(upper)), static_cast<float>(shift),
          static_cast<float>(x_scale)};
}

bool fits(double mean) { return std::fabs(mean) <= largest; }

// The mean, in no more digits than matter beside the deviation.
float anchor_of(double mean, double variance) {
  // Halves the exponent of the variance: a power of two from half the deviation to all of it, times 2^-20.
  const auto exponent = static_cast<std::int64_t>(std::bit_cast<std::uint64_t>(variance) >> 52) - 1023;
  const double step = std::bit_cast<double>((1023 + (exponent >> 1) - 20) << 52);
  if (variance == 0 || !(std::fabs(mean) < 0x1p23 * step)) return static_cast<float>(mean);
  const double start = 0x1.8p52 * step;
  return static_cast<float>((mean + start) - start);
}

}  // namespace

SingleCoefficients single(const ForwardCoefficients& c) noexcept {
  if (!fits(c.mean)) return beyond_single;
  const float anchor = anchor_of(c.mean, c.variance);
  return set_single(anchor, c.scale, 0, c.shift - (c.mean - static_cast<double>(anchor)) * c.scale);
}

SingleCoefficients single(const BackwardCoefficients& c) noexcept {
  if (!fits(c.mean)) return beyond_single;
  const auto anchor = static_cast<float>(c.mean);
  const double normalized_rest = (c.mean - static_cast<double>(anchor)) * c.x_scale * c.normalized_scale;
  return set_single(anchor, c.dy_scale, c.x_scale * c.normalized_scale * c.dy_scale,
                    (c.shift - normalized_rest) * c.dy_scale);
}

}  // namespace exactnorm

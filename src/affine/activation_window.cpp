#include "affine/activation_window.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "tensor/scratch.h"

namespace exactnorm {

namespace {

// float32 numbers by integers that order as they do, -0 and 0 next to each other.
constexpr std::int64_t key_of(float value) noexcept {
  const auto bits = std::bit_cast<std::int32_t>(value);
  return bits >= 0 ? bits : std::int64_t{std::numeric_limits<std::int32_t>::min()} - bits - 1;
}
constexpr float value_of(std::int64_t key) noexcept {
  const auto bits = key >= 0 ? key : std::int64_t{std::numeric_limits<std::int32_t>::min()} - key - 1;
  return std::bit_cast<float>(static_cast<std::int32_t>(bits));
}

constexpr std::int64_t lowest_key = key_of(-std::numeric_limits<float>::infinity());
constexpr std::int64_t highest_key = key_of(std::numeric_limits<float>::infinity());

// For each channel the smallest z, along which bn(z * sign) does not fall, at which bn(z * sign) is beyond a level, by
// keys. sign is that of the scale.
class Bisection {
 public:
  Bisection(const Coefficients& forward, Index channels)
      : forward_(forward), channels_(channels), x_(channels), y_(channels), below_(channels), beyond_(channels) {}

  // `beyond(y)` says whether y is beyond the level.
  template <typename Beyond>
  void run(double level, const Beyond& beyond) {
    start(level);
    widen(beyond);
    for (bool any = true; any;) {
      any = false;
      for_each([&](Index i) { return below_.data()[i] + (beyond_.data()[i] - below_.data()[i]) / 2; });
      for (Index i = 0; i < channels_; ++i) {
        std::int64_t& below = below_.data()[i];
        std::int64_t& first = beyond_.data()[i];
        if (first - below <= 1) continue;
        const std::int64_t middle = below + (first - below) / 2;
        (beyond(y_.data()[i]) ? first : below) = middle;
        any = any || first - below > 1;
      }
    }
  }

  /// Keys: of the largest z that is not beyond the level, and of the smallest one that is.
  [[nodiscard]] std::int64_t below(Index channel) noexcept { return below_.data()[channel]; }
  [[nodiscard]] std::int64_t first_beyond(Index channel) noexcept { return beyond_.data()[channel]; }
  [[nodiscard]] float sign(Index channel) const noexcept { return forward_.x_scale[channel] < 0 ? -1.0F : 1.0F; }

 private:
  // bn of z * sign, z by key(channel), of all channels.
  template <typename Key>
  void for_each(const Key& key) {
    for (Index i = 0; i < channels_; ++i) x_.data()[i] = sign(i) * value_of(key(i));
    apply_rows<float>(Formula::forward, {x_.data(), nullptr, y_.data()}, 1, channels_, {}, forward_, Store::cached);
  }

  // Near where real numbers would meet the level.
  void start(double level) {
    for (Index i = 0; i < channels_; ++i) {
      const double x = forward_.mean[i] + (level - forward_.shift[i]) / forward_.x_scale[i];
      const double z =
          std::clamp<double>(sign(i) * x, std::numeric_limits<float>::lowest(), std::numeric_limits<float>::max());
      const std::int64_t key = std::isnan(z) ? 0 : key_of(static_cast<float>(z));
      constexpr std::int64_t near = 4;
      below_.data()[i] = std::max(key - near, lowest_key);
      beyond_.data()[i] = std::min(key + near, highest_key);
    }
  }

  // Until one end is not beyond the level and the other is. Infinity ends the search, and is not asked.
  template <typename Beyond>
  void widen(const Beyond& beyond) {
    constexpr std::int64_t factor = 32;
    for (bool any = true; any;) {
      any = false;
      for_each([&](Index i) { return below_.data()[i]; });
      for (Index i = 0; i < channels_; ++i) {
        std::int64_t& below = below_.data()[i];
        if (below == lowest_key || !beyond(y_.data()[i])) continue;
        const std::int64_t step = factor * (beyond_.data()[i] - below);
        beyond_.data()[i] = below;
        below = std::max(below - step, lowest_key);
        any = true;
      }
      for_each([&](Index i) { return beyond_.data()[i]; });
      for (Index i = 0; i < channels_; ++i) {
        std::int64_t& first = beyond_.data()[i];
        if (first == highest_key || beyond(y_.data()[i])) continue;
        const std::int64_t step = factor * (first - below_.data()[i]);
        below_.data()[i] = first;
        first = std::min(first + step, highest_key);
        any = true;
      }
    }
  }

  const Coefficients& forward_;
  Index channels_;
  ScratchArray<float> x_;
  ScratchArray<float> y_;
  ScratchArray<std::int64_t> below_;
  ScratchArray<std::int64_t> beyond_;
};

}  // namespace

bool has_window(Activation activation) noexcept {
  return activation == Activation::relu || activation == Activation::relu6;
}

bool set_windows(Activation activation, const Coefficients& forward, Index channels, const WindowTargets& to) {
  for (Index i = 0; i < channels; ++i) {
    if (!std::isfinite(forward.mean[i]) || !std::isfinite(forward.x_scale[i]) || !std::isfinite(forward.shift[i])) {
      return false;
    }
  }
  Bisection bisection(forward, channels);
  bisection.run(0, [](float y) { return y > 0; });
  for (Index i = 0; i < channels; ++i) {
    const bool rises = bisection.sign(i) > 0;
    const float bound = bisection.sign(i) * value_of(bisection.below(i));
    to.lower[i] = rises ? bound : -std::numeric_limits<float>::infinity();
    to.upper[i] = rises ? std::numeric_limits<float>::infinity() : bound;
  }
  if (activation != Activation::relu6) return true;
  bisection.run(6, [](float y) { return y >= 6; });
  for (Index i = 0; i < channels; ++i) {
    const float bound = bisection.sign(i) * value_of(bisection.first_beyond(i));
    (bisection.sign(i) > 0 ? to.upper : to.lower)[i] = bound;
  }
  return true;
}

}  // namespace exactnorm

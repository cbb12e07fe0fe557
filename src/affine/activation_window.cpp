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
constexpr std::int32_t key_of(float value) noexcept {
  const auto bits = std::bit_cast<std::int32_t>(value);
  return bits ^ ((bits >> 31) & std::numeric_limits<std::int32_t>::max());
}
constexpr float value_of(std::int32_t key) noexcept {
  return std::bit_cast<float>(key ^ ((key >> 31) & std::numeric_limits<std::int32_t>::max()));
}

constexpr std::int32_t lowest_key = key_of(-std::numeric_limits<float>::infinity());
constexpr std::int32_t highest_key = key_of(std::numeric_limits<float>::infinity());

// key + step, within infinities.
std::int32_t moved(std::int32_t key, std::int64_t step) noexcept {
  return static_cast<std::int32_t>(std::clamp<std::int64_t>(key + step, lowest_key, highest_key));
}

// For each channel the smallest z, along which bn(z * sign) does not fall, at which bn(z * sign) is beyond a level, by
// keys. sign is that of the scale. Loops over channels are such that compilers make vectors of them.
class Bisection {
 public:
  Bisection(const Coefficients& forward, Index channels)
      : forward_(forward),
        channels_(channels),
        memory_(channels),
        sign_(memory_.sign.data()),
        x_(memory_.x.data()),
        y_(memory_.y.data()),
        below_(memory_.below.data()),
        beyond_(memory_.beyond.data()) {
    for (Index i = 0; i < channels_; ++i) sign_[i] = forward_.x_scale[i] < 0 ? -1.0F : 1.0F;
  }

  // `is_beyond(y)` says whether y is beyond the level.
  template <typename IsBeyond>
  void run(double level, const IsBeyond& is_beyond) {
    start(level);
    widen(is_beyond);
    for (bool any = true; any;) {
      const auto middle = [&](Index i) { return (below_[i] >> 1) + (beyond_[i] >> 1) + (below_[i] & beyond_[i] & 1); };
      evaluate(middle);
      std::uint32_t between = 0;  // numbers between the two, or'ed
      for (Index i = 0; i < channels_; ++i) {
        const std::int32_t key = middle(i);  // `below` again where the two are neighbours
        const std::int32_t is = is_beyond(y_[i]) ? -1 : 0;
        beyond_[i] = (key & is) | (beyond_[i] & ~is);
        below_[i] = (below_[i] & is) | (key & ~is);
        between |= static_cast<std::uint32_t>(beyond_[i]) - static_cast<std::uint32_t>(below_[i]) - 1;
      }
      any = between != 0;
    }
  }

  /// The largest z that is not beyond the level, and the smallest one that is.
  [[nodiscard]] float below(Index channel) const noexcept { return value_of(below_[channel]); }
  [[nodiscard]] float first_beyond(Index channel) const noexcept { return value_of(beyond_[channel]); }
  [[nodiscard]] float sign(Index channel) const noexcept { return sign_[channel]; }

 private:
  // bn of z * sign, z by key(channel), of all channels.
  template <typename Key>
  void evaluate(const Key& key) {
    for (Index i = 0; i < channels_; ++i) x_[i] = sign_[i] * value_of(key(i));
    apply_rows<float>(Formula::forward, {x_, nullptr, y_}, 1, channels_, {}, forward_, Store::cached);
  }

  // Near where real numbers would meet the level.
  void start(double level) {
    constexpr double largest = std::numeric_limits<float>::max();
    for (Index i = 0; i < channels_; ++i) {
      const double x = forward_.mean[i] + (level - forward_.shift[i]) / forward_.x_scale[i];
      const double z = std::clamp(sign_[i] * x, -largest, largest);
      const std::int32_t key = std::isnan(z) ? 0 : key_of(static_cast<float>(z));
      constexpr std::int32_t near = 4;
      below_[i] = moved(key, -near);
      beyond_[i] = moved(key, near);
    }
  }

  // Until one end is not beyond the level and the other is. Infinity ends the search, and is not asked.
  template <typename IsBeyond>
  void widen(const IsBeyond& is_beyond) {
    constexpr std::int64_t factor = 32;
    const auto width = [&](Index i) { return factor * (std::int64_t{beyond_[i]} - below_[i]); };
    for (bool any = true; any;) {
      any = false;
      evaluate([&](Index i) { return below_[i]; });
      for (Index i = 0; i < channels_; ++i) any |= below_[i] != lowest_key && is_beyond(y_[i]);
      for (Index i = 0; any && i < channels_; ++i) {
        if (below_[i] == lowest_key || !is_beyond(y_[i])) continue;
        const std::int32_t next = moved(below_[i], -width(i));
        beyond_[i] = below_[i];
        below_[i] = next;
      }
    }
    for (bool any = true; any;) {
      any = false;
      evaluate([&](Index i) { return beyond_[i]; });
      for (Index i = 0; i < channels_; ++i) any |= beyond_[i] != highest_key && !is_beyond(y_[i]);
      for (Index i = 0; any && i < channels_; ++i) {
        if (beyond_[i] == highest_key || is_beyond(y_[i])) continue;
        const std::int32_t next = moved(beyond_[i], width(i));
        below_[i] = beyond_[i];
        beyond_[i] = next;
      }
    }
  }

  struct Memory {
    explicit Memory(Index channels) : sign(channels), x(channels), y(channels), below(channels), beyond(channels) {}
    ScratchArray<float> sign;
    ScratchArray<float> x;
    ScratchArray<float> y;
    ScratchArray<std::int32_t> below;
    ScratchArray<std::int32_t> beyond;
  };

  const Coefficients& forward_;
  Index channels_;
  Memory memory_;
  float* sign_;
  float* x_;
  float* y_;
  std::int32_t* below_;
  std::int32_t* beyond_;
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
    const float bound = bisection.sign(i) * bisection.below(i);
    to.lower[i] = rises ? bound : -std::numeric_limits<float>::infinity();
    to.upper[i] = rises ? std::numeric_limits<float>::infinity() : bound;
  }
  if (activation != Activation::relu6) return true;
  bisection.run(6, [](float y) { return y >= 6; });
  for (Index i = 0; i < channels; ++i) {
    const float bound = bisection.sign(i) * bisection.first_beyond(i);
    (bisection.sign(i) > 0 ? to.upper : to.lower)[i] = bound;
  }
  return true;
}

}  // namespace exactnorm

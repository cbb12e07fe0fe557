#include "randomized/case.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <sstream>

#include "support/tensor.h"

namespace exactnorm::testing {

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

template <typename Values>
auto one_of(Random& random, const Values& values) {
  return values[static_cast<std::size_t>(random.between(0, static_cast<Index>(std::size(values)) - 1))];
}

// A number that `dtype` holds.
double rounded_to(DType dtype, double value) {
  if (dtype == DType::float64) return value;
  if (size_of(dtype) == 2 && is_floating(dtype)) {
    const HalfFormat format = format_of(dtype);
    return std::isfinite(value) ? rounded(format, std::clamp(value, -largest_of(format), largest_of(format))) : value;
  }
  if (dtype == DType::float32) {
    constexpr double largest = std::numeric_limits<float>::max();
    return std::isfinite(value) ? static_cast<float>(std::clamp(value, -largest, largest)) : value;
  }
  return with_type(dtype, [&](auto type) {
    using Integer = decltype(type);
    if constexpr (std::numeric_limits<Integer>::is_integer) {
      // Beyond 2^53 the library rounds int64 first, which is another subject.
      constexpr double most = 0x1p53;
      constexpr auto low = static_cast<double>(std::numeric_limits<Integer>::min());
      constexpr auto high = static_cast<double>(std::numeric_limits<Integer>::max());
      value = std::round(std::clamp(value, std::max(low, -most), std::min(high, most)));
    }
    return value;
  });
}

// The numbers of one tensor, drawn in the order of its elements.
class Source {
 public:
  Source(Random& random, DType dtype, Content content, Index count)
      : random_(random),
        dtype_(dtype),
        content_(content),
        exponents_(exponents_of(dtype)),
        scale_(std::ldexp(1.0, static_cast<int>(random.between(exponents_.low_scale, exponents_.high_scale)))),
        mean_(content == Content::large_mean ? std::pow(10.0, random.uniform(1, 9)) : random.uniform(-3, 3)),
        outlier_at_(random.between(0, count - 1)),
        step_(static_cast<int>(random.between(1, random.chance(0.5) ? 15 : 60))),
        growth_at_(random.chance(0.5) ? random.between(1, 64) : random.between(1, count)) {
    if (content == Content::growing && dtype == DType::float32) scale_ = std::ldexp(scale_, -20);
  }

  double next() {
    const Index at = drawn_++;
    switch (content_) {
      case Content::constant:
        return rounded_to(dtype_, scale_ * mean_);
      case Content::tails:
        return random_.chance(0.1) ? 0 : rounded_to(dtype_, tail());
      case Content::subnormal:
        return rounded_to(dtype_, std::ldexp(random_.normal(), exponents_.subnormal));
      case Content::outlier:
        return rounded_to(dtype_, at == outlier_at_ ? scale_ * std::ldexp(1.0, step_) : scale_ * random_.normal());
      case Content::growing:
        // Often of one sign, as sums of many then grow the most.
        return rounded_to(
            dtype_, scale_ * (std::fabs(random_.normal()) + mean_) * (at < growth_at_ ? 1.0 : std::ldexp(1.0, step_)));
      case Content::normal:
      case Content::large_mean:
        break;
    }
    return rounded_to(dtype_, scale_ * (random_.normal() + mean_));
  }

 private:
  double tail() { return random_.of_exponent(exponents_.low_tail, exponents_.high_tail); }

  // Of powers of two: the sizes of ordinary numbers, of subnormal ones, and all there are.
  struct Exponents {
    int low_scale;
    int high_scale;
    int subnormal;
    int low_tail;
    int high_tail;
  };
  static Exponents exponents_of(DType dtype) {
    switch (dtype) {
      case DType::float32:
        return {-30, 30, -135, -149, 126};
      case DType::float64:
        return {-60, 60, -1040, -140, 120};
      case DType::bfloat16:
        return {-30, 30, -130, -133, 126};
      case DType::float16:
        return {-10, 8, -18, -24, 14};
      default:
        return {0, 6, 0, 0, 62};
    }
  }

  Random& random_;
  DType dtype_;
  Content content_;
  Exponents exponents_;
  double scale_;
  double mean_;
  Index outlier_at_;
  int step_;
  Index growth_at_;
  Index drawn_ = 0;
};

void sprinkle(Random& random, std::vector<double>& values) {
  const double probability = std::pow(10.0, random.uniform(-4, -1));
  for (double& value : values) {
    if (random.chance(probability)) value = one_of(random, std::array{infinity, -infinity, std::nan("")});
  }
}

}  // namespace

std::string name_of(Content content) {
  switch (content) {
    case Content::large_mean:
      return "large mean";
    case Content::constant:
      return "constant";
    case Content::tails:
      return "tails";
    case Content::outlier:
      return "outlier";
    case Content::subnormal:
      return "subnormal";
    case Content::growing:
      return "growing";
    case Content::normal:
      break;
  }
  return "normal";
}

void Case::choose_shape(Random& random, bool dy_outgrows_exponents) {
  // Some elements for each of several threads in some cases, which take as long as twenty small ones.
  const bool is_large = random.chance(dy_outgrows_exponents ? 0.4 : 0.08);
  const Index most = is_large ? 110'000 : random.chance(0.5) ? 60 : 2'500;
  const Index rank = random.between(1, is_large ? 4 : 5);
  Index left = most;
  for (Index i = 0; i < rank; ++i) {
    const double exponent = random.uniform(0, i + 1 == rank && is_large ? 1.0 : 0.8);
    const Index size = std::max<Index>(1, static_cast<Index>(std::pow(static_cast<double>(left), exponent)));
    shape.push_back(size);
    left = std::max<Index>(left / size, 1);
  }
  if (is_large) shape[static_cast<std::size_t>(random.between(0, rank - 1))] *= left;
  random.shuffle(shape);
  options.channel_axes = {};
  for (Index axis = 0; axis < rank; ++axis) {
    if (random.chance(1.2 / static_cast<double>(rank + 1))) options.channel_axes.push_back(axis);
  }
}

Case::Case(std::uint64_t case_seed) : seed(case_seed) {
  Random random(seed);
  constexpr std::array x_dtypes = {DType::float32,  DType::float32,  DType::float32, DType::float64, DType::float64,
                                   DType::uint8,    DType::int8,     DType::int16,   DType::int32,   DType::int64,
                                   DType::bfloat16, DType::bfloat16, DType::float16, DType::float16, DType::uint16,
                                   DType::uint32,   DType::boolean};
  constexpr std::array other_dtypes = {DType::float32, DType::float32, DType::float32,  DType::float32,
                                       DType::float64, DType::float64, DType::bfloat16, DType::float16};
  x_dtype = one_of(random, x_dtypes);
  dy_dtype = one_of(random, other_dtypes);
  out_dtype = one_of(random, other_dtypes);
  // Numbers that outgrow the exponents they began with, beside others that the quick sums cannot take: in one case of
  // six, as they meet seldom by chance.
  const bool dy_outgrows_exponents = random.chance(0.16);
  if (dy_outgrows_exponents) x_dtype = dy_dtype = DType::float32;
  choose_shape(random, dy_outgrows_exponents);
  options.epsilon = random.chance(0.2) ? 0 : random.chance(0.1) ? 0x1p-1000 : std::pow(10.0, random.uniform(-12, 0));
  options.epsilon_placement = random.chance(0.7) ? EpsilonPlacement::variance : EpsilonPlacement::deviation;
  x_content = one_of(random, contents);
  dy_content = one_of(random, contents);
  if (dy_outgrows_exponents) dy_content = Content::growing;
  x_has_nonfinite = dy_outgrows_exponents || (is_floating(x_dtype) && random.chance(0.25));
  dy_has_nonfinite = random.chance(0.15);

  // Beside a smaller epsilon, the inverse of its deviation would exceed float64's range.
  if (x_dtype == DType::float64 && x_content == Content::subnormal) options.epsilon = 1e-5;
  const Index count = product(shape);
  Source x_source(random, x_dtype, x_content, count);
  Source dy_source(random, dy_dtype, dy_content, count);
  for (Index i = 0; i < count; ++i) {
    x.push_back(x_source.next());
    dy.push_back(dy_source.next());
  }
  if (x_has_nonfinite) sprinkle(random, x);
  if (dy_has_nonfinite) sprinkle(random, dy);

  Index channel_count = 1;
  for (const Index axis : options.channel_axes) channel_count *= shape[static_cast<std::size_t>(axis)];
  for (Index channel = 0; channel < channel_count; ++channel) {
    gamma.push_back(random.chance(0.1) ? 1 : random.chance(0.03) ? 0 : random.of_exponent(-8, 8));
    beta.push_back(random.chance(0.2) ? 0 : random.of_exponent(-8, 8));
    given_mean.push_back(random.of_exponent(-20, 20));
    given_variance.push_back(std::fabs(random.of_exponent(-20, 20)));
  }
  choose_masked_passes(random);
}

void Case::choose_masked_passes(Random& random) {
  masked_options = options;
  masked_options.activation =
      static_cast<Activation>(random.between(0, static_cast<Index>(activation_names.size()) - 1));
  masked_options.slope = random.uniform(-1, 2);
  if (random.chance(0.4)) {
    for (std::size_t i = 0; i < x.size(); ++i) residual.push_back(rounded_to(DType::float32, random.normal()));
  }
  mask_shape = shape;
  for (const Index axis : options.channel_axes) mask_shape[static_cast<std::size_t>(axis)] = 1;
  for (Index& size : mask_shape) size = random.chance(0.1) ? 1 : size;
  const double density = one_of(random, std::array{0.0, 0.02, 0.5, 0.5, 0.98, 1.0});
  for (Index i = 0; i < product(mask_shape); ++i) mask.push_back(random.chance(density) ? 1 : 0);
  masked_output = one_of(random, std::array{MaskedOutput::zero, MaskedOutput::normalized, MaskedOutput::untouched});
}

std::vector<Index> Case::channel_of_elements() const {
  std::vector<Index> channel_of;
  for (Index i = 0; i < product(shape); ++i) {
    const IndexList indices = unravel(i, shape);
    Index channel = 0;
    for (const Index axis : options.channel_axes) {
      const auto at = static_cast<std::size_t>(axis);
      channel = channel * shape[at] + indices[at];
    }
    channel_of.push_back(channel);
  }
  return channel_of;
}

std::string Case::description() const {
  std::ostringstream text;
  text << "case " << seed << ": x " << name_of(x_dtype) << ' ' << name_of(x_content)
       << (x_has_nonfinite ? " with NaN and infinity" : "") << ", dy " << name_of(dy_dtype) << ' '
       << name_of(dy_content) << (dy_has_nonfinite ? " with NaN and infinity" : "") << ", output " << name_of(out_dtype)
       << ", shape " << to_string(shape) << ", channel_axes " << to_string(options.channel_axes) << ", epsilon "
       << options.epsilon
       << (options.epsilon_placement == EpsilonPlacement::variance ? " in the variance" : " in the deviation")
       << ", masked passes: " << activation_names[static_cast<std::size_t>(masked_options.activation)] << ", slope "
       << masked_options.slope << (residual.empty() ? "" : ", a residual") << ", mask " << to_string(mask_shape)
       << " of " << std::count(mask.begin(), mask.end(), 1.0) << " true, output " << static_cast<int>(masked_output);
  return text.str();
}

}  // namespace exactnorm::testing

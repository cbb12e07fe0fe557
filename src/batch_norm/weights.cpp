#include "exactnorm/weights.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <vector>

#include "batch_norm/accumulate.h"
#include "batch_norm/blocks.h"
#include "batch_norm/pieces.h"
#include "batch_norm/weight_total.h"
#include "sums/byte_string.h"
#include "sums/exact_finalize.h"
#include "sums/superaccumulator.h"
#include "tensor/checks.h"
#include "tensor/element_type.h"
#include "tensor/elements.h"
#include "traverse/floating_point.h"

namespace exactnorm {

struct WeightedMomentsAccess {
  static PartialSums& products(WeightedMoments& moments) { return moments.products_; }
  static PartialSums& weights(WeightedMoments& moments) { return moments.weights_; }
  static const PartialSums& products(const WeightedMoments& moments) { return moments.products_; }
  static const PartialSums& weights(const WeightedMoments& moments) { return moments.weights_; }
  static bool fits_float32(const WeightedMoments& moments) { return moments.fits_float32_; }
  static void add(WeightedMoments& moments, Index count, bool fits_float32) {
    moments.count_ += count;
    moments.fits_float32_ = moments.fits_float32_ && fits_float32;
  }
};

namespace {

using Access = WeightedMomentsAccess;
constexpr Index largest_count = Index{1} << 62;
constexpr auto extended = PartialSums::Range::extended;

}  // namespace

WeightedMoments::WeightedMoments(Index channels)
    : products_(channels, PartialSums::Kind::gradients, extended), weights_(1, PartialSums::Kind::moments, extended) {}

void WeightedMoments::merge(const WeightedMoments& other) {
  if (other.count_ > largest_count - count_)
    throw Error("other", "has too many elements; expected at most 2^62 in all");
  PartialSums products = products_;
  products.merge(other.products_);
  weights_.merge(other.weights_);
  products_ = std::move(products);
  count_ += other.count_;
  fits_float32_ = fits_float32_ && other.fits_float32_;
}

bool operator==(const WeightedMoments& a, const WeightedMoments& b) {
  // The sums alone: how often elements were added is no part of them.
  const auto same = [](const PartialSums& p, const PartialSums& q) {
    const auto words = static_cast<std::size_t>(format_of(p.kind(), extended).words_per_channel());
    for (Index channel = 0; channel < p.channels(); ++channel) {
      const std::uint64_t* const first = PartialSumsAccess::words(p, channel, 0);
      if (!std::equal(first, first + words, PartialSumsAccess::words(q, channel, 0))) return false;
      if ((p.nonfinite_count(channel) > 0) != (q.nonfinite_count(channel) > 0)) return false;
    }
    return true;
  };
  return a.channels() == b.channels() && a.count_ == b.count_ && a.fits_float32_ == b.fits_float32_ &&
         same(a.products_, b.products_) && same(a.weights_, b.weights_);
}

namespace {

constexpr std::size_t header_size = 32;
constexpr std::array<char, 8> magic = {'e', 'x', 'n', 'w', 't', 'd', '0', '1'};

}  // namespace

std::vector<std::byte> WeightedMoments::serialize() const {
  const std::vector<std::byte> products = products_.serialize();
  const std::vector<std::byte> weights = weights_.serialize();
  std::vector<std::byte> bytes;
  bytes.reserve(header_size + weights.size() + products.size());
  for (const char letter : magic) bytes.push_back(static_cast<std::byte>(letter));
  append(bytes, static_cast<std::uint64_t>(count_));
  append(bytes, fits_float32_ ? 1 : 0);
  append(bytes, weights.size());
  bytes.insert(bytes.end(), weights.begin(), weights.end());
  bytes.insert(bytes.end(), products.begin(), products.end());
  return bytes;
}

WeightedMoments WeightedMoments::deserialize(std::span<const std::byte> bytes) {
  const auto reject = [](const std::string& problem) {
    throw Error("bytes", problem + "; expected what WeightedMoments::serialize writes");
  };
  if (bytes.size() < header_size) reject("are " + std::to_string(bytes.size()) + " bytes");
  if (std::memcmp(bytes.data(), magic.data(), magic.size()) != 0) reject("start with another signature");
  const std::uint64_t count = read_integer(bytes, 8);
  const std::uint64_t fits = read_integer(bytes, 16);
  const std::uint64_t size = read_integer(bytes, 24);
  if (count > static_cast<std::uint64_t>(largest_count)) reject("have a count above 2^62");
  if (fits > 1 || size > bytes.size() - header_size) reject("have an unknown header");
  WeightedMoments moments(0);
  moments.weights_ = PartialSums::deserialize(bytes.subspan(header_size, size));
  moments.products_ = PartialSums::deserialize(bytes.subspan(header_size + size));
  const PartialSums& products = moments.products_;
  const PartialSums& weights = moments.weights_;
  if (products.kind() != PartialSums::Kind::gradients || weights.kind() != PartialSums::Kind::moments ||
      weights.channels() != 1 || products.range() != extended || weights.range() != extended) {
    reject("have sums of another kind");
  }
  moments.count_ = static_cast<Index>(count);
  moments.fits_float32_ = fits == 1;
  return moments;
}

namespace {

// Throws Error where a weight is impossible, and returns what they add to the count.
Index count_of(const TensorView& weights) {
  std::vector<double> values(static_cast<std::size_t>(element_count(weights.shape)));
  read_values(weights, values.data());
  const bool are_counts = !is_floating(weights.dtype);
  double sum = 0;
  Index count = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!(values[i] >= 0) || !std::isfinite(values[i])) {
      throw Error("weights", "have " + to_text(values[i]) + " as element " + std::to_string(i) +
                                 "; expected finite numbers, 0 or more");
    }
    sum += values[i];
    count += are_counts ? static_cast<Index>(std::min(values[i], 0x1p62)) : Index{values[i] != 0};
    if (are_counts && sum > 0x1p62) throw Error("weights", "add up to more than 2^62; expected less");
  }
  return count;
}

TensorView dense_view(const std::vector<double>& values, const IndexList& shape) { return view(values.data(), shape); }

// w * x without an error, as product + rest; nothing where w is 0.
class Products {
 public:
  void set(const TensorView& x, const TensorView& weights) {
    const auto size = static_cast<std::size_t>(element_count(x.shape));
    for (std::vector<double>* values : {&x_, &weights_, &products_, &rests_}) values->resize(size);
    shape_ = x.shape;
    read_values(x, x_.data());
    read_values(weights, weights_.data());
    for (std::size_t i = 0; i < size; ++i) set_element(i);
  }
  [[nodiscard]] TensorView x() const { return dense_view(x_, shape_); }
  [[nodiscard]] TensorView products() const { return dense_view(products_, shape_); }
  [[nodiscard]] TensorView rests() const { return dense_view(rests_, shape_); }

 private:
  void set_element(std::size_t i) {
    const double weight = weights_[i];
    double& x = x_[i];
    if (weight == 0) x = 0;
    const double product = weight * x;
    rests_[i] = 0;
    products_[i] = std::isfinite(x) ? product : x;
    if (x == 0 || !std::isfinite(x)) return;
    const double magnitude = std::abs(product);
    if (!(magnitude >= 0x1p-968 && std::isfinite(product))) {
      throw Error("weights", "have " + to_text(weight) + " for an x of " + to_text(x) +
                                 "; expected products of 2^-968 to 2^1023, or 0");
    }
    rests_[i] = std::fma(weight, x, -product);
  }

  IndexList shape_;
  std::vector<double> x_;
  std::vector<double> weights_;
  std::vector<double> products_;
  std::vector<double> rests_;
};

}  // namespace

namespace {

// What is added, and how the channels of x are numbered among those of `moments`.
struct Addition {
  const TensorView& x;
  const TensorView& weights;
  const IndexList& axes;
  ChannelMap channels;
  bool has_channel_0;  // and with it the weights' own sum
};

// x, the options and the channels are checked.
void add(WeightedMoments& moments, const Addition& addition, const Options& options) {
  // No structured binding: Clang 14 has none in lambdas.
  const TensorView& x = addition.x;
  const TensorView& weights = addition.weights;
  const IndexList& axes = addition.axes;
  const ChannelMap& numbers = addition.channels;
  const bool has_channel_0 = addition.has_channel_0;
  check_view("weights", weights);
  const TensorView spread = spread_reduced("weights", weights, axes, x);
  if (element_count(x.shape) == 0) return;
  const WeightTotal total = total_of(weights, spread, axes, options.threads);

  // Into sums of their own: an error half way changes nothing.
  WeightedMoments added(moments.channels());
  Access::add(added, has_channel_0 ? total.count : 0, dtype_fits_float32(x.dtype));
  if (has_channel_0) Access::weights(added) = total.sum;
  Products products;
  std::vector<std::size_t> every_axis(x.rank());
  std::iota(every_axis.begin(), every_axis.end(), std::size_t{0});
  for_each_piece(x.shape, every_axis, [&](const Piece& piece) {
    products.set(piece.of(x), piece.of(spread));
    ChannelMap of_channels = numbers;
    for (std::size_t axis = 0; axis < x.rank(); ++axis) {
      of_channels.offset += piece.begin[axis] * numbers.strides[axis];
    }
    for (const TensorView& of_x : {products.products(), products.rests()}) {
      const std::array operands = {of_x, products.x()};
      accumulate_part(Access::products(added), operands, nullptr, axes, of_channels, options.threads);
    }
  });
  // Non-finite elements are counted with those of dy and x; PartialSums want no more of them than elements.
  Access::products(added).add_count(2 * (element_count(x.shape) / channel_count(axes, x)));
  moments.merge(added);
}

}  // namespace

WeightTotal total_of(const TensorView& weights, const TensorView& spread, const IndexList& channel_axes, int threads) {
  TensorView of_one_channel = spread;
  for (const Index axis : channel_axes) of_one_channel.shape[static_cast<std::size_t>(axis)] = 1;
  const Index repeats = element_count(of_one_channel.shape) / element_count(weights.shape);
  const Index count = count_of(weights);
  if (count > largest_count / repeats) throw Error("weights", "add up to more than 2^62; expected less");
  WeightTotal total = {PartialSums(1, PartialSums::Kind::moments, extended), repeats * count};
  accumulate(total.sum, of_one_channel, {.channel_axes = {}, .threads = threads});
  return total;
}

void accumulate(WeightedMoments& moments, const TensorView& x, const TensorView& weights, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  check_view("x", x);
  const IndexList axes = resolve_channel_axes(options.channel_axes, x);
  const Index channels = channel_count(axes, x);
  if (channels != moments.channels()) {
    throw Error("x", "has " + std::to_string(channels) + " channels; expected " + std::to_string(moments.channels()) +
                         ", as in moments");
  }
  add(moments, {x, weights, axes, number_channels(axes, x.shape), true}, options);
}

void accumulate(WeightedMoments& moments, const TensorView& x, const Place& place, const TensorView& weights,
                const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  check_view("x", x);
  const IndexList axes = check_place_channels(place, x, options.channel_axes, moments.channels(), "moments");
  const bool has_channel_0 = std::all_of(axes.begin(), axes.end(),
                                         [&](Index axis) { return place.begin[static_cast<std::size_t>(axis)] == 0; });
  add(moments, {x, weights, axes, number_channels_in(place, axes), has_channel_0}, options);
}

namespace {

Statistics finalize_all(const WeightedMoments& moments, const Options& options, bool is_on_grid) {
  const DefaultFloatingPoint default_floating_point;
  check_options(options);
  Statistics statistics = make_statistics(moments.channels(), moments.count(), options);
  for (Index channel = 0; channel < moments.channels(); ++channel) {
    set_channel(mutable_view(statistics), channel,
                finalize_weighted(Access::products(moments), Access::weights(moments), channel, options, is_on_grid));
  }
  statistics.counts.assign(statistics.mean.size(), moments.count());
  return statistics;
}

}  // namespace

Statistics statistics_of(const WeightedMoments& moments, const Options& options) {
  return finalize_all(moments, options, false);
}

Statistics normalizing_statistics(const WeightedMoments& moments, const Options& options) {
  return finalize_all(moments, options, Access::fits_float32(moments));
}

Deviations deviations_of(const WeightedMoments& moments) {
  const DefaultFloatingPoint default_floating_point;
  Deviations deviations;
  for (Index channel = 0; channel < moments.channels(); ++channel) {
    const ChannelDeviations of_channel =
        finalize_weighted_deviations(Access::products(moments), Access::weights(moments), channel);
    deviations.biased.push_back(of_channel.biased);
    deviations.unbiased.push_back(of_channel.unbiased);
  }
  return deviations;
}

}  // namespace exactnorm

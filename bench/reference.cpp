#include "reference.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "channel_groups.h"

namespace exactnorm::bench {
namespace {

// What docs/semantics.md promises: y within 4 units of the largest term, dx within 5 of the lesser terms and 1 of
// itself, sums within 1 of themselves. Those for float64 are finer than what this reference, which rounds to 64 bits at
// every step, can judge on millions of elements.
template <typename T>
constexpr long double unit = std::is_same_v<T, float> ? 1.001L * 0x1p-24L : 2e-14L;
// To how many bits statistics of float32 data, and sums of gradients over them, are rounded.
template <typename T>
constexpr long double grid = std::is_same_v<T, float> ? 0x1p-31L : 0;
constexpr long double comparable = 1e-3L;
// Of the sum of all absolute terms: sums of random signs are small beside it.
constexpr long double comparable_sum = 1e-4L;
constexpr long double reference_sum = 1e-16L;

std::size_t at_index(Index i) { return static_cast<std::size_t>(i); }

template <typename T>
bool is_near(T value, long double expected, long double tolerance) {
  // Not the other way round: NaN is not near.
  return std::fabs(static_cast<long double>(value) - expected) <=
         tolerance + static_cast<long double>(std::numeric_limits<T>::min());
}

}  // namespace

template <typename T>
Reference<T>::Reference(const Case& of, const Tensors<T>& tensors, const Parameters<T>& parameters, int threads)
    : operation_(of.operation),
      has_relu_(of.has_relu),
      count_(static_cast<long double>(tensors.placement.per_channel())),
      gamma_(parameters.gamma),
      beta_(parameters.beta),
      channels_(parameters.gamma.size()),
      threads_(threads) {
  if (operation_ == Operation::inference) {
    for (std::size_t c = 0; c < channels_.size(); ++c) {
      channels_[c].mean = parameters.mean[c];
      channels_[c].inverse_deviation =
          1 / std::sqrt(static_cast<long double>(parameters.variance[c]) + static_cast<long double>(epsilon));
    }
  }
  find_moments(tensors);
  if (operation_ == Operation::backward) find_gradients(tensors);
}

template <typename T>
void Reference<T>::find_moments(const Tensors<T>& tensors) {
  const Placement& at = tensors.placement;
  const T* x = tensors.x.template as<T>();
  for_channel_groups(at, threads_, [&](Index first, Index count) {
    Channel* const group = channels_.data() + first;
    if (operation_ != Operation::inference) {
      std::array<long double, group_size> sums{};
      for_pixels(at, first, [&](Index, Index, Index, Index offset) {
        for (Index c = 0; c < count; ++c) sums[at_index(c)] += x[offset + c];
      });
      for (Index c = 0; c < count; ++c) group[c].mean = sums[at_index(c)] / count_;
    }
    std::array<long double, group_size> squares{};
    for_pixels(at, first, [&](Index, Index, Index, Index offset) {
      for (Index c = 0; c < count; ++c) {
        const long double centered = x[offset + c] - group[c].mean;
        squares[at_index(c)] += centered * centered;
        group[c].largest_centered = std::max(group[c].largest_centered, std::fabs(centered));
      }
    });
    if (operation_ == Operation::inference) return;
    for (Index c = 0; c < count; ++c) {
      group[c].deviation = std::sqrt(squares[at_index(c)] / count_);
      group[c].inverse_deviation = 1 / std::sqrt(squares[at_index(c)] / count_ + static_cast<long double>(epsilon));
    }
  });
}

template <typename T>
void Reference<T>::find_gradients(const Tensors<T>& tensors) {
  const Placement& at = tensors.placement;
  const T* x = tensors.x.template as<T>();
  const T* dy = tensors.dy.template as<T>();
  for_channel_groups(at, threads_, [&](Index first, Index count) {
    std::array<Channel, group_size> group{};
    std::copy_n(channels_.data() + first, count, group.data());
    for_pixels(at, first, [&](Index, Index, Index, Index offset) {
      for (Index c = 0; c < count; ++c) {
        Channel& channel = group[at_index(c)];
        const Gradient behind_relu = gradient_of(at_index(first + c), x[offset + c], dy[offset + c]);
        const long double gradient = behind_relu.value;
        const long double centered = x[offset + c] - channel.mean;
        const long double product = gradient * centered;
        if (behind_relu.is_doubtful) {
          channel.doubtful_dy += std::fabs(static_cast<long double>(dy[offset + c]));
          channel.doubtful_products += std::fabs(dy[offset + c] * centered);
        }
        channel.sum_of_dy += gradient;
        channel.sum_of_products += product;
        channel.size_of_dy += std::fabs(gradient);
        channel.size_of_products += std::fabs(product);
        channel.squares_of_dy += gradient * gradient;
        channel.largest_dy = std::max(channel.largest_dy, std::fabs(gradient));
      }
    });
    std::copy_n(group.data(), count, channels_.data() + first);
  });
}

template <typename T>
typename Reference<T>::Gradient Reference<T>::gradient_of(std::size_t c, T x, T dy) const {
  if (!has_relu_) return {static_cast<long double>(dy), false};
  const Channel& channel = channels_[c];
  const long double scaled = gamma_[c] * channel.inverse_deviation * (x - channel.mean);
  const long double y = scaled + beta_[c];
  constexpr long double doubt = 1e-3L;
  return {y > 0 ? static_cast<long double>(dy) : 0, std::fabs(y) < doubt * (std::fabs(scaled) + doubt)};
}

template <typename T>
typename Reference<T>::Expected Reference<T>::expected_y(std::size_t c, T x, Standard standard) const {
  const Channel& channel = channels_[c];
  const long double scale = gamma_[c] * channel.inverse_deviation;
  const long double scaled = (x - channel.mean) * scale;
  const long double beta = beta_[c];
  const long double y = scaled + beta;
  const long double tolerance =
      standard == Standard::promised
          ? (4 * unit<T> + grid<T>)*std::max({std::fabs(y), std::fabs(beta), std::fabs(scaled)}) +
                (grid<T> / 8 + 0x1p-43L) * std::fabs(gamma_[c])
          : comparable * std::max(std::fabs(scale) * channel.largest_centered, std::fabs(beta));
  return {has_relu_ ? std::max(y, 0.0L) : y, tolerance};
}

template <typename T>
typename Reference<T>::Expected Reference<T>::expected_dx(std::size_t c, T x, T dy, Standard standard) const {
  const Channel& channel = channels_[c];
  const long double scale = gamma_[c] * channel.inverse_deviation;
  const long double shift = channel.sum_of_dy / count_;
  const long double slope = channel.inverse_deviation * channel.inverse_deviation * channel.sum_of_products / count_;
  const long double centered = x - channel.mean;
  const long double by_variance = centered * slope;
  const Gradient gradient = gradient_of(c, x, dy);
  const long double dx = gradient.value - shift - by_variance;
  const long double of_doubt = (channel.doubtful_dy + channel.doubtful_products * std::fabs(centered) *
                                                          channel.inverse_deviation * channel.inverse_deviation) /
                                   count_ +
                               (gradient.is_doubtful ? std::fabs(static_cast<long double>(dy)) : 0);
  const long double tolerance = standard == Standard::promised
                                    ? (unit<T> + grid<T>)*std::fabs(dx) +
                                          (5 * unit<T> + 4 * grid<T>)*(std::fabs(shift) + std::fabs(by_variance)) +
                                          grid<T> / 2 * std::sqrt(channel.squares_of_dy / count_)
                                    : comparable * (channel.largest_dy + std::fabs(slope) * channel.largest_centered);
  return {scale * dx, std::fabs(scale) * (tolerance + of_doubt)};
}

template <typename T>
std::string Reference<T>::problem_of_sums(const Tensors<T>& tensors, Standard standard) const {
  for (std::size_t c = 0; c < channels_.size(); ++c) {
    const Channel& channel = channels_[c];
    long double size_of_sums = std::sqrt(count_ * channel.squares_of_dy);
    const auto tolerance = [&](long double sum, long double size) {
      return standard == Standard::promised
                 ? (unit<T> + grid<T>)*std::fabs(sum) + reference_sum * size + grid<T> / 8 * size_of_sums
                 : comparable_sum * size;
    };
    const long double r = channel.inverse_deviation;
    if (!is_near(tensors.dbeta[c], channel.sum_of_dy,
                 tolerance(channel.sum_of_dy, channel.size_of_dy) + channel.doubtful_dy)) {
      return fmt::format("dbeta of channel {} is {}; expected {}", c, tensors.dbeta[c],
                         static_cast<double>(channel.sum_of_dy));
    }
    size_of_sums *= channel.deviation;
    if (!is_near(tensors.dgamma[c], r * channel.sum_of_products,
                 r * (tolerance(channel.sum_of_products, channel.size_of_products) + channel.doubtful_products))) {
      return fmt::format("dgamma of channel {} is {}; expected {}", c, tensors.dgamma[c],
                         static_cast<double>(r * channel.sum_of_products));
    }
  }
  return {};
}

template <typename T>
std::string Reference<T>::problem_of(const Tensors<T>& tensors, Standard standard) const {
  const bool is_backward = operation_ == Operation::backward;
  const Placement& at = tensors.placement;
  const T* x = tensors.x.template as<T>();
  const T* dy = is_backward ? tensors.dy.template as<T>() : nullptr;
  const T* output = tensors.output.template as<T>();
  std::string problem = is_backward ? problem_of_sums(tensors, standard) : std::string();
  for_channel_groups(at, threads_, [&](Index first, Index count) {
    std::string found;
    for_pixels(at, first, [&](Index n, Index h, Index w, Index offset) {
      for (Index i = offset; i < offset + count; ++i) {
        const Index c = first + i - offset;
        const Expected expected =
            is_backward ? expected_dx(at_index(c), x[i], dy[i], standard) : expected_y(at_index(c), x[i], standard);
        if (is_near(output[i], expected.value, expected.tolerance) || !found.empty()) continue;
        found =
            fmt::format("{} at n {}, c {}, h {}, w {} is {}; expected {} within {:.1e}", is_backward ? "dx" : "y", n, c,
                        h, w, output[i], static_cast<double>(expected.value), static_cast<double>(expected.tolerance));
      }
    });
    if (found.empty()) return;
#pragma omp critical(exactnorm_bench_problem)
    problem = found;
  });
  return problem;
}

template class Reference<float>;
template class Reference<double>;

}  // namespace exactnorm::bench

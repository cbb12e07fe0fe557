#pragma once

#include <cmath>
#include <cstddef>
#include <vector>

namespace exactnorm::cli {

/// Batch normalization as the textbook has it, in long double: the demonstration's idea of right, which shares
/// nothing with the library. z is (outer, channels, inner), row-major; `beside_deviation` says that epsilon is
/// added to the deviation rather than to the variance.
inline std::vector<long double> normalize_by_definition(const std::vector<float>& z, std::size_t channels,
                                                        std::size_t inner, long double epsilon, bool beside_deviation) {
  const std::size_t outer = z.size() / channels / inner;
  const auto count = static_cast<long double>(outer * inner);
  std::vector<long double> y(z.size());
  for (std::size_t channel = 0; channel < channels; ++channel) {
    const auto at = [&](std::size_t i) { return (i / inner * channels + channel) * inner + i % inner; };
    long double sum = 0;
    for (std::size_t i = 0; i < outer * inner; ++i) sum += z[at(i)];
    const long double mean = sum / count;
    long double sum_of_squares = 0;
    for (std::size_t i = 0; i < outer * inner; ++i) sum_of_squares += (z[at(i)] - mean) * (z[at(i)] - mean);
    const long double variance = sum_of_squares / count;
    const long double divisor = beside_deviation ? std::sqrt(variance) + epsilon : std::sqrt(variance + epsilon);
    for (std::size_t i = 0; i < outer * inner; ++i) y[at(i)] = (z[at(i)] - mean) / divisor;
  }
  return y;
}

}  // namespace exactnorm::cli

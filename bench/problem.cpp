#include "problem.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "channel_groups.h"

namespace exactnorm::bench {
namespace {

// Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014): a number for each index, in
// whatever order they are asked for.
std::uint64_t random_bits(std::uint64_t index) {
  std::uint64_t bits = index * 0x9e3779b97f4a7c15U + 0x9e3779b97f4a7c15U;
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9U;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebU;
  return bits ^ (bits >> 31);
}

// Mean 0, deviation 1, nearly normal: the sum of four uniform numbers.
double random_normal(std::uint64_t bits) {
  const auto part = [&](int i) { return static_cast<double>(bits >> (16 * i) & 0xffff); };
  constexpr double middle = 2 * 65535.0;
  constexpr double deviation = 37837.2;
  return (part(0) + part(1) + part(2) + part(3) - middle) / deviation;
}

double random_uniform(std::uint64_t bits) { return static_cast<double>(bits >> 11) * 0x1p-53; }

// Different numbers for x, for dy and for each parameter.
constexpr std::uint64_t seed_of_x = 0;
constexpr std::uint64_t seed_of_dy = std::uint64_t{1} << 60;
constexpr std::uint64_t seed_of_parameters = std::uint64_t{2} << 60;

double random_value(Data data, Index channel, std::uint64_t index) {
  const std::uint64_t bits = random_bits(index);
  // No channel is like another, and no mantissa ends in zeros.
  const double value =
      random_normal(bits) * (1 + 0.013 * static_cast<double>(channel % 71)) + 0.17 * static_cast<double>(channel % 13);
  if (data == Data::relu) return std::max(0.0, value);
  if (data == Data::wide) return std::ldexp(value, static_cast<int>(random_bits(~index) % 41) - 20);
  return value;
}

template <typename T>
void fill(T* to, const Placement& at, Data data, std::uint64_t seed, int threads) {
  for_channel_groups(at, threads, [&](Index first, Index count) {
    for_pixels(at, first, [&](Index n, Index h, Index w, Index offset) {
      for (Index c = 0; c < count; ++c) {
        const Index index = ((n * at.channels + first + c) * at.height + h) * at.width + w;
        to[offset + c] = static_cast<T>(random_value(data, first + c, seed + static_cast<std::uint64_t>(index)));
      }
    });
  });
}

}  // namespace

std::string name_of(Operation operation) {
  return operation == Operation::training ? "training" : operation == Operation::inference ? "inference" : "backward";
}

std::string operation_of(const Case& measured) {
  return name_of(measured.operation) + (measured.has_relu ? "+relu" : "");
}

std::string name_of(Data data) { return data == Data::normal ? "normal" : data == Data::relu ? "relu" : "wide"; }

template <typename T>
Parameters<T> make_parameters(Index channels) {
  Parameters<T> result;
  for (Index c = 0; c < channels; ++c) {
    const auto random = [&](std::uint64_t i) {
      return random_bits(seed_of_parameters + 4 * static_cast<std::uint64_t>(c) + i);
    };
    const double sign = c % 3 == 1 ? -1 : 1;
    result.gamma.push_back(static_cast<T>(sign * (0.5 + random_uniform(random(0)))));
    result.beta.push_back(static_cast<T>(random_normal(random(1))));
    result.mean.push_back(static_cast<T>(random_normal(random(2))));
    result.variance.push_back(static_cast<T>(0.5 + random_uniform(random(3))));
  }
  return result;
}

template <typename T>
Tensors<T>::Tensors(const Case& from, const Placement& at, int threads)
    : placement(at),
      x(static_cast<std::size_t>(at.span) * sizeof(T), threads),
      output(static_cast<std::size_t>(at.span) * sizeof(T), threads),
      dgamma(static_cast<std::size_t>(at.channels)),
      dbeta(static_cast<std::size_t>(at.channels)) {
  fill(x.as<T>(), at, from.data, seed_of_x, threads);
  if (from.operation != Operation::backward) return;
  dy = Memory(static_cast<std::size_t>(at.span) * sizeof(T), threads);
  fill(dy.as<T>(), at, Data::normal, seed_of_dy, threads);
}

template <typename T>
void Tensors<T>::forget_outputs() {
  constexpr T nan = std::numeric_limits<T>::quiet_NaN();
  std::fill_n(output.as<T>(), placement.span, nan);
  std::fill(dgamma.begin(), dgamma.end(), nan);
  std::fill(dbeta.begin(), dbeta.end(), nan);
}

std::size_t memory_of(const Case& from, const Placement& at) {
  const std::size_t tensor = static_cast<std::size_t>(at.span) * size_of(from.dtype);
  return tensor * (from.operation == Operation::backward ? 3 : 2);
}

template Parameters<float> make_parameters(Index channels);
template Parameters<double> make_parameters(Index channels);
template struct Tensors<float>;
template struct Tensors<double>;

}  // namespace exactnorm::bench

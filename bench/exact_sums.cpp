// What exactness costs: the exact sums of x and x * x beside plain float64 sums of the same, one thread.
// Prints the median of many rounds, both in turn. The plain sums are checked against the exact ones first.

#include <exactnorm/exactnorm.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "timing.h"

namespace {

using exactnorm::Index;
using exactnorm::bench::median;
using exactnorm::bench::milliseconds;

struct PlainSums {
  std::vector<double> sums;
  std::vector<double> squares;
};

// [outer][channel][inner], as a compiler vectorizes it: 16 independent accumulators along inner, or one
// accumulator per channel where inner is 1.
void plain_sums(const float* x, Index outer, Index channels, Index inner, PlainSums& result) {
  result.sums.assign(static_cast<std::size_t>(channels), 0);
  result.squares = result.sums;
  if (inner == 1) {
    for (Index row = 0; row < outer; ++row, x += channels) {
      for (Index c = 0; c < channels; ++c) {
        const auto value = static_cast<double>(x[c]);
        result.sums[static_cast<std::size_t>(c)] += value;
        result.squares[static_cast<std::size_t>(c)] += value * value;
      }
    }
    return;
  }
  constexpr Index lanes = 16;
  for (Index c = 0; c < channels; ++c) {
    double sums[lanes] = {};
    double squares[lanes] = {};
    for (Index o = 0; o < outer; ++o) {
      const float* run = x + (o * channels + c) * inner;
      Index i = 0;
      for (; i + lanes <= inner; i += lanes) {
        for (Index lane = 0; lane < lanes; ++lane) {
          const auto value = static_cast<double>(run[i + lane]);
          sums[lane] += value;
          squares[lane] += value * value;
        }
      }
      for (; i < inner; ++i) {
        sums[0] += static_cast<double>(run[i]);
        squares[0] += static_cast<double>(run[i]) * static_cast<double>(run[i]);
      }
    }
    for (Index lane = 0; lane < lanes; ++lane) {
      result.sums[static_cast<std::size_t>(c)] += sums[lane];
      result.squares[static_cast<std::size_t>(c)] += squares[lane];
    }
  }
}

bool run(const std::string& name, Index outer, Index channels, Index inner) {
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(outer * channels * inner));
  std::generate(x.begin(), x.end(), [&] { return normal(random) + 3; });
  const exactnorm::TensorView view = exactnorm::view(x, {outer, channels, inner});
  const exactnorm::Options options = {.threads = 1};

  PlainSums plain;
  plain_sums(x.data(), outer, channels, inner, plain);
  exactnorm::PartialSums exact(channels);
  accumulate(exact, view, options);
  const exactnorm::Statistics statistics = statistics_of(exact, options);
  const auto count = static_cast<double>(outer * inner);
  for (std::size_t c = 0; c < static_cast<std::size_t>(channels); ++c) {
    if (!(std::fabs(plain.sums[c] / count - statistics.mean[c]) < 1e-9)) {
      std::printf("%s: the two disagree in channel %zu\n", name.c_str(), c);
      return false;
    }
  }

  std::vector<double> exact_times;
  std::vector<double> plain_times;
  for (int round = 0; round < 21; ++round) {
    exact_times.push_back(milliseconds([&] {
      exactnorm::PartialSums sums(channels);
      accumulate(sums, view, options);
    }));
    plain_times.push_back(milliseconds([&] { plain_sums(x.data(), outer, channels, inner, plain); }));
  }
  const double bytes = static_cast<double>(x.size()) * 4;
  std::printf("%-28s %10.3f %10.3f %8.2f %8.1f\n", name.c_str(), median(exact_times), median(plain_times),
              median(exact_times) / median(plain_times), bytes / median(exact_times) / 1e6);
  return true;
}

}  // namespace

int main() {
  std::printf("exactnorm %s, target %s, one thread, float32\n", std::string(exactnorm::version()).c_str(),
              exactnorm::active_target().c_str());
  std::printf("%-28s %10s %10s %8s %8s\n", "[outer][channel][inner]", "exact ms", "plain ms", "ratio", "GB/s");
  bool right = run("nchw 32 x 64 x 112*112", 32, 64, 112 * 112);
  right = run("nchw 32 x 512 x 7*7", 32, 512, 49) && right;
  right = run("nhwc 32*56*56 x 64", 32 * 56 * 56, 64, 1) && right;
  right = run("nc 8192 x 512", 8192, 512, 1) && right;
  right = run("cn 512 x 8192", 1, 512, 8192) && right;
  right = run("hwcn 56*56 x 64 x 32", 56 * 56, 64, 32) && right;
  return right ? 0 : 1;
}

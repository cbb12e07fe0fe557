#pragma once

#include <cstdint>
#include <optional>

#include "exactnorm/export.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// Where epsilon goes in the divisor.
enum class EpsilonPlacement : std::uint8_t {
  variance,  ///< sqrt(variance + epsilon): Ioffe and Szegedy (2015), and every framework
  deviation  ///< sqrt(variance) + epsilon: common in code written by hand
};

/// What all operations share.
struct EXACTNORM_EXPORT Options {
  /// The axes that keep their own statistics, each from -rank to rank - 1, without repeats; all other
  /// axes are reduced. Channels are numbered in row-major order of these axes as they stand in the list.
  /// An empty list makes the whole tensor one channel.
  IndexList channel_axes = {1};

  /// Finite and not negative. With zero, a constant channel becomes beta in training; `given_statistics` refuses
  /// a variance of zero then.
  double epsilon = 1e-5;
  EpsilonPlacement epsilon_placement = EpsilonPlacement::variance;

  /// Threads to use at most, up to 1,024; 0 takes OpenMP's default (OMP_NUM_THREADS, else one per core). Results do
  /// not depend on it. A call from inside an OpenMP parallel region uses the calling thread alone unless
  /// nested parallelism is enabled, and so does the thread that is left after fork(). Calls on different outputs may
  /// run at the same time.
  int threads = 0;
};

/// The learned scale and offset: y = gamma * normalized + beta. Each is optional and defaults to 1 and 0.
///
/// A parameter holds one element per channel, of any dtype. Its shape is that of the channel axes in the order
/// in which they are listed, or (channels,), or of x's rank with 1 on every reduced axis, as NumPy's keepdims
/// leaves it; the first of these that fits is meant.
struct EXACTNORM_EXPORT Affine {
  std::optional<TensorView> gamma = std::nullopt;
  std::optional<TensorView> beta = std::nullopt;
};

}  // namespace exactnorm

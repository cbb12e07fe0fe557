#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "exactnorm/export.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// Where epsilon goes in the divisor.
enum class EpsilonPlacement : std::uint8_t {
  variance,  ///< sqrt(variance + epsilon): Ioffe and Szegedy (2015), and every framework
  deviation  ///< sqrt(variance) + epsilon: common in code written by hand
};

/// A function applied to each element v of the normalized tensor, with the residual added. Its derivative, what it
/// makes of NaN, infinity and -0, and where its derivative jumps, are PyTorch's (docs/semantics.md).
enum class Activation : std::uint8_t {
  none,
  relu,        ///< max(v, 0)
  relu6,       ///< min(max(v, 0), 6)
  leaky_relu,  ///< v where v > 0, else slope * v
  silu,        ///< v / (1 + exp(-v)), also named swish: within 4 units in the last place
  hard_swish   ///< v * min(max(v + 3, 0), 6) / 6
};

/// Their names, in this order: "none", "relu", ...
inline constexpr std::array<std::string_view, 6> activation_names = {"none",       "relu", "relu6",
                                                                     "leaky_relu", "silu", "hard_swish"};

/// The activation of this name; none where there is no such name.
[[nodiscard]] constexpr std::optional<Activation> activation_named(std::string_view name) noexcept {
  for (std::size_t i = 0; i < activation_names.size(); ++i) {
    if (activation_names[i] == name) return static_cast<Activation>(i);
  }
  return std::nullopt;
}

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

  /// Follows the normalization in training and inference; backward passes go through it. Statistics and sums of x have
  /// no part of it.
  Activation activation = Activation::none;
  /// Of leaky_relu: finite.
  double slope = 0.01;

  /// Threads to use at most, up to 1,024; 0 takes OpenMP's default (OMP_NUM_THREADS, else one per core). Results do
  /// not depend on it. A call from inside an OpenMP parallel region uses the calling thread alone unless
  /// nested parallelism is enabled, and so does the thread that is left after fork(). Calls on different outputs may
  /// run at the same time.
  int threads = 0;
};

/// What becomes of the elements that a mask leaves out, beside having no part in the statistics.
enum class MaskedOutput : std::uint8_t {
  zero,        ///< y, dx and d_residual are 0 there, whatever x, dy and the residual hold
  normalized,  ///< y is normalized by the other elements' statistics; dy there has its part in all gradients
  untouched    ///< as zero, but nothing is written there
};

/// The elements that take part, of which statistics, sums and counts are alone: the results are, bit for bit, those of
/// a tensor that holds nothing else. What the others hold, NaN included, has no part in them.
///
/// `selected` is of boolean, true for those that take part. It has x's shape with 1 on the channel axes, or the shape
/// of the reduced axes alone; a size of 1 on any axis stands for all of it. Outputs do not overlap it.
struct EXACTNORM_EXPORT Mask {
  explicit Mask(const TensorView& of_selected, MaskedOutput output = MaskedOutput::zero)
      : selected(of_selected), masked(output) {}

  TensorView selected;
  MaskedOutput masked;
};

/// The learned scale and offset, a residual and a mask: y = activation(gamma * normalized + beta + residual). All are
/// optional; gamma defaults to 1, beta and the residual to 0, the mask to all elements.
///
/// A parameter holds one element per channel, of any dtype. Its shape is that of the channel axes in the order
/// in which they are listed, or (channels,), or of x's rank with 1 on every reduced axis, as NumPy's keepdims
/// leaves it; the first of these that fits is meant.
///
/// The residual has x's shape, any strides and any dtype.
///
/// `output` is of backward passes alone: y, as the forward pass wrote it. The derivative of the activation is taken
/// where y is, then, and neither beta nor the residual is looked at, which need not be kept: a y that goes into another
/// layer is kept anyway. For relu, relu6 and leaky_relu of a slope of 0 or more, whose y says where they are. Without
/// an activation it is not looked at.
struct EXACTNORM_EXPORT Affine {
  std::optional<TensorView> gamma = std::nullopt;
  std::optional<TensorView> beta = std::nullopt;
  std::optional<TensorView> residual = std::nullopt;
  std::optional<Mask> mask = std::nullopt;
  std::optional<TensorView> output = std::nullopt;
};

}  // namespace exactnorm

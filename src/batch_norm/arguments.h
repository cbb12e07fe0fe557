#pragma once

#include <optional>

#include "batch_norm/mask_argument.h"
#include "exactnorm/batch_norm.h"
#include "exactnorm/layer.h"
#include "exactnorm/options.h"
#include "exactnorm/plan.h"
#include "exactnorm/statistics.h"
#include "exactnorm/tensor.h"
#include "tensor/argument.h"

// What the operations ask of their arguments before anything is written.

namespace exactnorm {

/// A parameter of an operation, which may be absent.
using OptionalArgument = std::optional<Argument>;

/// The values of a parameter, or `value` for each of `channels` channels where there is none.
void read_parameter(const OptionalArgument& parameter, const void* address, double value, Index channels,
                    double* values);

/// What forward operations are given, but for addresses.
class ForwardArguments {
 public:
  /// Throws Error when a layout or an option is wrong.
  ForwardArguments(const TensorView& x, const MutableTensorView& y, const Affine& affine, const Options& options);

  /// Throws Error when an address is wrong, or when y overlaps what it must not.
  void check(const ForwardPointers& at) const;
  /// The same without parameters.
  void check_tensors(const ForwardPointers& at) const;

  [[nodiscard]] const Argument& x() const noexcept { return x_; }
  [[nodiscard]] const Argument& y() const noexcept { return y_; }
  [[nodiscard]] const OptionalArgument& gamma() const noexcept { return gamma_; }
  [[nodiscard]] const OptionalArgument& beta() const noexcept { return beta_; }
  [[nodiscard]] const OptionalArgument& residual() const noexcept { return residual_; }
  [[nodiscard]] const std::optional<MaskArgument>& mask() const noexcept { return mask_; }
  /// Resolved.
  [[nodiscard]] const IndexList& channel_axes() const noexcept { return channel_axes_; }
  [[nodiscard]] Index channels() const noexcept { return channels_; }
  [[nodiscard]] Index elements() const noexcept { return elements_; }
  /// Elements per channel; 0 for an empty batch.
  [[nodiscard]] Index count() const noexcept { return elements_ == 0 ? 0 : elements_ / channels_; }

 private:
  Argument x_;
  Argument y_;
  IndexList channel_axes_;
  Index channels_;
  Index elements_;
  OptionalArgument gamma_;
  OptionalArgument beta_;
  OptionalArgument residual_;
  std::optional<MaskArgument> mask_;
};

[[nodiscard]] ForwardPointers pointers_of(const TensorView& x, const MutableTensorView& y, const Affine& affine);

/// x, y and the parameters of a forward operation, with their addresses; returns the resolved channel axes.
[[nodiscard]] IndexList check_forward(const TensorView& x, const MutableTensorView& y, const Affine& affine,
                                      const Options& options);

/// What backward operations are given, but for addresses and statistics.
class BackwardArguments {
 public:
  /// Throws Error when a layout or an option is wrong.
  BackwardArguments(const TensorView& dy, const TensorView& x, const Affine& affine, const Gradients& gradients,
                    const Options& options);

  /// Throws Error when an address is wrong, or when an output overlaps what it must not.
  void check(const BackwardPointers& at) const;

  [[nodiscard]] const Argument& dy() const noexcept { return dy_; }
  [[nodiscard]] const Argument& x() const noexcept { return x_; }
  [[nodiscard]] const OptionalArgument& gamma() const noexcept { return gamma_; }
  [[nodiscard]] const OptionalArgument& beta() const noexcept { return beta_; }
  [[nodiscard]] const OptionalArgument& residual() const noexcept { return residual_; }
  [[nodiscard]] const OptionalArgument& output() const noexcept { return output_; }
  [[nodiscard]] const OptionalArgument& d_residual() const noexcept { return d_residual_; }
  [[nodiscard]] const OptionalArgument& dx() const noexcept { return dx_; }
  [[nodiscard]] const OptionalArgument& dgamma() const noexcept { return dgamma_; }
  [[nodiscard]] const OptionalArgument& dbeta() const noexcept { return dbeta_; }
  [[nodiscard]] const std::optional<MaskArgument>& mask() const noexcept { return mask_; }
  [[nodiscard]] const IndexList& channel_axes() const noexcept { return channel_axes_; }
  [[nodiscard]] Index channels() const noexcept { return channels_; }
  [[nodiscard]] Index elements() const noexcept { return elements_; }
  [[nodiscard]] Index count() const noexcept { return elements_ == 0 ? 0 : elements_ / channels_; }

 private:
  Argument dy_;
  Argument x_;
  IndexList channel_axes_;
  Index channels_;
  Index elements_;
  OptionalArgument gamma_;
  OptionalArgument beta_;
  OptionalArgument residual_;
  OptionalArgument output_;
  OptionalArgument dx_;
  OptionalArgument dgamma_;
  OptionalArgument dbeta_;
  OptionalArgument d_residual_;
  std::optional<MaskArgument> mask_;
};

[[nodiscard]] BackwardPointers pointers_of(const TensorView& dy, const TensorView& x, const Affine& affine,
                                           const Gradients& gradients);

/// An epsilon that can be.
void check_epsilon(const Statistics& statistics);
/// And one value for each channel in each vector.
void check_statistics(const Statistics& statistics, Index channels);
/// And statistics that a backward pass through `training` can take.
void check_batch_statistics(const Statistics& statistics, const BackwardArguments& arguments);

/// Whether gradients' sums of so many elements per channel belong to statistics of `count`: as many, or, with a mask
/// that leaves out x alone, no fewer.
[[nodiscard]] inline bool are_of_batch(Index summed, Index count, const Affine& affine) noexcept {
  const bool may_have_more = affine.mask && affine.mask->masked == MaskedOutput::normalized;
  return may_have_more ? summed >= count : summed == count;
}

/// What an update of running statistics refuses whatever the batch.
void check_running(const RunningStatistics& running);

}  // namespace exactnorm

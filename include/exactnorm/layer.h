#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/distributed.h"
#include "exactnorm/export.h"
#include "exactnorm/options.h"
#include "exactnorm/renormalization.h"
#include "exactnorm/statistics.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// Which variance of a batch is remembered.
enum class VarianceKind : std::uint8_t {
  unbiased,  ///< divided by count - 1: PyTorch, cuDNN
  biased     ///< divided by count: Keras, Flax
};

/// Means and variances remembered over training batches, for inference. A plain value: those that were kept elsewhere
/// are assigned to `mean`, `variance` and, if momentum has no value, `batches_tracked`.
struct EXACTNORM_EXPORT RunningStatistics {
  /// Starts at mean 0 and variance 1, as every framework does. Throws Error when `channels` is negative.
  explicit RunningStatistics(Index channels = 0);

  std::vector<double> mean;
  std::vector<double> variance;
  /// Updates so far.
  Index batches_tracked = 0;
  /// How many of them each channel refused.
  std::vector<Index> batches_refused;

  /// The weight of the *new* value: running = (1 - momentum) * running + momentum * new. This is the
  /// convention of PyTorch and cuDNN; Keras, Flax and ONNX call the other weight, 1 - momentum, momentum.
  /// Without a value, the average of all batches that the channel took in.
  std::optional<double> momentum = 0.1;

  VarianceKind variance_kind = VarianceKind::unbiased;

  [[nodiscard]] Index channels() const noexcept { return static_cast<Index>(mean.size()); }

  /// Takes in the statistics of one batch, with the variance of `variance_kind`.
  ///
  /// A channel whose batch statistics are not finite keeps what it had, so that one bad batch cannot
  /// poison it for good; the numbers of such channels are returned (empty when all is well). So does one of no
  /// element, or of one where the variance is unbiased, in a batch whose channels have counts of their own. An empty
  /// batch changes nothing.
  /// Throws Error, and changes nothing, when the number of channels differs, when count is 1 (the unbiased variance of
  /// one value does not exist; the biased one is 0, and taken in), when momentum is not from 0 to 1, or when
  /// batches_tracked or batches_refused are impossible numbers.
  std::vector<Index> update(const Statistics& batch);

  /// The statistics to give to `inference`. Throws Error as `given_statistics` does.
  [[nodiscard]] Statistics statistics(const Options& options = {}) const;
};

/// A batch normalization layer with state: parameters, running statistics, a training and an evaluation
/// mode. It does nothing that the functions of batch_norm.h do not; use those where you keep your own state.
///
/// A layer may be used by one thread at a time. Copies have state of their own.
class EXACTNORM_EXPORT BatchNorm {
 public:
  /// gamma starts at 1, beta at 0. Throws Error when `channels` is negative.
  explicit BatchNorm(Index channels, const Options& options = {});

  /// One value per channel; change them freely, keep their sizes.
  std::vector<double> gamma;
  std::vector<double> beta;
  /// The gradients of the latest `backward`, overwritten by each.
  std::vector<double> gamma_gradient;
  std::vector<double> beta_gradient;

  RunningStatistics running;
  Options options;
  /// Batch renormalization (renormalization.h) by `running`, as it is before each training pass. Without a value there
  /// is none.
  std::optional<RenormalizationLimits> renormalization = std::nullopt;

  /// Training mode (the default) or evaluation mode.
  void set_training(bool training) noexcept { training_ = training; }
  [[nodiscard]] bool is_training() const noexcept { return training_; }

  /// In training mode: normalizes by the batch and updates `running`; returns the channels whose update
  /// was refused, as `RunningStatistics::update` does. In evaluation mode: normalizes by `running`.
  /// Throws Error, with nothing written and no statistics changed, when an argument is wrong or when
  /// training is given one value per channel and `running` wants the unbiased variance.
  /// The activation is that of `options`; the residual is added before it (Affine). With a mask that selects nothing
  /// `running` keeps what it had, and all channels are returned.
  std::vector<Index> forward(const TensorView& x, const MutableTensorView& y,
                             const std::optional<TensorView>& residual = std::nullopt,
                             const std::optional<Mask>& mask = std::nullopt);

  /// The backward pass of the latest `forward`, with the mode, gamma, beta, epsilon, channel axes and activation that
  /// it had. Fills gamma_gradient and beta_gradient, and dx and d_residual if given. The residual and the mask are
  /// those that `forward` was given.
  ///
  /// `x` holds what `forward` was given: the same memory or a copy, but not what a forward in place has overwritten.
  /// After a forward in training mode, x is read once more to make sure: Error, with nothing written, where its shape
  /// is another, or the mean or variance of a channel, as Statistics hold them. After one in evaluation mode dx does
  /// not depend on x, dgamma is that of the x given, and its shape alone is checked. Throws Error when there was no
  /// forward.
  void backward(const TensorView& dy, const TensorView& x, const std::optional<MutableTensorView>& dx,
                const std::optional<TensorView>& residual = std::nullopt,
                const std::optional<MutableTensorView>& d_residual = std::nullopt,
                const std::optional<Mask>& mask = std::nullopt);

  /// The same for a batch of which every rank holds a part, as the functions of distributed.h; all ranks' layers are
  /// alike, and in the same mode, which is not compared. gamma_gradient and beta_gradient are those of the whole batch.
  /// In evaluation mode nothing is exchanged, and they are this rank's shares. Where x is another on one rank, all
  /// ranks throw.
  std::vector<Index> forward(SumExchange& exchange, const TensorView& x, const MutableTensorView& y,
                             const std::optional<TensorView>& residual = std::nullopt,
                             const std::optional<Mask>& mask = std::nullopt);
  void backward(SumExchange& exchange, const TensorView& dy, const TensorView& x,
                const std::optional<MutableTensorView>& dx, const std::optional<TensorView>& residual = std::nullopt,
                const std::optional<MutableTensorView>& d_residual = std::nullopt,
                const std::optional<Mask>& mask = std::nullopt);

 private:
  // What a backward pass has to know of its forward pass.
  struct Pass {
    Statistics statistics;
    std::optional<Renormalization> renormalization;
    std::optional<Statistics> of_part;  // of this rank's x alone, where ranks share the batch
    std::vector<double> gamma;
    std::vector<double> beta;
    IndexList channel_axes;
    Activation activation = Activation::none;
    double slope = 0;
    IndexList shape;
    bool was_training = true;
  };

  [[nodiscard]] Affine affine(const std::optional<TensorView>& residual, const std::optional<Mask>& mask) const;
  void evaluate(const TensorView& x, const MutableTensorView& y, const std::optional<TensorView>& residual,
                const std::optional<Mask>& mask);
  // Updates `to` with the statistics of x, of which a mask may have selected nothing.
  static std::vector<Index> update(RunningStatistics& to, const Statistics& batch, const TensorView& x);
  [[nodiscard]] Index elements_per_channel(const TensorView& x, const std::optional<Mask>& mask) const;
  void check_channels(const TensorView& x) const;
  void check_training(const TensorView& x) const;
  void remember(const TensorView& x, Statistics statistics, std::optional<Renormalization> used,
                std::optional<Statistics> of_part, bool was_training);
  [[nodiscard]] const Pass& latest_pass() const;
  [[nodiscard]] Options options_of(const Pass& pass) const;
  void check_same_x(const Pass& pass, const TensorView& x, const std::optional<Mask>& mask) const;

  bool training_ = true;
  std::optional<Pass> latest_;
};

}  // namespace exactnorm

#pragma once

#include <optional>
#include <vector>

#include "exactnorm/batch_norm.h"
#include "exactnorm/options.h"
#include "exactnorm/running_statistics.h"
#include "exactnorm/statistics.h"
#include "exactnorm/synchronized.h"
#include "exactnorm/tensor.h"

namespace exactnorm {

/// A batch normalization layer with state: parameters, running statistics, a training and an evaluation
/// mode. It does nothing that the functions of batch_norm.h do not; use those where you keep your own state.
///
/// A layer may be used by one thread at a time.
class BatchNorm {
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

  /// Training mode (the default) or evaluation mode.
  void set_training(bool training) noexcept { training_ = training; }
  [[nodiscard]] bool is_training() const noexcept { return training_; }

  /// In training mode: normalizes by the batch and updates `running`; returns the channels whose update
  /// was refused, as `RunningStatistics::update` does. In evaluation mode: normalizes by `running`.
  /// Throws Error, with nothing written and no statistics changed, when an argument is wrong or when
  /// training is given one value per channel.
  std::vector<Index> forward(const TensorView& x, const MutableTensorView& y);

  /// The backward pass of the latest `forward`, in the mode that it had. `x` is what `forward` was given.
  /// Fills gamma_gradient and beta_gradient, and dx if given. Throws Error when there was no forward.
  void backward(const TensorView& dy, const TensorView& x, const std::optional<MutableTensorView>& dx);

  /// The same for a batch of which every rank holds a part, as the functions of synchronized.h; all ranks' layers are
  /// alike. gamma_gradient and beta_gradient are those of the whole batch. In evaluation mode nothing is exchanged, and
  /// they are this rank's shares.
  std::vector<Index> forward(SumExchange& exchange, const TensorView& x, const MutableTensorView& y);
  void backward(SumExchange& exchange, const TensorView& dy, const TensorView& x,
                const std::optional<MutableTensorView>& dx);

 private:
  [[nodiscard]] Affine affine() const;
  void evaluate(const TensorView& x, const MutableTensorView& y);

  bool training_ = true;
  bool latest_was_training_ = true;
  std::optional<Statistics> latest_;
};

}  // namespace exactnorm

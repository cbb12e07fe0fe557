#include "exactnorm/layer.h"

#include <string>

#include "tensor/checks.h"

namespace exactnorm {

BatchNorm::BatchNorm(Index channels, const Options& layer_options) : running(channels), options(layer_options) {
  gamma.assign(running.mean.size(), 1.0);
  beta.assign(running.mean.size(), 0.0);
  gamma_gradient.assign(running.mean.size(), 0.0);
  beta_gradient.assign(running.mean.size(), 0.0);
}

Affine BatchNorm::affine() const {
  const auto parameter = [](const std::vector<double>& values) {
    return view(values, {static_cast<Index>(values.size())});
  };
  return {parameter(gamma), parameter(beta)};
}

std::vector<Index> BatchNorm::forward(const TensorView& x, const MutableTensorView& y) {
  if (!training_) {
    Statistics statistics = running.statistics(options);
    inference(x, statistics, y, affine(), options);
    latest_ = std::move(statistics);
    latest_was_training_ = false;
    return {};
  }
  // All that the update could refuse is refused before y is written.
  check_view("x", x);
  const IndexList axes = resolve_channel_axes(options.channel_axes, x);
  const Index channels = channel_count(axes, x);
  if (channels != running.channels()) {
    throw Error("x", "has " + std::to_string(channels) + " channels; expected " + std::to_string(running.channels()));
  }
  Statistics trial;
  trial.mean.resize(static_cast<std::size_t>(channels));
  trial.variance = trial.mean;
  trial.count = channels == 0 ? 0 : element_count(x.shape) / channels;
  RunningStatistics(running).update(trial);

  Statistics statistics = training(x, y, affine(), options);
  std::vector<Index> refused = running.update(statistics);
  latest_ = std::move(statistics);
  latest_was_training_ = true;
  return refused;
}

void BatchNorm::backward(const TensorView& dy, const TensorView& x, const std::optional<MutableTensorView>& dx) {
  if (!latest_) throw Error("backward", "was called without a forward; expected a forward first");
  std::vector<double> dgamma(gamma.size());
  std::vector<double> dbeta(beta.size());
  const auto parameter = [](std::vector<double>& values) {
    return mutable_view(values, {static_cast<Index>(values.size())});
  };
  const Gradients gradients = {dx, parameter(dgamma), parameter(dbeta)};
  if (latest_was_training_) {
    exactnorm::backward(dy, x, *latest_, affine().gamma, gradients, options);
  } else {
    backward_frozen(dy, x, *latest_, affine().gamma, gradients, options);
  }
  gamma_gradient = std::move(dgamma);
  beta_gradient = std::move(dbeta);
}

}  // namespace exactnorm

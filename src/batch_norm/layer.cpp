#include "exactnorm/layer.h"

#include <string>

#include "batch_norm/synchronized.h"
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

void BatchNorm::evaluate(const TensorView& x, const MutableTensorView& y) {
  Statistics statistics = running.statistics(options);
  inference(x, statistics, y, affine(), options);
  latest_ = std::move(statistics);
  latest_was_training_ = false;
}

std::vector<Index> BatchNorm::forward(const TensorView& x, const MutableTensorView& y) {
  if (!training_) {
    evaluate(x, y);
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

std::vector<Index> BatchNorm::forward(SumExchange& exchange, const TensorView& x, const MutableTensorView& y) {
  if (!training_) {
    evaluate(x, y);
    return {};
  }
  const PartialSums sums = exchange_moments(exchange, x, y, affine(), options);
  Statistics statistics = statistics_of(sums, options);
  // What this refuses, it refuses on all ranks, and before y is written.
  RunningStatistics updated = running;
  std::vector<Index> refused = updated.update(statistics);
  inference(x, statistics, y, affine(), options);
  running = std::move(updated);
  latest_ = std::move(statistics);
  latest_was_training_ = true;
  return refused;
}

namespace {

MutableTensorView view_of(std::vector<double>& values) {
  return mutable_view(values, {static_cast<Index>(values.size())});
}

}  // namespace

void BatchNorm::backward(const TensorView& dy, const TensorView& x, const std::optional<MutableTensorView>& dx) {
  if (!latest_) throw Error("backward", "was called without a forward; expected a forward first");
  std::vector<double> dgamma(gamma.size());
  std::vector<double> dbeta(beta.size());
  const Gradients gradients = {dx, view_of(dgamma), view_of(dbeta)};
  if (latest_was_training_) {
    exactnorm::backward(dy, x, *latest_, affine().gamma, gradients, options);
  } else {
    backward_frozen(dy, x, *latest_, affine().gamma, gradients, options);
  }
  gamma_gradient = std::move(dgamma);
  beta_gradient = std::move(dbeta);
}

void BatchNorm::backward(SumExchange& exchange, const TensorView& dy, const TensorView& x,
                         const std::optional<MutableTensorView>& dx) {
  if (!latest_ || !latest_was_training_) {
    backward(dy, x, dx);
    return;
  }
  std::vector<double> dgamma(gamma.size());
  std::vector<double> dbeta(beta.size());
  const SynchronizedGradients gradients = {.dx = dx, .dgamma = view_of(dgamma), .dbeta = view_of(dbeta)};
  synchronized_backward(exchange, dy, x, *latest_, affine().gamma, gradients, options);
  gamma_gradient = std::move(dgamma);
  beta_gradient = std::move(dbeta);
}

}  // namespace exactnorm

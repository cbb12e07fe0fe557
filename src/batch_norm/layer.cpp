#include "exactnorm/layer.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>

#include "batch_norm/arguments.h"
#include "batch_norm/mask_argument.h"
#include "batch_norm/reduction.h"
#include "tensor/checks.h"

namespace exactnorm {

namespace {

TensorView view_of(const std::vector<double>& values) { return view(values, {static_cast<Index>(values.size())}); }
MutableTensorView view_of(std::vector<double>& values) {
  return mutable_view(values, {static_cast<Index>(values.size())});
}

// By their bits, whatever the program's floating-point environment makes of subnormal numbers. NaN is the same as NaN:
// what its channel held is lost in both.
bool same(double a, double b) {
  return std::bit_cast<std::uint64_t>(a) == std::bit_cast<std::uint64_t>(b) || (std::isnan(a) && std::isnan(b));
}

}  // namespace

BatchNorm::BatchNorm(Index channels, const Options& layer_options) : running(channels), options(layer_options) {
  gamma.assign(running.mean.size(), 1.0);
  beta.assign(running.mean.size(), 0.0);
  gamma_gradient.assign(running.mean.size(), 0.0);
  beta_gradient.assign(running.mean.size(), 0.0);
}

Affine BatchNorm::affine(const std::optional<TensorView>& residual, const std::optional<Mask>& mask) const {
  return {view_of(gamma), view_of(beta), residual, mask};
}

std::vector<Index> BatchNorm::update(RunningStatistics& to, const Statistics& batch, const TensorView& x) {
  std::vector<Index> refused = to.update(batch);
  return batch.count == 0 && element_count(x.shape) > 0 ? all_channels(batch.channels()) : refused;
}

void BatchNorm::remember(const TensorView& x, Statistics statistics, std::optional<Renormalization> used,
                         std::optional<Statistics> of_part, bool was_training) {
  latest_ = Pass{std::move(statistics), std::move(used),    std::move(of_part), gamma,   beta,
                 options.channel_axes,  options.activation, options.slope,      x.shape, was_training};
}

void BatchNorm::check_channels(const TensorView& x) const {
  check_view("x", x);
  const Index channels = channel_count(resolve_channel_axes(options.channel_axes, x), x);
  if (channels == running.channels()) return;
  throw Error("x", "has " + std::to_string(channels) + " channels; expected " + std::to_string(running.channels()));
}

void BatchNorm::evaluate(const TensorView& x, const MutableTensorView& y, const std::optional<TensorView>& residual,
                         const std::optional<Mask>& mask) {
  check_channels(x);
  Statistics statistics = running.statistics(options);
  inference(x, statistics, y, affine(residual, mask), options);
  remember(x, std::move(statistics), std::nullopt, std::nullopt, false);
}

// x has channels.
Index BatchNorm::elements_per_channel(const TensorView& x, const std::optional<Mask>& mask) const {
  if (!mask) return element_count(x.shape) / running.channels();
  return selected_view(*mask, resolve_channel_axes(options.channel_axes, x), x).selection.count;
}

void BatchNorm::check_training(const TensorView& x) const {
  check_channels(x);
  check_running(running);
}

std::vector<Index> BatchNorm::forward(const TensorView& x, const MutableTensorView& y,
                                      const std::optional<TensorView>& residual, const std::optional<Mask>& mask) {
  if (!training_) {
    evaluate(x, y, residual, mask);
    return {};
  }
  // All that the update of `running` could refuse is refused before y is written.
  check_training(x);
  if (running.variance_kind == VarianceKind::unbiased && running.channels() > 0 && elements_per_channel(x, mask) == 1) {
    throw Error("x", std::string("has one value per channel") + (mask ? " that the mask selects" : "") +
                         "; expected more in training mode, as one has no unbiased variance");
  }
  Statistics statistics;
  std::optional<Renormalization> used;
  if (renormalization) {
    Renormalized result =
        renormalizing_training(x, running.statistics(options), *renormalization, y, affine(residual, mask), options);
    statistics = std::move(result.statistics);
    used = std::move(result.renormalization);
  } else {
    statistics = training(x, y, affine(residual, mask), options);
  }
  std::vector<Index> refused = update(running, statistics, x);
  remember(x, std::move(statistics), std::move(used), std::nullopt, true);
  return refused;
}

const BatchNorm::Pass& BatchNorm::latest_pass() const {
  if (!latest_) throw Error("backward", "was called without a forward; expected a forward first");
  return *latest_;
}

Options BatchNorm::options_of(const Pass& pass) const {
  Options used = options;
  used.channel_axes = pass.channel_axes;
  used.activation = pass.activation;
  used.slope = pass.slope;
  return used;
}

void BatchNorm::check_same_x(const Pass& pass, const TensorView& x, const std::optional<Mask>& mask) const {
  check_view("x", x);
  if (x.shape != pass.shape) {
    throw Error("x", "has shape " + to_string(x.shape) + "; expected " + to_string(pass.shape) +
                         ", as in the latest forward pass");
  }
  if (!pass.was_training) return;
  const Statistics& expected_statistics = pass.of_part ? *pass.of_part : pass.statistics;
  PartialSums sums(expected_statistics.channels());
  mask ? accumulate(sums, x, *mask, options_of(pass)) : accumulate(sums, x, options_of(pass));
  const Statistics found = normalizing_statistics(sums);
  for (std::size_t channel = 0; channel < found.mean.size(); ++channel) {
    const auto compare = [&](const char* what, const std::vector<double>& given, const std::vector<double>& expected) {
      if (same(given[channel], expected[channel])) return;
      throw Error("x", std::string("has a ") + what + " of " + to_text(given[channel]) + " in channel " +
                           std::to_string(channel) + "; expected " + to_text(expected[channel]) +
                           ", as x had in the latest forward pass");
    };
    compare("mean", found.mean, expected_statistics.mean);
    compare("mean residual", found.mean_residual, expected_statistics.mean_residual);
    compare("variance", found.variance, expected_statistics.variance);
  }
}

void BatchNorm::backward(const TensorView& dy, const TensorView& x, const std::optional<MutableTensorView>& dx,
                         const std::optional<TensorView>& residual, const std::optional<MutableTensorView>& d_residual,
                         const std::optional<Mask>& mask) {
  const Pass& pass = latest_pass();
  check_same_x(pass, x, mask);
  std::vector<double> dgamma(pass.gamma.size());
  std::vector<double> dbeta(pass.gamma.size());
  const Affine parameters = {view_of(pass.gamma), view_of(pass.beta), residual, mask};
  const Gradients gradients = {dx, view_of(dgamma), view_of(dbeta), d_residual};
  if (pass.renormalization) {
    renormalizing_backward(dy, x, {pass.statistics, *pass.renormalization}, parameters, gradients, options_of(pass));
  } else {
    (pass.was_training ? exactnorm::backward : backward_frozen)(dy, x, pass.statistics, parameters, gradients,
                                                                options_of(pass));
  }
  gamma_gradient = std::move(dgamma);
  beta_gradient = std::move(dbeta);
}

}  // namespace exactnorm

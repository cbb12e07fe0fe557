// The passes of a layer whose batch ranks share.

#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "batch_norm/renormalization.h"
#include "distributed/synchronized.h"
#include "exactnorm/layer.h"

namespace exactnorm {

namespace {

// What could throw on one rank alone: where it does, all ranks throw in the exchange that they are about to begin.
template <typename Check>
void check_on_all_ranks(SumExchange& exchange, const Check& check) {
  check_layers(exchange);
  try {
    check();
  } catch (const std::exception& exception) {
    exchange.start_failed(exception);
    static_cast<void>(exchange.finish());
  }
}

}  // namespace

std::vector<Index> BatchNorm::forward(SumExchange& exchange, const TensorView& x, const MutableTensorView& y,
                                      const std::optional<TensorView>& residual, const std::optional<Mask>& mask) {
  if (!training_) {
    evaluate(x, y, residual, mask);
    return {};
  }
  check_on_all_ranks(exchange, [&] {
    check_training(x);
    if (renormalization) check_limits(*renormalization);
  });
  // Decides whether one value per channel is refused.
  const char* purpose =
      running.variance_kind == VarianceKind::biased ? ", biased running variance" : ", unbiased running variance";
  PartialSums own(0);
  const PartialSums sums = exchange_moments(exchange, x, y, affine(residual, mask), options, &own, purpose);
  Statistics statistics = normalizing_statistics(sums, options);
  // What this refuses, it refuses on all ranks, and before y is written.
  RunningStatistics updated = running;
  std::vector<Index> refused = update(updated, statistics, x);
  Statistics of_part = normalizing_statistics(own, options);
  std::optional<Renormalization> used;
  RenormalizedParameters parameters = {gamma, beta};
  if (renormalization) {
    used = renormalization_of(statistics, running.statistics(options), *renormalization);
    parameters = renormalized(gamma, beta, *used);
  }
  const IndexList shape = {running.channels()};
  inference(x, statistics, y, {view(parameters.gamma, shape), view(parameters.beta, shape), residual, mask}, options);
  running = std::move(updated);
  remember(x, std::move(statistics), std::move(used), std::move(of_part), true);
  return refused;
}

void BatchNorm::backward(SumExchange& exchange, const TensorView& dy, const TensorView& x,
                         const std::optional<MutableTensorView>& dx, const std::optional<TensorView>& residual,
                         const std::optional<MutableTensorView>& d_residual, const std::optional<Mask>& mask) {
  if (latest_ && !latest_->was_training) {
    backward(dy, x, dx, residual, d_residual, mask);
    return;
  }
  check_on_all_ranks(exchange, [&] { check_same_x(latest_pass(), x, mask); });
  const Pass& pass = latest_pass();
  std::vector<double> dgamma(pass.gamma.size());
  std::vector<double> dbeta(pass.gamma.size());
  const IndexList shape = {static_cast<Index>(pass.gamma.size())};
  RenormalizedParameters parameters = {pass.gamma, pass.beta};
  if (pass.renormalization) parameters = renormalized(pass.gamma, pass.beta, *pass.renormalization);
  synchronized_backward(
      exchange, dy, x, pass.statistics, {view(parameters.gamma, shape), view(parameters.beta, shape), residual, mask},
      {.dx = dx, .dgamma = mutable_view(dgamma, shape), .dbeta = mutable_view(dbeta, shape), .d_residual = d_residual},
      options_of(pass));
  if (pass.renormalization) set_renormalized_gradient(*pass.renormalization, dbeta, dgamma);
  gamma_gradient = std::move(dgamma);
  beta_gradient = std::move(dbeta);
}

}  // namespace exactnorm

#include "batch_norm/renormalization.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "batch_norm/arguments.h"
#include "batch_norm/passes.h"
#include "sums/exact_finalize.h"
#include "tensor/checks.h"
#include "tensor/elements.h"
#include "traverse/floating_point.h"

namespace exactnorm {

namespace {

void check_largest(double r_max, double d_max) {
  if (!(r_max >= 1)) throw Error("r_max", "is " + to_text(r_max) + "; expected 1 or more");
  if (!(d_max >= 0)) throw Error("d_max", "is " + to_text(d_max) + "; expected 0 or more");
}

}  // namespace

void check_limits(const RenormalizationLimits& limits) {
  check_largest(limits.r_max, limits.d_max);
  if (!limits.r_min || (*limits.r_min >= 0 && *limits.r_min <= 1)) return;
  throw Error("r_min", "is " + to_text(*limits.r_min) + "; expected 0 to 1");
}

RenormalizationLimits RenormalizationSchedule::at(Index step) const {
  check_largest(r_max, d_max);
  if (begin < 0) throw Error("begin", "is " + std::to_string(begin) + "; expected 0 or more");
  if (step < 0) throw Error("step", "is " + std::to_string(step) + "; expected 0 or more");
  for (const auto& [name, end] : {std::pair{"r_end", r_end}, std::pair{"d_end", d_end}}) {
    if (end < begin) {
      throw Error(name, "is " + std::to_string(end) + "; expected " + std::to_string(begin) + " or more, as begin is");
    }
  }
  const auto between = [&](double from, double to, Index end) {
    if (step < begin) return from;
    if (step >= end) return to;
    return from + (to - from) * (static_cast<double>(step - begin) / static_cast<double>(end - begin));
  };
  return {between(1, r_max, r_end), between(0, d_max, d_end)};
}

ChannelRenormalization renormalize(double mean, double inverse_deviation, double reference_mean,
                                   double reference_inverse_deviation, const RenormalizationLimits& limits) {
  const double r_min = limits.r_min.value_or(1 / limits.r_max);
  const double r = reference_inverse_deviation / inverse_deviation;
  const double d = (mean - reference_mean) * reference_inverse_deviation;
  return {std::clamp(r, r_min, limits.r_max), std::clamp(d, -limits.d_max, limits.d_max)};
}

Renormalization renormalization_of(const Statistics& batch, const Statistics& reference,
                                   const RenormalizationLimits& limits) {
  const DefaultFloatingPoint default_floating_point;
  check_limits(limits);
  check_statistics(batch, batch.channels());
  if (reference.channels() != batch.channels()) {
    throw Error("reference", "has " + std::to_string(reference.channels()) + " channels; expected " +
                                 std::to_string(batch.channels()));
  }
  check_statistics(reference, batch.channels());
  Renormalization result;
  for (std::size_t channel = 0; channel < batch.mean.size(); ++channel) {
    const auto [r, d] = renormalize(batch.mean[channel], batch.inverse_deviation[channel], reference.mean[channel],
                                    reference.inverse_deviation[channel], limits);
    result.r.push_back(r);
    result.d.push_back(d);
  }
  return result;
}

RenormalizedParameters renormalized(const std::vector<double>& gamma, const std::vector<double>& beta,
                                    const Renormalization& renormalization) {
  RenormalizedParameters result = {gamma, beta};
  for (std::size_t channel = 0; channel < gamma.size(); ++channel) {
    result.gamma[channel] *= renormalization.r[channel];
    result.beta[channel] += gamma[channel] * renormalization.d[channel];
  }
  return result;
}

void set_renormalized_gradient(const Renormalization& renormalization, const std::vector<double>& dbeta,
                               std::vector<double>& dgamma) {
  for (std::size_t channel = 0; channel < dgamma.size(); ++channel) {
    dgamma[channel] = renormalization.r[channel] * dgamma[channel] + renormalization.d[channel] * dbeta[channel];
  }
}

namespace {

std::vector<double> parameter_values(const OptionalArgument& parameter, const void* address, double value,
                                     Index channels) {
  std::vector<double> values(static_cast<std::size_t>(channels));
  read_parameter(parameter, address, value, channels, values.data());
  return values;
}

}  // namespace

Renormalized renormalizing_training(const TensorView& x, const Statistics& reference,
                                    const RenormalizationLimits& limits, const MutableTensorView& y,
                                    const Affine& affine, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  const TrainingPass pass(x, y, affine, options);
  const ForwardPointers at = pointers_of(x, y, affine);
  pass.arguments().check(at);
  check_limits(limits);
  const Index channels = pass.arguments().channels();
  check_statistics(reference, channels);
  Renormalized result = {make_statistics(channels, 0, options), {}};
  result.statistics.count = pass.run(at, mutable_view(result.statistics), Reference{view(reference), limits});
  result.renormalization = renormalization_of(result.statistics, reference, limits);
  return result;
}

void renormalizing_backward(const TensorView& dy, const TensorView& x, const Renormalized& forward,
                            const Affine& affine, const Gradients& gradients, const Options& options) {
  const DefaultFloatingPoint default_floating_point;
  const BackwardArguments arguments(dy, x, affine, gradients, options);
  const BackwardPointers at = pointers_of(dy, x, affine, gradients);
  arguments.check(at);
  const Index channels = arguments.channels();
  for (const std::vector<double>* values : {&forward.renormalization.r, &forward.renormalization.d}) {
    if (static_cast<Index>(values->size()) == channels) continue;
    throw Error("forward", "has " + std::to_string(values->size()) + " values of r or d; expected " +
                               std::to_string(channels) + ", one per channel");
  }
  const RenormalizedParameters parameters =
      renormalized(parameter_values(arguments.gamma(), at.gamma, 1, channels),
                   parameter_values(arguments.beta(), at.beta, 0, channels), forward.renormalization);
  std::vector<double> dgamma(parameters.gamma.size());
  std::vector<double> dbeta(parameters.gamma.size());
  const IndexList shape = {channels};
  const bool any = gradients.dgamma || gradients.dbeta;
  Gradients own = {gradients.dx, std::nullopt, std::nullopt, gradients.d_residual};
  if (any) own.dgamma = mutable_view(dgamma, shape);
  if (any) own.dbeta = mutable_view(dbeta, shape);
  Affine of_normalized = affine;
  of_normalized.gamma = view(parameters.gamma, shape);
  of_normalized.beta = view(parameters.beta, shape);
  backward(dy, x, forward.statistics, of_normalized, own, options);
  set_renormalized_gradient(forward.renormalization, dbeta, dgamma);
  if (arguments.dgamma()) write_values(arguments.dgamma()->at(at.dgamma), dgamma.data());
  if (arguments.dbeta()) write_values(arguments.dbeta()->at(at.dbeta), dbeta.data());
}

}  // namespace exactnorm

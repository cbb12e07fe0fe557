#include "batch_norm/arguments.h"

#include <cmath>
#include <utility>

#include "tensor/checks.h"

namespace exactnorm {

std::vector<double> parameter_or(const std::string& name, const std::optional<TensorView>& parameter, double value,
                                 const IndexList& axes, const TensorView& x) {
  if (parameter) return read_parameter(name, *parameter, axes, x);
  std::vector<double> values(static_cast<std::size_t>(channel_count(axes, x)), value);
  return values;
}

Parameters read_affine(const Affine& affine, const IndexList& axes, const TensorView& x) {
  return {parameter_or("gamma", affine.gamma, 1.0, axes, x), parameter_or("beta", affine.beta, 0.0, axes, x)};
}

IndexList check_forward(const TensorView& x, const MutableTensorView& y, const Affine& affine, const Options& options) {
  check_options(options);
  check_view("x", x);
  check_output("y", y);
  check_same_shape("y", y, "x", x);
  const IndexList axes = resolve_channel_axes(options.channel_axes, x);
  check_overlap("y", y, "x", x, true);
  // gamma and beta are read before anything is written, so that they may lie anywhere; but nobody means to
  // overwrite them.
  if (affine.gamma) {
    check_view("gamma", *affine.gamma);
    check_overlap("y", y, "gamma", *affine.gamma, false);
  }
  if (affine.beta) {
    check_view("beta", *affine.beta);
    check_overlap("y", y, "beta", *affine.beta, false);
  }
  return axes;
}

void check_statistics(const Statistics& statistics, Index channels) {
  for (const std::vector<double>* values :
       {&statistics.mean, &statistics.mean_residual, &statistics.variance, &statistics.inverse_deviation}) {
    if (static_cast<Index>(values->size()) == channels) continue;
    throw Error("statistics", "have vectors of " + std::to_string(statistics.mean.size()) + ", " +
                                  std::to_string(statistics.mean_residual.size()) + ", " +
                                  std::to_string(statistics.variance.size()) + " and " +
                                  std::to_string(statistics.inverse_deviation.size()) +
                                  " values; expected one for each of the " + std::to_string(channels) + " channels");
  }
  if (!(statistics.epsilon >= 0) || !std::isfinite(statistics.epsilon)) {
    throw Error("statistics",
                "have an epsilon of " + to_text(statistics.epsilon) + "; expected a finite number of 0 or more");
  }
}

IndexList check_backward(const BackwardArguments& a, bool frozen) {
  check_options(a.options);
  check_view("x", a.x);
  check_gradient(a.dy, a.x);
  if (a.gamma) check_view("gamma", *a.gamma);
  const IndexList axes = resolve_channel_axes(a.options.channel_axes, a.x);
  const Index channels = channel_count(axes, a.x);
  check_statistics(a.statistics, channels);
  const Index elements = element_count(a.x.shape);
  if (!frozen && elements > 0 && a.statistics.count == 0) {
    throw Error("statistics",
                "were given, not computed from a batch; expected those that `training` returned, or "
                "`backward_frozen`");
  }
  std::vector<std::pair<std::string, MutableTensorView>> outputs;
  if (a.gradients.dx) {
    check_output("dx", *a.gradients.dx);
    check_same_shape("dx", *a.gradients.dx, "x", a.x);
    check_overlap("dx", *a.gradients.dx, "x", a.x, true);
    check_overlap("dx", *a.gradients.dx, "dy", a.dy, true);
    outputs.emplace_back("dx", *a.gradients.dx);
  }
  for (const auto& [name, output] : {std::pair{"dgamma", a.gradients.dgamma}, std::pair{"dbeta", a.gradients.dbeta}}) {
    if (!output) continue;
    check_output_parameter(name, *output, axes, a.x);
    check_overlap(name, *output, "x", a.x, false);
    check_overlap(name, *output, "dy", a.dy, false);
    outputs.emplace_back(name, *output);
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    if (a.gamma) check_overlap(outputs[i].first, outputs[i].second, "gamma", *a.gamma, false);
    for (std::size_t j = 0; j < i; ++j) {
      check_overlap(outputs[i].first, outputs[i].second, outputs[j].first, outputs[j].second, false);
    }
  }
  return axes;
}

}  // namespace exactnorm

#include "arguments.h"

#include <algorithm>
#include <optional>
#include <span>

namespace exactnorm::python {

namespace nb = nanobind;

EpsilonPlacement epsilon_placement_from(const std::string& name) {
  if (name == "variance") return EpsilonPlacement::variance;
  if (name == "deviation") return EpsilonPlacement::deviation;
  throw Error("epsilon_placement", "is '" + name + "'; expected 'variance' or 'deviation'");
}

std::string name_of(EpsilonPlacement placement) {
  return placement == EpsilonPlacement::variance ? "variance" : "deviation";
}

Nonfinite nonfinite_from(const std::string& name) {
  if (name == "propagate") return Nonfinite::propagate;
  if (name == "ignore") return Nonfinite::ignore;
  throw Error("nonfinite", "is '" + name + "'; expected 'propagate' or 'ignore'");
}

namespace {

Activation activation_from(const std::string& name) {
  if (const std::optional<Activation> activation = activation_named(name)) return *activation;
  throw Error("activation", "is '" + name + "'; expected 'relu', 'relu6', 'leaky_relu', 'silu', 'hard_swish' or None");
}

}  // namespace

std::optional<RenormalizationLimits> limits_from(const NamedLimits& limits) {
  if (!limits) return std::nullopt;
  const auto& [r_max, d_max, r_min] = *limits;
  return RenormalizationLimits{r_max, d_max, r_min};
}

Options make_options(const Axes& channel_axes, double epsilon, const std::string& epsilon_placement, int threads,
                     const NamedActivation& activation) {
  if (channel_axes.size() > maximum_rank) {
    throw Error("channel_axes", "has " + std::to_string(channel_axes.size()) + " axes; expected at most 8");
  }
  if (threads < 0) throw Error("threads", "is " + std::to_string(threads) + "; expected 1 or more, or None");
  Options options;
  options.channel_axes = IndexList(std::span<const Index>(channel_axes));
  options.epsilon = epsilon;
  options.epsilon_placement = epsilon_placement_from(epsilon_placement);
  options.activation = activation_from(std::get<0>(activation));
  options.slope = std::get<1>(activation);
  options.threads = threads;
  return options;
}

namespace {

template <typename Result>
Result copy_of(const std::vector<double>& values) {
  auto copy = std::make_unique<double[]>(std::max<std::size_t>(values.size(), 1));
  std::copy(values.begin(), values.end(), copy.get());
  double* data = copy.get();
  const nb::capsule owner(copy.release(), [](void* p) noexcept { delete[] static_cast<double*>(p); });
  return {data, {values.size()}, owner};
}

}  // namespace

Values to_values(const std::vector<double>& values) { return copy_of<Values>(values); }
Array to_array(const std::vector<double>& values) { return copy_of<Array>(values); }

}  // namespace exactnorm::python

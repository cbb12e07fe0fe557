#include "randomized/run.h"

#include <algorithm>
#include <limits>
#include <sstream>

#include "exactnorm/batch_norm.h"
#include "exactnorm/info.h"
#include "support/compare.h"
#include "support/tensor.h"

namespace exactnorm::testing {

namespace {

// Runs an action of the library under the floating-point environment of a setting.
template <typename Action>
auto under(const Setting& setting, const Action& action) {
  const ScopedEnvironment environment(setting.environment);
  return action();
}

Tensor strided(Random& random, DType dtype, const IndexList& shape) {
  return Tensor::strided(dtype, shape, random.chance(0.3) ? contiguous_strides(shape) : random_strides(random, shape));
}

Tensor strided(Random& random, DType dtype, const IndexList& shape, const std::vector<double>& values) {
  Tensor tensor = strided(random, dtype, shape);
  tensor.fill(values);
  return tensor;
}

// The same elements in parts: cut along an axis that is no channel axis, in any order. Each part is a view of every
// tensor given.
std::vector<std::vector<TensorView>> parts_of(const Case& test, const std::vector<TensorView>& whole, Random& random) {
  std::vector<std::size_t> axes;
  for (std::size_t axis = 0; axis < test.shape.size(); ++axis) {
    const auto& channel_axes = test.options.channel_axes;
    if (std::find(channel_axes.begin(), channel_axes.end(), static_cast<Index>(axis)) == channel_axes.end()) {
      axes.push_back(axis);
    }
  }
  if (axes.empty()) return {whole};
  const std::size_t axis = axes[static_cast<std::size_t>(random.between(0, static_cast<Index>(axes.size()) - 1))];
  const Index size = test.shape[axis];
  const Index first = random.between(0, size);
  const Index second = random.between(first, size);
  std::vector<std::vector<TensorView>> parts(3);
  for (const TensorView& tensor : whole) {
    parts[0].push_back(slice(tensor, axis, 0, first));
    parts[1].push_back(slice(tensor, axis, first, second - first));
    parts[2].push_back(slice(tensor, axis, second, size - second));
  }
  random.shuffle(parts);
  return parts;
}

// Adds the parts to sums of their own, and merges these.
PartialSums sum_parts(const Case& test, const std::vector<std::vector<TensorView>>& parts, const Options& options) {
  const bool of_gradients = parts.front().size() == 2;
  const PartialSums nothing(test.channels(), of_gradients ? PartialSums::Kind::gradients : PartialSums::Kind::moments);
  PartialSums total = nothing;
  for (const std::vector<TensorView>& part : parts) {
    PartialSums sums = nothing;
    of_gradients ? accumulate(sums, part[0], part[1], options) : accumulate(sums, part[0], options);
    total.merge(sums);
  }
  return total;
}

}  // namespace

std::string Setting::description() const {
  std::ostringstream text;
  text << threads << " threads, " << target << ", environment " << name_of(environment) << ", layout " << layout;
  return text.str();
}

std::optional<std::string> Results::difference(const Results& other) const {
  const std::pair<const char*, std::vector<double> Results::*> members[] = {
      {"y", &Results::y},
      {"y of inference", &Results::inferred},
      {"dx", &Results::dx},
      {"dgamma", &Results::dgamma},
      {"dbeta", &Results::dbeta},
      {"dx from sums of parts", &Results::dx_from_sums},
      {"dx of frozen statistics", &Results::frozen_dx},
      {"dgamma of frozen statistics", &Results::frozen_dgamma},
      {"dbeta of frozen statistics", &Results::frozen_dbeta}};
  const std::pair<const char*, std::vector<double> Statistics::*> statistics_members[] = {
      {"mean", &Statistics::mean},
      {"mean_residual", &Statistics::mean_residual},
      {"variance", &Statistics::variance},
      {"inverse_deviation", &Statistics::inverse_deviation}};
  for (const auto& [name, member] : statistics_members) {
    if (!same_numbers(statistics.*member, other.statistics.*member)) return name;
  }
  for (const auto& [name, member] : members) {
    if (!same_numbers(this->*member, other.*member)) return name;
  }
  if (statistics.count != other.statistics.count) return "count";
  if (moments != other.moments) return "sums of parts";
  if (gradient_sums != other.gradient_sums) return "sums of gradients of parts";
  return std::nullopt;
}

Results run(const Case& test, const Setting& setting) {
  const TargetRestorer restorer;
  set_target(setting.target);
  Random random(setting.layout);
  Options options = test.options;
  options.threads = setting.threads;
  const Index channels = test.channels();
  const Tensor x = strided(random, test.x_dtype, test.shape, test.x);
  const Tensor dy = strided(random, test.dy_dtype, test.shape, test.dy);
  const Tensor gamma(DType::float64, {channels}, test.gamma);
  const Tensor beta(DType::float64, {channels}, test.beta);
  Tensor y = strided(random, test.out_dtype, test.shape);
  Tensor inferred = strided(random, test.out_dtype, test.shape);
  Tensor dx = strided(random, test.out_dtype, test.shape);
  Tensor frozen_dx = strided(random, test.out_dtype, test.shape);
  std::vector<Tensor> of_channels(4, Tensor(DType::float64, {channels}));

  Results results;
  under(setting, [&] {
    results.statistics = training(x.view(), y.view(), {gamma.view(), beta.view()}, options);
    const Statistics given =
        given_statistics(view(test.given_mean, {channels}), view(test.given_variance, {channels}), options);
    inference(x.view(), given, inferred.view(), {gamma.view(), beta.view()}, options);
    backward(dy.view(), x.view(), results.statistics, {gamma.view()},
             {dx.view(), of_channels[0].view(), of_channels[1].view()}, options);
    backward_frozen(dy.view(), x.view(), given, {gamma.view()},
                    {frozen_dx.view(), of_channels[2].view(), of_channels[3].view()}, options);
  });
  results.y = y.values();
  results.inferred = inferred.values();
  results.dx = dx.values();
  results.frozen_dx = frozen_dx.values();
  results.dgamma = of_channels[0].values();
  results.dbeta = of_channels[1].values();
  results.frozen_dgamma = of_channels[2].values();
  results.frozen_dbeta = of_channels[3].values();
  const auto x_parts = parts_of(test, {x.view()}, random);
  const auto gradient_parts = parts_of(test, {dy.view(), x.view()}, random);
  under(setting, [&] {
    results.moments = sum_parts(test, x_parts, options);
    results.gradient_sums = sum_parts(test, gradient_parts, options);
    results.of_moments = normalizing_statistics(results.moments, options);
    backward_from_sums(dy.view(), x.view(), results.statistics, results.gradient_sums, {gamma.view()},
                       {.dx = dx.view()}, options);
  });
  results.dx_from_sums = dx.values();
  return results;
}

}  // namespace exactnorm::testing

#include "randomized/run.h"

#include <algorithm>
#include <cmath>
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

// Cuts x along an axis that is no channel axis, adds the parts to sums of their own, and merges these.
PartialSums sum_parts(const Case& test, const Setting& setting, const Tensor& x, const Options& options,
                      Random& random) {
  std::vector<std::size_t> axes;
  for (std::size_t axis = 0; axis < test.shape.size(); ++axis) {
    const auto& channel_axes = options.channel_axes;
    if (std::find(channel_axes.begin(), channel_axes.end(), static_cast<Index>(axis)) == channel_axes.end()) {
      axes.push_back(axis);
    }
  }
  std::vector<TensorView> parts = {x.view()};
  if (!axes.empty()) {
    const std::size_t axis = axes[static_cast<std::size_t>(random.between(0, static_cast<Index>(axes.size()) - 1))];
    const Index size = test.shape[axis];
    const Index first = random.between(0, size);
    const Index second = random.between(first, size);
    parts = {slice(x.view(), axis, 0, first), slice(x.view(), axis, first, second - first),
             slice(x.view(), axis, second, size - second)};
    random.shuffle(parts);
  }
  return under(setting, [&] {
    PartialSums total(test.channels());
    for (const TensorView& part : parts) {
      PartialSums sums(test.channels());
      accumulate(sums, part, options);
      total.merge(sums);
    }
    return total;
  });
}

bool same(const std::vector<double>& a, const std::vector<double>& b) {
  const auto equal = [](double p, double q) {
    return std::isnan(p) ? std::isnan(q) : std::bit_cast<std::uint64_t>(p) == std::bit_cast<std::uint64_t>(q);
  };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), equal);
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
      {"dx of frozen statistics", &Results::frozen_dx},
      {"dgamma of frozen statistics", &Results::frozen_dgamma},
      {"dbeta of frozen statistics", &Results::frozen_dbeta}};
  const std::pair<const char*, std::vector<double> Statistics::*> statistics_members[] = {
      {"mean", &Statistics::mean},
      {"mean_residual", &Statistics::mean_residual},
      {"variance", &Statistics::variance},
      {"inverse_deviation", &Statistics::inverse_deviation}};
  for (const auto& [name, member] : statistics_members) {
    if (!same(statistics.*member, other.statistics.*member)) return name;
  }
  for (const auto& [name, member] : members) {
    if (!same(this->*member, other.*member)) return name;
  }
  if (moments != other.moments) return "sums of parts";
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
    backward(dy.view(), x.view(), results.statistics, gamma.view(),
             {dx.view(), of_channels[0].view(), of_channels[1].view()}, options);
    backward_frozen(dy.view(), x.view(), given, gamma.view(),
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
  results.moments = sum_parts(test, setting, x, options, random);
  return results;
}

}  // namespace exactnorm::testing

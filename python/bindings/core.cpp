// The module exactnorm._core: the C++ functions as they are, on arrays that exist. What makes them pleasant is
// written in Python (python/exactnorm).

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "arrays.h"
#include "exactnorm/exactnorm.h"
#include "shared.h"
#include "synchronized.h"
#include "tensor/checks.h"
#include "tensors.h"
#include "torch_kernels.h"
#include "torch_marked.h"
#include "traverse/floating_point.h"

namespace exactnorm::python {
namespace {

namespace nb = nanobind;

Statistics training_of(nb::handle x, nb::handle y, nb::handle gamma, nb::handle beta, nb::handle residual,
                       nb::handle mask, const Axes& channel_axes, double epsilon, const std::string& epsilon_placement,
                       const NamedActivation& activation, int threads) {
  const Options options = make_options(channel_axes, epsilon, epsilon_placement, threads, activation);
  const Input x_array = input("x", x);
  const Output y_array = output("out", y);
  const AffineInput affine(gamma, beta, residual, mask);
  const nb::gil_scoped_release released;
  return renaming("y", "out", [&] { return training(x_array.view, y_array.view, affine.view(), options); });
}

void inference_of(nb::handle x, const Statistics& statistics, nb::handle y, nb::handle gamma, nb::handle beta,
                  nb::handle residual, nb::handle mask, const Axes& channel_axes, const NamedActivation& activation,
                  int threads) {
  const Options options = make_options(channel_axes, 0, "variance", threads, activation);
  const Input x_array = input("x", x);
  const Output y_array = output("out", y);
  const AffineInput affine(gamma, beta, residual, mask);
  const nb::gil_scoped_release released;
  renaming("y", "out", [&] { inference(x_array.view, statistics, y_array.view, affine.view(), options); });
}

void backward_of(nb::handle dy, nb::handle x, const Statistics& statistics, nb::handle gamma, nb::handle beta,
                 nb::handle residual, nb::handle mask, nb::handle dx, nb::handle dgamma, nb::handle dbeta,
                 nb::handle d_residual, bool frozen, const Axes& channel_axes, const NamedActivation& activation,
                 int threads) {
  // Epsilon is in the statistics.
  const Options options = make_options(channel_axes, 0, "variance", threads, activation);
  const Input dy_array = input("dy", dy);
  const Input x_array = input("x", x);
  const AffineInput affine(gamma, beta, residual, mask);
  const GradientOutputs gradients(dx, dgamma, dbeta, d_residual);
  const nb::gil_scoped_release released;
  GradientOutputs::renaming_them([&] {
    (frozen ? backward_frozen : backward)(dy_array.view, x_array.view, statistics, affine.view(), gradients.view(),
                                          options);
  });
}

Statistics given_statistics_of(nb::handle mean, nb::handle variance, double epsilon,
                               const std::string& epsilon_placement) {
  const Options options = make_options({}, epsilon, epsilon_placement, 0);
  const Input mean_array = input("mean", mean);
  const Input variance_array = input("variance", variance);
  return given_statistics(mean_array.view, variance_array.view, options);
}

using StatisticsState = std::tuple<Index, std::vector<double>, std::vector<double>, std::vector<double>,
                                   std::vector<double>, double, std::string, std::vector<Index>>;

Statistics statistics_from(const StatisticsState& state) {
  Statistics s;
  std::string placement;
  std::tie(s.count, s.mean, s.mean_residual, s.variance, s.inverse_deviation, s.epsilon, placement, s.counts) = state;
  s.epsilon_placement = epsilon_placement_from(placement);
  for (const std::vector<double>* values : {&s.mean_residual, &s.variance, &s.inverse_deviation}) {
    if (values->size() == s.mean.size()) continue;
    throw Error("state", "has lists of different lengths; expected one value per channel in each");
  }
  if (!s.counts.empty() && s.counts.size() != s.mean.size()) {
    throw Error("state", "has another number of counts; expected one per channel, or none");
  }
  return s;
}

void bind_statistics(nb::module_& module) {
  nb::class_<Statistics>(
      module, "Statistics",
      "What normalization needs to know of each channel, as read-only float64 arrays of one element each.\n\n"
      "Returned by `batch_norm(..., return_statistics=True)`, `statistics` and `Moments.statistics`.")
      .def_ro("count", &Statistics::count, "Elements per channel behind the values; 0 where they were given.")
      .def_prop_ro(
          "counts",
          [](const Statistics& s) { return s.counts.empty() ? std::vector<Index>(s.mean.size(), s.count) : s.counts; },
          "The same of each channel: `count`, less what was left out of it.")
      .def_prop_ro("channels", &Statistics::channels)
      .def_prop_ro(
          "mean", [](const Statistics& s) { return to_values(s.mean); }, nb::rv_policy::reference,
          "The exact mean, rounded once.")
      .def_prop_ro(
          "mean_residual", [](const Statistics& s) { return to_values(s.mean_residual); }, nb::rv_policy::reference,
          "What one float64 could not hold of the mean.")
      .def_prop_ro(
          "variance", [](const Statistics& s) { return to_values(s.variance); }, nb::rv_policy::reference,
          "The exact biased variance (divided by count), rounded once.")
      .def_prop_ro(
          "inverse_deviation", [](const Statistics& s) { return to_values(s.inverse_deviation); },
          nb::rv_policy::reference, "1 / sqrt(variance + epsilon), or 1 / (sqrt(variance) + epsilon).")
      .def_ro("epsilon", &Statistics::epsilon, "The epsilon in inverse_deviation.")
      .def_prop_ro(
          "epsilon_placement", [](const Statistics& s) { return name_of(s.epsilon_placement); },
          "'variance' or 'deviation': what it is added to.")
      .def("__getstate__",
           [](const Statistics& s) {
             return StatisticsState(s.count, s.mean, s.mean_residual, s.variance, s.inverse_deviation, s.epsilon,
                                    name_of(s.epsilon_placement), s.counts);
           })
      .def("__setstate__",
           [](Statistics& s, const StatisticsState& state) { new (&s) Statistics(statistics_from(state)); })
      .def("__repr__", [](const Statistics& s) {
        return "<exactnorm.Statistics of " + std::to_string(s.channels()) + " channels over " +
               std::to_string(s.count) + " elements each>";
      });
}

// The elements of an array of one dimension as float64, whatever the caller's floating-point environment flushes.
Values float64_values_of(nb::handle values) {
  const Input array = input("values", values);
  const DefaultFloatingPoint default_floating_point;
  check_view("values", array.view);
  return to_values(values_of(view_parameter("values", array.view, {0}, array.view)));
}

}  // namespace

NB_MODULE(_core, module) {
  nb::register_exception_translator([](const std::exception_ptr& pointer, void*) {
    try {
      std::rethrow_exception(pointer);
    } catch (const Error& error) {
      PyErr_SetString(PyExc_ValueError, error.what());
    }
  });
  bind_statistics(module);
  bind_moments(module);
  bind_weights(module);
  bind_segments(module);
  bind_running_statistics(module);
  bind_layer(module);
  bind_tensors(module);
  torch::bind_torch_kernels(module);
  torch::bind_torch_marked(module);
  bind_synchronized(module);
  module.def("training", &training_of, nb::arg("x"), nb::arg("y"), nb::arg("gamma").none(), nb::arg("beta").none(),
             nb::arg("residual").none(), nb::arg("mask").none(), nb::arg("channel_axes"), nb::arg("epsilon"),
             nb::arg("epsilon_placement"), nb::arg("activation"), nb::arg("threads"));
  module.def("inference", &inference_of, nb::arg("x"), nb::arg("statistics"), nb::arg("y"), nb::arg("gamma").none(),
             nb::arg("beta").none(), nb::arg("residual").none(), nb::arg("mask").none(), nb::arg("channel_axes"),
             nb::arg("activation"), nb::arg("threads"));
  module.def("backward", &backward_of, nb::arg("dy"), nb::arg("x"), nb::arg("statistics"), nb::arg("gamma").none(),
             nb::arg("beta").none(), nb::arg("residual").none(), nb::arg("mask").none(), nb::arg("dx").none(),
             nb::arg("dgamma").none(), nb::arg("dbeta").none(), nb::arg("d_residual").none(), nb::arg("frozen"),
             nb::arg("channel_axes"), nb::arg("activation"), nb::arg("threads"));
  module.def("given_statistics", &given_statistics_of, nb::arg("mean"), nb::arg("variance"), nb::arg("epsilon"),
             nb::arg("epsilon_placement"));
  module.def("float64_values", &float64_values_of, nb::arg("values"), nb::rv_policy::reference);
  module.def("version", [] { return std::string(version()); });
  module.def("active_target", &active_target);
  module.def("default_threads", &default_threads);
}

}  // namespace exactnorm::python

// The module exactnorm._core: the C++ functions as they are, on arrays that exist. What makes them pleasant is
// written in Python (python/exactnorm).

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "arrays.h"
#include "exactnorm/exactnorm.h"
#include "synchronized.h"
#include "tensors.h"

namespace exactnorm::python {
namespace {

namespace nb = nanobind;

using Axes = std::vector<Index>;

Options make_options(const Axes& channel_axes, double epsilon, const std::string& epsilon_placement, int threads) {
  if (channel_axes.size() > maximum_rank) {
    throw Error("channel_axes", "has " + std::to_string(channel_axes.size()) + " axes; expected at most 8");
  }
  Options options;
  options.channel_axes = IndexList(std::span<const Index>(channel_axes));
  options.epsilon = epsilon;
  if (epsilon_placement == "deviation") {
    options.epsilon_placement = EpsilonPlacement::deviation;
  } else if (epsilon_placement != "variance") {
    throw Error("epsilon_placement", "is '" + epsilon_placement + "'; expected 'variance' or 'deviation'");
  }
  if (threads < 0) throw Error("threads", "is " + std::to_string(threads) + "; expected 1 or more, or None");
  options.threads = threads;
  return options;
}

// What `call` returns; errors of the output `name` name `out`, which is what it is called in Python.
template <typename Call>
auto naming_out(const std::string& name, const Call& call) {
  try {
    return call();
  } catch (const Error& error) {
    if (error.argument() != name) throw;
    throw Error("out", std::string(error.what()).substr(name.size() + 2));
  }
}

Statistics training_of(nb::handle x, nb::handle y, nb::handle gamma, nb::handle beta, const Axes& channel_axes,
                       double epsilon, const std::string& epsilon_placement, int threads) {
  const Options options = make_options(channel_axes, epsilon, epsilon_placement, threads);
  const Input x_array = input("x", x);
  const Output y_array = output("out", y);
  const auto gamma_array = optional_input("gamma", gamma);
  const auto beta_array = optional_input("beta", beta);
  const nb::gil_scoped_release released;
  const Affine affine = {view_of(gamma_array), view_of(beta_array)};
  return naming_out("y", [&] { return training(x_array.view, y_array.view, affine, options); });
}

void inference_of(nb::handle x, const Statistics& statistics, nb::handle y, nb::handle gamma, nb::handle beta,
                  const Axes& channel_axes, int threads) {
  const Options options = make_options(channel_axes, 0, "variance", threads);
  const Input x_array = input("x", x);
  const Output y_array = output("out", y);
  const auto gamma_array = optional_input("gamma", gamma);
  const auto beta_array = optional_input("beta", beta);
  const nb::gil_scoped_release released;
  const Affine affine = {view_of(gamma_array), view_of(beta_array)};
  naming_out("y", [&] { inference(x_array.view, statistics, y_array.view, affine, options); });
}

void backward_of(nb::handle dy, nb::handle x, const Statistics& statistics, nb::handle gamma, nb::handle dx,
                 nb::handle dgamma, nb::handle dbeta, bool frozen, const Axes& channel_axes, double epsilon,
                 const std::string& epsilon_placement, int threads) {
  const Options options = make_options(channel_axes, epsilon, epsilon_placement, threads);
  const Input dy_array = input("dy", dy);
  const Input x_array = input("x", x);
  const auto gamma_array = optional_input("gamma", gamma);
  const auto dx_array = optional_output("out", dx);
  const auto dgamma_array = optional_output("dgamma", dgamma);
  const auto dbeta_array = optional_output("dbeta", dbeta);
  const Gradients gradients = {view_of(dx_array), view_of(dgamma_array), view_of(dbeta_array)};
  const nb::gil_scoped_release released;
  const auto gamma_view = view_of(gamma_array);
  naming_out("dx", [&] {
    (frozen ? backward_frozen : backward)(dy_array.view, x_array.view, statistics, gamma_view, gradients, options);
  });
}

Statistics given_statistics_of(nb::handle mean, nb::handle variance, double epsilon,
                               const std::string& epsilon_placement) {
  const Options options = make_options({}, epsilon, epsilon_placement, 0);
  const Input mean_array = input("mean", mean);
  const Input variance_array = input("variance", variance);
  return given_statistics(mean_array.view, variance_array.view, options);
}

// A NumPy array of its own.
nb::ndarray<nb::numpy, double, nb::ndim<1>> to_array(const std::vector<double>& values) {
  auto copy = std::make_unique<double[]>(std::max<std::size_t>(values.size(), 1));
  std::copy(values.begin(), values.end(), copy.get());
  double* data = copy.get();
  const nb::capsule owner(copy.release(), [](void* p) noexcept { delete[] static_cast<double*>(p); });
  return {data, {values.size()}, owner};
}

// int32, int64 and float64 need the sums' larger range.
bool fits_single_range(DType dtype) {
  return dtype == DType::float32 || dtype == DType::uint8 || dtype == DType::int8 || dtype == DType::int16;
}

void add_moments(PartialSums& sums, nb::handle x, const Axes& channel_axes, int threads) {
  const Options options = make_options(channel_axes, 0, "variance", threads);
  const Input x_array = input("x", x);
  const nb::gil_scoped_release released;
  if (fits_single_range(x_array.view.dtype) || sums.range() == PartialSums::Range::extended) {
    accumulate(sums, x_array.view, options);
    return;
  }
  // Changed only when all has gone well.
  PartialSums wide(sums.channels(), sums.kind(), PartialSums::Range::extended);
  accumulate(wide, x_array.view, options);
  wide.merge(sums);
  sums = std::move(wide);
}

nb::bytes to_bytes(const PartialSums& sums) {
  const std::vector<std::byte> bytes = sums.serialize();
  return nb::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}
PartialSums from_bytes(const nb::bytes& bytes) {
  return PartialSums::deserialize({reinterpret_cast<const std::byte*>(bytes.c_str()), bytes.size()});
}

using StatisticsState =
    std::tuple<Index, std::vector<double>, std::vector<double>, std::vector<double>, std::vector<double>>;

void bind_statistics(nb::module_& module) {
  nb::class_<Statistics>(
      module, "Statistics",
      "What normalization needs to know of each channel, as float64 arrays of one element each.\n\n"
      "Returned by `batch_norm(..., return_statistics=True)`, `statistics` and `Moments.statistics`.")
      .def_ro("count", &Statistics::count, "Elements per channel behind the values; 0 where they were given.")
      .def_prop_ro("channels", &Statistics::channels)
      .def_prop_ro(
          "mean", [](const Statistics& s) { return to_array(s.mean); }, nb::rv_policy::move,
          "The exact mean, rounded once.")
      .def_prop_ro(
          "mean_residual", [](const Statistics& s) { return to_array(s.mean_residual); }, nb::rv_policy::move,
          "What one float64 could not hold of the mean.")
      .def_prop_ro(
          "variance", [](const Statistics& s) { return to_array(s.variance); }, nb::rv_policy::move,
          "The exact biased variance (divided by count), rounded once.")
      .def_prop_ro(
          "inverse_deviation", [](const Statistics& s) { return to_array(s.inverse_deviation); }, nb::rv_policy::move,
          "1 / sqrt(variance + epsilon), or 1 / (sqrt(variance) + epsilon).")
      .def("__getstate__",
           [](const Statistics& s) {
             return StatisticsState(s.count, s.mean, s.mean_residual, s.variance, s.inverse_deviation);
           })
      .def("__setstate__",
           [](Statistics& s, const StatisticsState& state) {
             const auto& [count, mean, mean_residual, variance, inverse_deviation] = state;
             new (&s) Statistics{count, mean, mean_residual, variance, inverse_deviation};
           })
      .def("__repr__", [](const Statistics& s) {
        return "<exactnorm.Statistics of " + std::to_string(s.channels()) + " channels over " +
               std::to_string(s.count) + " elements each>";
      });
}

void bind_moments(nb::module_& module) {
  nb::class_<PartialSums>(module, "Sums", "Exact sums of x and x * x per channel.")
      .def("__init__", [](PartialSums* self, Index channels) { new (self) PartialSums(channels); })
      .def_prop_ro("channels", &PartialSums::channels)
      .def_prop_ro("count", &PartialSums::count)
      .def("nonfinite_count", &PartialSums::nonfinite_count)
      .def("add", &add_moments)
      .def("merge", &PartialSums::merge)
      .def("copy", [](const PartialSums& self) { return PartialSums(self); })
      .def("equals", [](const PartialSums& self, const PartialSums& other) { return self == other; })
      .def("to_bytes", &to_bytes)
      .def_static("from_bytes", &from_bytes)
      .def("statistics", [](const PartialSums& self, double epsilon, const std::string& epsilon_placement) {
        return statistics_of(self, make_options({}, epsilon, epsilon_placement, 0));
      });
}

using RunningState =
    std::tuple<std::vector<double>, std::vector<double>, Index, std::vector<Index>, std::optional<double>>;

void bind_running_statistics(nb::module_& module) {
  nb::class_<RunningStatistics>(
      module, "RunningStatistics",
      "Means and variances remembered over training batches, for inference.\n\n"
      "Starts at mean 0 and variance 1. `momentum` is the weight of the new value, as in PyTorch; with None, all\n"
      "batches have the same weight.")
      .def(
          "__init__",
          [](RunningStatistics* self, Index channels, std::optional<double> momentum) {
            new (self) RunningStatistics(channels);
            self->momentum = momentum;
          },
          nb::arg("channels"), nb::arg("momentum").none() = 0.1)
      .def_prop_ro("channels", &RunningStatistics::channels)
      .def_prop_ro(
          "mean", [](const RunningStatistics& s) { return to_array(s.mean); }, nb::rv_policy::move)
      .def_prop_ro(
          "variance", [](const RunningStatistics& s) { return to_array(s.variance); }, nb::rv_policy::move,
          "Unbiased: divided by count - 1.")
      .def_ro("batches_tracked", &RunningStatistics::batches_tracked, "Updates so far.")
      .def_ro("batches_refused", &RunningStatistics::batches_refused, "How many of them each channel refused.")
      .def_rw("momentum", &RunningStatistics::momentum, nb::arg().none())
      .def("update", &RunningStatistics::update, nb::arg("batch"),
           "Takes in the statistics of one batch; returns the channels that refused theirs, as they are not finite.\n\n"
           "Raises ValueError, and changes nothing, when the number of channels differs or the batch has one element\n"
           "per channel.")
      .def(
          "statistics",
          [](const RunningStatistics& self, double epsilon, const std::string& epsilon_placement) {
            return self.statistics(make_options({}, epsilon, epsilon_placement, 0));
          },
          nb::kw_only(), nb::arg("epsilon") = 1e-5, nb::arg("epsilon_placement") = "variance",
          "The statistics to give to `batch_norm_inference`.")
      .def("__getstate__",
           [](const RunningStatistics& s) {
             return RunningState(s.mean, s.variance, s.batches_tracked, s.batches_refused, s.momentum);
           })
      .def("__setstate__", [](RunningStatistics& s, const RunningState& state) {
        auto* self = new (&s) RunningStatistics(0);
        std::tie(self->mean, self->variance, self->batches_tracked, self->batches_refused, self->momentum) = state;
        const std::size_t channels = self->mean.size();
        if (self->variance.size() != channels || self->batches_refused.size() != channels) {
          *self = RunningStatistics(0);
          throw Error("state", "has lists of different lengths; expected one value per channel in each");
        }
      });
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
  bind_running_statistics(module);
  bind_tensors(module);
  bind_synchronized(module);
  module.def("training", &training_of, nb::arg("x"), nb::arg("y"), nb::arg("gamma").none(), nb::arg("beta").none(),
             nb::arg("channel_axes"), nb::arg("epsilon"), nb::arg("epsilon_placement"), nb::arg("threads"));
  module.def("inference", &inference_of, nb::arg("x"), nb::arg("statistics"), nb::arg("y"), nb::arg("gamma").none(),
             nb::arg("beta").none(), nb::arg("channel_axes"), nb::arg("threads"));
  module.def("backward", &backward_of, nb::arg("dy"), nb::arg("x"), nb::arg("statistics"), nb::arg("gamma").none(),
             nb::arg("dx").none(), nb::arg("dgamma").none(), nb::arg("dbeta").none(), nb::arg("frozen"),
             nb::arg("channel_axes"), nb::arg("epsilon"), nb::arg("epsilon_placement"), nb::arg("threads"));
  module.def("given_statistics", &given_statistics_of, nb::arg("mean"), nb::arg("variance"), nb::arg("epsilon"),
             nb::arg("epsilon_placement"));
  module.def("version", [] { return std::string(version()); });
  module.def("active_target", &active_target);
  module.def("default_threads", &default_threads);
}

}  // namespace exactnorm::python

// Behind exactnorm.Segments, and the functions that take one.

#include "exactnorm/segments.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <string>
#include <vector>

#include "arguments.h"
#include "arrays.h"
#include "shared.h"

namespace exactnorm::python {
namespace {

namespace nb = nanobind;

std::vector<Statistics> training_of(nb::handle x, const Segments& segments, nb::handle y, nb::handle gamma,
                                    nb::handle beta, nb::handle residual, nb::handle mask, const Axes& channel_axes,
                                    double epsilon, const std::string& epsilon_placement,
                                    const NamedActivation& activation, int threads) {
  const Options options = make_options(channel_axes, epsilon, epsilon_placement, threads, activation);
  const Input x_array = input("x", x);
  const Output y_array = output("out", y);
  const AffineInput affine(gamma, beta, residual, mask);
  const nb::gil_scoped_release released;
  return renaming("y", "out",
                  [&] { return segmented_training(x_array.view, segments, y_array.view, affine.view(), options); });
}

void inference_of(nb::handle x, const Segments& segments, const std::vector<Statistics>& statistics, nb::handle y,
                  nb::handle gamma, nb::handle beta, nb::handle residual, nb::handle mask, const Axes& channel_axes,
                  const NamedActivation& activation, int threads) {
  const Options options = make_options(channel_axes, 0, "variance", threads, activation);
  const Input x_array = input("x", x);
  const Output y_array = output("out", y);
  const AffineInput affine(gamma, beta, residual, mask);
  const nb::gil_scoped_release released;
  renaming("y", "out",
           [&] { segmented_inference(x_array.view, segments, statistics, y_array.view, affine.view(), options); });
}

void backward_of(nb::handle dy, nb::handle x, const Segments& segments, const std::vector<Statistics>& statistics,
                 nb::handle gamma, nb::handle beta, nb::handle residual, nb::handle mask, nb::handle dx,
                 nb::handle dgamma, nb::handle dbeta, nb::handle d_residual, const Axes& channel_axes,
                 const NamedActivation& activation, int threads) {
  const Options options = make_options(channel_axes, 0, "variance", threads, activation);
  const Input dy_array = input("dy", dy);
  const Input x_array = input("x", x);
  const AffineInput affine(gamma, beta, residual, mask);
  const GradientOutputs gradients(dx, dgamma, dbeta, d_residual);
  const nb::gil_scoped_release released;
  GradientOutputs::renaming_them([&] {
    segmented_backward(dy_array.view, x_array.view, segments, statistics, affine.view(), gradients.view(), options);
  });
}

std::vector<Statistics> statistics_of_segments(nb::handle x, const Segments& segments, Index channels,
                                               const Axes& channel_axes, double epsilon,
                                               const std::string& epsilon_placement, const std::string& nonfinite,
                                               int threads) {
  const Options options = make_options(channel_axes, epsilon, epsilon_placement, threads);
  const Nonfinite treatment = nonfinite_from(nonfinite);
  const Input x_array = input("x", x);
  const nb::gil_scoped_release released;
  std::vector<PartialSums> sums(static_cast<std::size_t>(segments.count()), PartialSums(channels));
  accumulate(sums, x_array.view, segments, options);
  std::vector<Statistics> statistics;
  for (const PartialSums& of_segment : sums) statistics.push_back(statistics_of(of_segment, options, treatment));
  return statistics;
}

}  // namespace

void bind_segments(nb::module_& module) {
  nb::class_<Segments>(module, "Segments",
                       "Which rows, along one axis that is no channel axis, have statistics of their own.\n\n"
                       "ids\n"
                       "    For each row the number of its segment.\n"
                       "count\n"
                       "    How many segments there are; some may have no row.\n"
                       "axis\n"
                       "    The axis of the rows.")
      .def(nb::init<const std::vector<Index>&, Index, Index>(), nb::arg("ids"), nb::arg("count"), nb::arg("axis") = 0)
      .def_static("even", &Segments::even, nb::arg("rows"), nb::arg("size"), nb::arg("axis") = 0,
                  "Ghost batches of at most `size` rows, as equal as PyTorch's chunk() makes them: TabNet's rule.")
      .def_static("exact", &Segments::exact, nb::arg("rows"), nb::arg("size"), nb::arg("axis") = 0,
                  "Ghost batches of `size` rows, and one of the rest, which joins the one before where it is one row.")
      .def_prop_ro("count", &Segments::count)
      .def_prop_ro("rows", &Segments::rows)
      .def_prop_ro("axis", &Segments::axis)
      .def("__repr__", [](const Segments& self) {
        return "<exactnorm.Segments: " + std::to_string(self.count()) + " of " + std::to_string(self.rows()) +
               " rows along axis " + std::to_string(self.axis()) + ">";
      });
  module.def("segmented_training", &training_of, nb::arg("x"), nb::arg("segments"), nb::arg("y"),
             nb::arg("gamma").none(), nb::arg("beta").none(), nb::arg("residual").none(), nb::arg("mask").none(),
             nb::arg("channel_axes"), nb::arg("epsilon"), nb::arg("epsilon_placement"), nb::arg("activation"),
             nb::arg("threads"));
  module.def("segmented_inference", &inference_of, nb::arg("x"), nb::arg("segments"), nb::arg("statistics"),
             nb::arg("y"), nb::arg("gamma").none(), nb::arg("beta").none(), nb::arg("residual").none(),
             nb::arg("mask").none(), nb::arg("channel_axes"), nb::arg("activation"), nb::arg("threads"));
  module.def("segmented_backward", &backward_of, nb::arg("dy"), nb::arg("x"), nb::arg("segments"),
             nb::arg("statistics"), nb::arg("gamma").none(), nb::arg("beta").none(), nb::arg("residual").none(),
             nb::arg("mask").none(), nb::arg("dx").none(), nb::arg("dgamma").none(), nb::arg("dbeta").none(),
             nb::arg("d_residual").none(), nb::arg("channel_axes"), nb::arg("activation"), nb::arg("threads"));
  module.def("segmented_statistics", &statistics_of_segments, nb::arg("x"), nb::arg("segments"), nb::arg("channels"),
             nb::arg("channel_axes"), nb::arg("epsilon"), nb::arg("epsilon_placement"), nb::arg("nonfinite"),
             nb::arg("threads"));
}

}  // namespace exactnorm::python

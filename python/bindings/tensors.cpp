// What PyTorch's operators call: the library's functions with channels on axis 1.

#include "tensors.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "arguments.h"
#include "arrays.h"
#include "exactnorm/exactnorm.h"
#include "tensor/elements.h"
#include "tensor_arguments.h"
#include "traverse/floating_point.h"

namespace exactnorm::python {
namespace {

namespace nb = nanobind;

void training_of(nb::handle x, nb::handle y, nb::handle weight, nb::handle bias, nb::handle statistics, double epsilon,
                 int threads, nb::handle residual, const NamedActivation& activation) {
  const Options options = make_options({1}, epsilon, "variance", threads, activation);
  const auto residual_array = optional_input("residual", residual);
  const Input x_array = input("input", x);
  const Output y_array = output("output", y);
  const auto weight_array = optional_input("weight", weight);
  const auto bias_array = optional_input("bias", bias);
  const Output found = output("statistics", statistics);
  check_statistics_rows(found.view);
  const nb::gil_scoped_release released;
  store_statistics(training(x_array.view, y_array.view,
                            {view_of(weight_array), view_of(bias_array), view_of(residual_array)}, options),
                   found.view);
}

void inference_of(nb::handle x, nb::handle y, nb::handle mean, nb::handle variance, nb::handle weight, nb::handle bias,
                  double epsilon, int threads, nb::handle residual, const NamedActivation& activation) {
  const Options options = make_options({1}, epsilon, "variance", threads, activation);
  const auto residual_array = optional_input("residual", residual);
  const Input x_array = input("input", x);
  const Output y_array = output("output", y);
  const Input mean_array = input("running_mean", mean);
  const Input variance_array = input("running_var", variance);
  const auto weight_array = optional_input("weight", weight);
  const auto bias_array = optional_input("bias", bias);
  const nb::gil_scoped_release released;
  inference(x_array.view, given_statistics(mean_array.view, variance_array.view, options), y_array.view,
            {view_of(weight_array), view_of(bias_array), view_of(residual_array)}, options);
}

void given_statistics_of(nb::handle mean, nb::handle variance, nb::handle statistics, double epsilon) {
  const Input mean_array = input("running_mean", mean);
  const Input variance_array = input("running_var", variance);
  const Output found = output("statistics", statistics);
  check_statistics_rows(found.view);
  store_statistics(given_statistics(mean_array.view, variance_array.view, tensor_options(epsilon, 1)), found.view);
}

void backward_of(nb::handle dy, nb::handle x, nb::handle statistics, nb::handle weight, nb::handle dx,
                 nb::handle dweight, nb::handle dbias, bool frozen, double epsilon, int threads, nb::handle bias,
                 nb::handle residual, nb::handle d_residual, const NamedActivation& activation, nb::handle y) {
  const Options options = make_options({1}, epsilon, "variance", threads, activation);
  const auto bias_array = optional_input("bias", bias);
  const auto residual_array = optional_input("residual", residual);
  const auto d_residual_array = optional_output("grad_residual", d_residual);
  const auto y_array = optional_input("output", y);
  const Input dy_array = input("grad_output", dy);
  const Input x_array = input("input", x);
  const Input found = input("statistics", statistics);
  const auto weight_array = optional_input("weight", weight);
  const auto dx_array = optional_output("grad_input", dx);
  const auto dweight_array = optional_output("grad_weight", dweight);
  const auto dbias_array = optional_output("grad_bias", dbias);
  const Gradients gradients = {view_of(dx_array), view_of(dweight_array), view_of(dbias_array),
                               view_of(d_residual_array)};
  const nb::gil_scoped_release released;
  const Affine affine = {.gamma = view_of(weight_array),
                         .beta = view_of(bias_array),
                         .residual = view_of(residual_array),
                         .output = view_of(y_array)};
  (frozen ? backward_frozen : backward)(dy_array.view, x_array.view, load_statistics(found.view, epsilon), affine,
                                        gradients, options);
}

void update_running_of(nb::handle statistics, nb::handle mean, nb::handle variance, double momentum) {
  const Input batch = input("statistics", statistics);
  const Output mean_array = output("running_mean", mean);
  const Output variance_array = output("running_var", variance);
  const DefaultFloatingPoint default_floating_point;  // float32 numbers are converted here
  for (const auto& [name, view] : {std::pair("running_mean", mean_array.view), {"running_var", variance_array.view}}) {
    if (view.shape.size() != 1 || !is_floating(view.dtype)) throw Error(name, "expected one float per channel");
  }
  update_running(load_statistics(batch.view, 0), mean_array.view, variance_array.view, momentum);
}

}  // namespace

void bind_tensors(nb::module_& module) {
  const auto residual = nb::arg("residual").none() = nb::none();
  const auto activation = nb::arg("activation") = NamedActivation("none", 0.0);
  module.def("tensor_training", &training_of, nb::arg("x"), nb::arg("y"), nb::arg("weight").none(),
             nb::arg("bias").none(), nb::arg("statistics"), nb::arg("epsilon"), nb::arg("threads"), residual,
             activation);
  module.def("tensor_inference", &inference_of, nb::arg("x"), nb::arg("y"), nb::arg("running_mean"),
             nb::arg("running_var"), nb::arg("weight").none(), nb::arg("bias").none(), nb::arg("epsilon"),
             nb::arg("threads"), residual, activation);
  module.def("tensor_given_statistics", &given_statistics_of, nb::arg("running_mean"), nb::arg("running_var"),
             nb::arg("statistics"), nb::arg("epsilon"));
  module.def("tensor_backward", &backward_of, nb::arg("dy"), nb::arg("x"), nb::arg("statistics"),
             nb::arg("weight").none(), nb::arg("dx").none(), nb::arg("dweight").none(), nb::arg("dbias").none(),
             nb::arg("frozen"), nb::arg("epsilon"), nb::arg("threads"), nb::arg("bias").none() = nb::none(), residual,
             nb::arg("d_residual").none() = nb::none(), activation, nb::arg("y").none() = nb::none());
  module.def("tensor_update_running", &update_running_of, nb::arg("statistics"), nb::arg("running_mean"),
             nb::arg("running_var"), nb::arg("momentum"));
}

}  // namespace exactnorm::python

// Behind exactnorm.BatchNorm.

#include "exactnorm/layer.h"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "arguments.h"
#include "arrays.h"
#include "shared.h"

namespace exactnorm::python {
namespace {

namespace nb = nanobind;

struct LayerState {
  explicit LayerState(BatchNorm of_layer) : layer(std::move(of_layer)) {}

  std::mutex mutex;
  BatchNorm layer;
  // The copy of the layer that the latest pass went through, if that was an evaluation.
  std::shared_ptr<BatchNorm> evaluated;
};

// Training passes and backward passes take turns. Evaluations run at the same time, each on a copy of the layer.
class SharedLayer {
 public:
  explicit SharedLayer(BatchNorm layer) : state_(std::make_shared<LayerState>(std::move(layer))) {}

  void forward(nb::handle x, nb::handle y, nb::handle residual, nb::handle mask, bool training,
               const NamedLimits& renormalization, const Axes& channel_axes, double epsilon,
               const std::string& epsilon_placement, const NamedActivation& activation, int threads) {
    const Options options = make_options(channel_axes, epsilon, epsilon_placement, threads, activation);
    const Input x_array = input("x", x);
    const Output y_array = output("out", y);
    const auto residual_array = optional_input("residual", residual);
    const auto mask_array = optional_mask(mask);
    const nb::gil_scoped_release released;
    const auto run = [&](BatchNorm& layer) {
      layer.options = options;
      layer.renormalization = limits_from(renormalization);
      layer.set_training(training);
      renaming("y", "out", [&] {
        static_cast<void>(layer.forward(x_array.view, y_array.view, view_of(residual_array), view_of(mask_array)));
      });
    };
    std::unique_lock lock(state_->mutex);
    if (training) {
      run(state_->layer);
      state_->evaluated.reset();
      return;
    }
    auto copy = std::make_shared<BatchNorm>(state_->layer);
    lock.unlock();
    run(*copy);
    lock.lock();
    state_->evaluated = std::move(copy);
  }

  std::tuple<std::vector<double>, std::vector<double>> backward(nb::handle dy, nb::handle x, nb::handle dx,
                                                                nb::handle residual, nb::handle mask,
                                                                nb::handle d_residual, int threads) {
    const Input dy_array = input("dy", dy);
    const Input x_array = input("x", x);
    const Output dx_array = output("out", dx);
    const auto residual_array = optional_input("residual", residual);
    const auto mask_array = optional_mask(mask);
    const auto d_residual_array = optional_output("out_residual", d_residual);
    return locked(state_->mutex, [&] {
      BatchNorm& layer = state_->evaluated ? *state_->evaluated : state_->layer;
      layer.options.threads = threads;
      try {
        renaming("dx", "out", [&] {
          renaming("d_residual", "out_residual", [&] {
            layer.backward(dy_array.view, x_array.view, dx_array.view, view_of(residual_array),
                           view_of(d_residual_array), view_of(mask_array));
          });
        });
      } catch (const Error& error) {
        if (error.argument() == "backward") throw std::runtime_error(error.what());
        throw;
      }
      return std::tuple(layer.gamma_gradient, layer.beta_gradient);
    });
  }

  // Their memory stays where it is as long as the layer lives.
  [[nodiscard]] std::vector<double>& gamma() { return state_->layer.gamma; }
  [[nodiscard]] std::vector<double>& beta() { return state_->layer.beta; }

  [[nodiscard]] SharedRunning running() const {
    return {std::shared_ptr<std::mutex>(state_, &state_->mutex),
            std::shared_ptr<RunningStatistics>(state_, &state_->layer.running)};
  }
  void set_running(const SharedRunning& values) {
    RunningStatistics copy = values.copy();
    locked(state_->mutex, [&] {
      RunningStatistics& running = state_->layer.running;
      if (copy.channels() != running.channels()) {
        throw Error("running", "has " + std::to_string(copy.channels()) + " channels; expected " +
                                   std::to_string(running.channels()));
      }
      running = std::move(copy);
    });
  }

 private:
  std::shared_ptr<LayerState> state_;
};

// The parameter itself, to be changed freely; it keeps the layer alive.
Array view_of(std::vector<double>& values) { return {values.data(), {values.size()}, nb::handle()}; }

}  // namespace

void bind_layer(nb::module_& module) {
  module.def(
      "renormalization_limits",
      [](Index begin, Index r_end, Index d_end, double r_max, double d_max, Index step) {
        const RenormalizationLimits limits = RenormalizationSchedule{begin, r_end, d_end, r_max, d_max}.at(step);
        return std::tuple(limits.r_max, limits.d_max);
      },
      nb::arg("begin"), nb::arg("r_end"), nb::arg("d_end"), nb::arg("r_max"), nb::arg("d_max"), nb::arg("step"));
  nb::class_<SharedLayer>(module, "Layer", "A layer with state.")
      .def("__init__", [](SharedLayer* self, Index channels) { new (self) SharedLayer(BatchNorm(channels)); })
      .def("forward", &SharedLayer::forward, nb::arg("x"), nb::arg("y"), nb::arg("residual").none(),
           nb::arg("mask").none(), nb::arg("training"), nb::arg("renormalization").none(), nb::arg("channel_axes"),
           nb::arg("epsilon"), nb::arg("epsilon_placement"), nb::arg("activation"), nb::arg("threads"))
      .def(
          "backward",
          [](SharedLayer& self, nb::handle dy, nb::handle x, nb::handle dx, nb::handle residual, nb::handle mask,
             nb::handle d_residual, int threads) {
            const auto [dgamma, dbeta] = self.backward(dy, x, dx, residual, mask, d_residual, threads);
            return std::tuple(to_array(dgamma), to_array(dbeta));
          },
          nb::arg("dy"), nb::arg("x"), nb::arg("dx"), nb::arg("residual").none(), nb::arg("mask").none(),
          nb::arg("d_residual").none(), nb::arg("threads"))
      .def_prop_ro("gamma", [](SharedLayer& self) { return view_of(self.gamma()); })
      .def_prop_ro("beta", [](SharedLayer& self) { return view_of(self.beta()); })
      .def_prop_rw("running", &SharedLayer::running, &SharedLayer::set_running, nb::rv_policy::move)
      .def("__getstate__", [](SharedLayer& self) { return std::tuple(self.gamma(), self.beta(), self.running()); })
      .def("__setstate__",
           [](SharedLayer& self, const std::tuple<std::vector<double>, std::vector<double>, SharedRunning>& state) {
             const auto& [gamma, beta, running] = state;
             BatchNorm layer(0);
             layer.running = running.copy();
             const auto channels = static_cast<std::size_t>(layer.running.channels());
             if (gamma.size() != channels || beta.size() != channels) {
               throw Error("state", "has lists of different lengths; expected one value per channel in each");
             }
             layer.gamma = gamma;
             layer.beta = beta;
             new (&self) SharedLayer(std::move(layer));
           });
}

}  // namespace exactnorm::python

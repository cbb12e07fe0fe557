// Behind exactnorm.RunningStatistics.

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "arguments.h"
#include "exactnorm/error.h"
#include "exactnorm/layer.h"
#include "shared.h"

namespace exactnorm::python {
namespace {

namespace nb = nanobind;

VarianceKind variance_kind_from(const std::string& name) {
  if (name == "unbiased") return VarianceKind::unbiased;
  if (name == "biased") return VarianceKind::biased;
  throw Error("variance_kind", "is '" + name + "'; expected 'unbiased' or 'biased'");
}
std::string name_of(VarianceKind kind) { return kind == VarianceKind::unbiased ? "unbiased" : "biased"; }

using State =
    std::tuple<std::vector<double>, std::vector<double>, Index, std::vector<Index>, std::optional<double>, std::string>;

State state_of(const SharedRunning& self) {
  RunningStatistics s = self.copy();
  return {std::move(s.mean), std::move(s.variance),   s.batches_tracked, std::move(s.batches_refused),
          s.momentum,        name_of(s.variance_kind)};
}

RunningStatistics from_state(const State& state) {
  RunningStatistics values(0);
  std::string kind;
  std::tie(values.mean, values.variance, values.batches_tracked, values.batches_refused, values.momentum, kind) = state;
  values.variance_kind = variance_kind_from(kind);
  if (values.variance.size() != values.mean.size() || values.batches_refused.size() != values.mean.size()) {
    throw Error("state", "has lists of different lengths; expected one value per channel in each");
  }
  return values;
}

// A property whose values are one per channel.
template <typename Value>
void assign(const SharedRunning& self, const char* name, std::vector<Value> RunningStatistics::*member,
            std::vector<Value> values) {
  self.use([&](RunningStatistics& running) {
    std::vector<Value>& target = running.*member;
    if (values.size() != target.size()) {
      throw Error(name, "has " + std::to_string(values.size()) + " values; expected " + std::to_string(target.size()) +
                            ", one per channel");
    }
    target = std::move(values);
  });
}

template <typename Value>
auto get(const SharedRunning& self, Value RunningStatistics::*member) {
  return self.use([&](const RunningStatistics& running) { return running.*member; });
}

template <typename Value>
void set(const SharedRunning& self, Value RunningStatistics::*member, const Value& value) {
  self.use([&](RunningStatistics& running) { running.*member = value; });
}

}  // namespace

void bind_running_statistics(nb::module_& module) {
  using Running = RunningStatistics;
  nb::class_<SharedRunning>(module, "Running", "Running statistics, a layer's or by themselves.")
      .def("__init__", [](SharedRunning* self, Index channels) { new (self) SharedRunning(Running(channels)); })
      .def_prop_ro("channels",
                   [](const SharedRunning& s) { return s.use([](const Running& r) { return r.channels(); }); })
      .def_prop_rw(
          "mean", [](const SharedRunning& s) { return to_values(get(s, &Running::mean)); },
          [](const SharedRunning& s, std::vector<double> values) {
            assign(s, "mean", &Running::mean, std::move(values));
          },
          nb::rv_policy::reference)
      .def_prop_rw(
          "variance", [](const SharedRunning& s) { return to_values(get(s, &Running::variance)); },
          [](const SharedRunning& s, std::vector<double> values) {
            assign(s, "variance", &Running::variance, std::move(values));
          },
          nb::rv_policy::reference)
      .def_prop_rw(
          "batches_tracked", [](const SharedRunning& s) { return get(s, &Running::batches_tracked); },
          [](const SharedRunning& s, Index value) { set(s, &Running::batches_tracked, value); })
      .def_prop_rw(
          "batches_refused", [](const SharedRunning& s) { return get(s, &Running::batches_refused); },
          [](const SharedRunning& s, std::vector<Index> values) {
            assign(s, "batches_refused", &Running::batches_refused, std::move(values));
          })
      .def_prop_rw(
          "momentum", [](const SharedRunning& s) { return get(s, &Running::momentum); },
          [](const SharedRunning& s, std::optional<double> value) { set(s, &Running::momentum, value); },
          nb::for_setter(nb::arg().none()))
      .def_prop_rw(
          "variance_kind", [](const SharedRunning& s) { return name_of(get(s, &Running::variance_kind)); },
          [](const SharedRunning& s, const std::string& name) {
            set(s, &Running::variance_kind, variance_kind_from(name));
          })
      .def("update",
           [](const SharedRunning& self, const Statistics& batch) {
             return self.use([&](Running& running) { return running.update(batch); });
           })
      .def("statistics",
           [](const SharedRunning& self, double epsilon, const std::string& epsilon_placement) {
             return self.copy().statistics(make_options({}, epsilon, epsilon_placement, 0));
           })
      .def("__getstate__", &state_of)
      .def("__setstate__",
           [](SharedRunning& self, const State& state) { new (&self) SharedRunning(from_state(state)); });
}

}  // namespace exactnorm::python

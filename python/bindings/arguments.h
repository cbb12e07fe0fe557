#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "exactnorm/error.h"
#include "exactnorm/options.h"
#include "exactnorm/renormalization.h"
#include "exactnorm/sums.h"

// What the module's functions take and give besides arrays.

namespace exactnorm::python {

using Axes = std::vector<Index>;

/// Throws Error, naming the argument, for what no Options can have.
[[nodiscard]] EpsilonPlacement epsilon_placement_from(const std::string& name);
[[nodiscard]] std::string name_of(EpsilonPlacement placement);
[[nodiscard]] Nonfinite nonfinite_from(const std::string& name);
/// An activation's name and slope.
using NamedActivation = std::tuple<std::string, double>;
/// r_max, d_max and r_min of batch renormalization; None for none.
using NamedLimits = std::optional<std::tuple<double, double, std::optional<double>>>;
[[nodiscard]] std::optional<RenormalizationLimits> limits_from(const NamedLimits& limits);
[[nodiscard]] Options make_options(const Axes& channel_axes, double epsilon, const std::string& epsilon_placement,
                                   int threads, const NamedActivation& activation = {"none", 0.0});

/// What `call` returns; its errors of the argument `from` name `to`, which is what it is called in Python.
template <typename Call>
auto renaming(const std::string& from, const std::string& to, const Call& call) {
  try {
    return call();
  } catch (const Error& error) {
    if (error.argument() != from) throw;
    throw Error(to, error.problem());
  }
}

/// A NumPy array of its own, read-only: what is written to it would reach nobody. To be returned by reference.
using Values = nanobind::ndarray<nanobind::numpy, const double, nanobind::ndim<1>>;
[[nodiscard]] Values to_values(const std::vector<double>& values);
/// One that may be written to.
using Array = nanobind::ndarray<nanobind::numpy, double, nanobind::ndim<1>>;
[[nodiscard]] Array to_array(const std::vector<double>& values);

}  // namespace exactnorm::python

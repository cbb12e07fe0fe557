// Behind exactnorm.WeightedMoments, and the functions that take weights.

#include "exactnorm/weights.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "arguments.h"
#include "arrays.h"
#include "shared.h"

namespace exactnorm::python {
namespace {

namespace nb = nanobind;

class SharedWeighted {
 public:
  explicit SharedWeighted(WeightedMoments moments) : channels_(moments.channels()), moments_(std::move(moments)) {}

  [[nodiscard]] Index channels() const { return channels_; }

  template <typename Use>
  auto use(const Use& use) const {
    return locked(mutex_, [&] { return use(moments_); });
  }

  void add(nb::handle x, nb::handle weights, const Axes& channel_axes, int threads) {
    const Options options = make_options(channel_axes, 0, "variance", threads);
    const Input x_array = input("x", x);
    const Input weights_array = input("weights", weights);
    const nb::gil_scoped_release released;
    WeightedMoments part(channels_);
    accumulate(part, x_array.view, weights_array.view, options);
    const std::lock_guard lock(mutex_);
    renaming("other", "x", [&] { moments_.merge(part); });
  }

  void merge(const SharedWeighted& other) {
    const WeightedMoments copy = other.use([](const WeightedMoments& moments) { return moments; });
    const nb::gil_scoped_release released;
    const std::lock_guard lock(mutex_);
    moments_.merge(copy);
  }

  bool equals(const SharedWeighted& other) const {
    const WeightedMoments copy = other.use([](const WeightedMoments& moments) { return moments; });
    return use([&](const WeightedMoments& moments) { return moments == copy; });
  }

 private:
  Index channels_;
  mutable std::mutex mutex_;
  WeightedMoments moments_;
};

nb::bytes to_bytes(const SharedWeighted& shared) {
  const std::vector<std::byte> bytes = shared.use([](const WeightedMoments& moments) { return moments.serialize(); });
  return nb::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Statistics statistics_from(const SharedWeighted& shared, double epsilon, const std::string& epsilon_placement,
                           bool is_normalizing) {
  const Options options = make_options({}, epsilon, epsilon_placement, 0);
  return shared.use([&](const WeightedMoments& moments) {
    return is_normalizing ? normalizing_statistics(moments, options) : statistics_of(moments, options);
  });
}

Statistics training_of(nb::handle x, nb::handle weights, nb::handle y, nb::handle gamma, nb::handle beta,
                       nb::handle residual, nb::handle mask, const Axes& channel_axes, double epsilon,
                       const std::string& epsilon_placement, const NamedActivation& activation, int threads) {
  const Options options = make_options(channel_axes, epsilon, epsilon_placement, threads, activation);
  const Input x_array = input("x", x);
  const Input weights_array = input("weights", weights);
  const Output y_array = output("out", y);
  const AffineInput affine(gamma, beta, residual, mask);
  const nb::gil_scoped_release released;
  return renaming("y", "out", [&] {
    return weighted_training(x_array.view, weights_array.view, y_array.view, affine.view(), options);
  });
}

void backward_of(nb::handle dy, nb::handle x, nb::handle weights, const Statistics& statistics, nb::handle gamma,
                 nb::handle beta, nb::handle residual, nb::handle mask, nb::handle dx, nb::handle dgamma,
                 nb::handle dbeta, nb::handle d_residual, const Axes& channel_axes, const NamedActivation& activation,
                 int threads) {
  const Options options = make_options(channel_axes, 0, "variance", threads, activation);
  const Input dy_array = input("dy", dy);
  const Input x_array = input("x", x);
  const Input weights_array = input("weights", weights);
  const AffineInput affine(gamma, beta, residual, mask);
  const GradientOutputs gradients(dx, dgamma, dbeta, d_residual);
  const nb::gil_scoped_release released;
  GradientOutputs::renaming_them([&] {
    weighted_backward(dy_array.view, x_array.view, weights_array.view, statistics, affine.view(), gradients.view(),
                      options);
  });
}

}  // namespace

void bind_weights(nb::module_& module) {
  nb::class_<SharedWeighted>(module, "WeightedSums", "Exact sums of w, w * x and w * x * x per channel.")
      .def("__init__",
           [](SharedWeighted* self, Index channels) { new (self) SharedWeighted(WeightedMoments(channels)); })
      .def_prop_ro("channels", &SharedWeighted::channels)
      .def_prop_ro("count",
                   [](const SharedWeighted& self) {
                     return self.use([](const WeightedMoments& moments) { return moments.count(); });
                   })
      .def("add", &SharedWeighted::add, nb::arg("x"), nb::arg("weights"), nb::arg("channel_axes"), nb::arg("threads"))
      .def("merge", &SharedWeighted::merge)
      .def("equals", &SharedWeighted::equals)
      .def("to_bytes", [](const SharedWeighted& self) { return to_bytes(self); })
      .def_static(
          "from_bytes",
          [](const nb::bytes& bytes) {
            return new SharedWeighted(
                WeightedMoments::deserialize({reinterpret_cast<const std::byte*>(bytes.c_str()), bytes.size()}));
          },
          nb::rv_policy::take_ownership)
      .def("statistics", &statistics_from, nb::arg("epsilon"), nb::arg("epsilon_placement"), nb::arg("is_normalizing"));
  module.def("weighted_training", &training_of, nb::arg("x"), nb::arg("weights"), nb::arg("y"), nb::arg("gamma").none(),
             nb::arg("beta").none(), nb::arg("residual").none(), nb::arg("mask").none(), nb::arg("channel_axes"),
             nb::arg("epsilon"), nb::arg("epsilon_placement"), nb::arg("activation"), nb::arg("threads"));
  module.def("weighted_backward", &backward_of, nb::arg("dy"), nb::arg("x"), nb::arg("weights"), nb::arg("statistics"),
             nb::arg("gamma").none(), nb::arg("beta").none(), nb::arg("residual").none(), nb::arg("mask").none(),
             nb::arg("dx").none(), nb::arg("dgamma").none(), nb::arg("dbeta").none(), nb::arg("d_residual").none(),
             nb::arg("channel_axes"), nb::arg("activation"), nb::arg("threads"));
}

}  // namespace exactnorm::python

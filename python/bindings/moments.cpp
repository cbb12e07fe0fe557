// Behind exactnorm.Moments.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <mutex>
#include <optional>
#include <utility>

#include "arguments.h"
#include "arrays.h"
#include "exactnorm/sums.h"
#include "shared.h"

namespace exactnorm::python {
namespace {

namespace nb = nanobind;

class SharedSums {
 public:
  explicit SharedSums(PartialSums sums) : channels_(sums.channels()), sums_(std::move(sums)) {}

  [[nodiscard]] Index channels() const { return channels_; }

  template <typename Use>
  auto use(const Use& use) const {
    return locked(mutex_, [&] { return use(sums_); });
  }

  // Threads add their parts at the same time, and take turns only in the merge: in which order does not matter.
  void add(nb::handle x, nb::handle mask, const Axes& channel_axes, int threads) {
    const Options options = make_options(channel_axes, 0, "variance", threads);
    const Input x_array = input("x", x);
    const auto mask_array = optional_mask(mask);
    const nb::gil_scoped_release released;
    PartialSums part(channels_);
    if (const std::optional<Mask> selected = view_of(mask_array)) {
      accumulate(part, x_array.view, *selected, options);
    } else {
      accumulate(part, x_array.view, options);
    }
    const std::lock_guard lock(mutex_);
    renaming("other", "x", [&] { sums_.merge(part); });
  }

  void merge(const SharedSums& other) {
    const nb::gil_scoped_release released;
    if (&other == this) {
      const std::lock_guard lock(mutex_);
      sums_.merge(PartialSums(sums_));
      return;
    }
    const std::scoped_lock both(mutex_, other.mutex_);
    sums_.merge(other.sums_);
  }

  bool equals(const SharedSums& other) const {
    if (&other == this) return true;
    const nb::gil_scoped_release released;
    const std::scoped_lock both(mutex_, other.mutex_);
    return sums_ == other.sums_;
  }

 private:
  Index channels_;
  mutable std::mutex mutex_;
  PartialSums sums_;
};

nb::bytes to_bytes(const SharedSums& shared) {
  const std::vector<std::byte> bytes = shared.use([](const PartialSums& sums) { return sums.serialize(); });
  return nb::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace

void bind_moments(nb::module_& module) {
  nb::class_<SharedSums>(module, "Sums", "Exact sums of x and x * x per channel.")
      .def("__init__", [](SharedSums* self, Index channels) { new (self) SharedSums(PartialSums(channels)); })
      .def_prop_ro("channels", &SharedSums::channels)
      .def_prop_ro(
          "count",
          [](const SharedSums& self) { return self.use([](const PartialSums& sums) { return sums.count(); }); })
      .def("nonfinite_count",
           [](const SharedSums& self, Index channel) {
             return self.use([&](const PartialSums& sums) { return sums.nonfinite_count(channel); });
           })
      .def("add", &SharedSums::add, nb::arg("x"), nb::arg("mask").none(), nb::arg("channel_axes"), nb::arg("threads"))
      .def("merge", &SharedSums::merge)
      .def("equals", &SharedSums::equals)
      .def(
          "copy",
          [](const SharedSums& self) { return new SharedSums(self.use([](const PartialSums& sums) { return sums; })); },
          nb::rv_policy::take_ownership)
      .def("to_bytes", [](const SharedSums& self) { return to_bytes(self); })
      .def_static(
          "from_bytes",
          [](const nb::bytes& bytes) {
            return new SharedSums(
                PartialSums::deserialize({reinterpret_cast<const std::byte*>(bytes.c_str()), bytes.size()}));
          },
          nb::rv_policy::take_ownership)
      .def("statistics",
           [](const SharedSums& self, double epsilon, const std::string& epsilon_placement,
              const std::string& nonfinite) {
             const Options options = make_options({}, epsilon, epsilon_placement, 0);
             const Nonfinite treatment = nonfinite_from(nonfinite);
             return self.use([&](const PartialSums& sums) { return statistics_of(sums, options, treatment); });
           })
      .def("normalizing_statistics", [](const SharedSums& self, double epsilon, const std::string& epsilon_placement,
                                        const std::string& nonfinite) {
        const Options options = make_options({}, epsilon, epsilon_placement, 0);
        const Nonfinite treatment = nonfinite_from(nonfinite);
        return self.use([&](const PartialSums& sums) { return normalizing_statistics(sums, options, treatment); });
      });
}

}  // namespace exactnorm::python

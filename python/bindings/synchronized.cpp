// Ranks whose engine is Python's: torch.distributed, for example.

#include "synchronized.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arrays.h"
#include "exactnorm/exactnorm.h"
#include "tensor_arguments.h"

namespace exactnorm::python {
namespace {

namespace nb = nanobind;

using Numbers = std::vector<std::int64_t>;

class DoneSum : public PendingSum {
 public:
  explicit DoneSum(Numbers numbers) : numbers_(std::move(numbers)) {}
  bool is_done() override { return true; }
  Numbers wait() override { return std::move(numbers_); }

 private:
  Numbers numbers_;
};

// Calls Python's functions: all_reduce(array) adds up an int64 array in place, gather(text) returns a list of texts.
class PythonCommunicator : public Communicator {
 public:
  PythonCommunicator(int rank, int size, nb::object all_reduce, nb::object gather)
      : rank_(rank), size_(size), all_reduce_(std::move(all_reduce)), gather_(std::move(gather)) {}

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int size() const override { return size_; }

  std::unique_ptr<PendingSum> start_sum(Numbers numbers) override {
    {
      const nb::gil_scoped_acquire acquired;
      // Borrowed: the array ends before the numbers do.
      const nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>> array(numbers.data(), {numbers.size()}, nb::handle());
      all_reduce_(nb::cast(array, nb::rv_policy::reference));
    }
    return std::make_unique<DoneSum>(std::move(numbers));
  }

  std::vector<std::string> gather(const std::string& text) override {
    const nb::gil_scoped_acquire acquired;
    std::vector<std::string> texts;
    for (const nb::handle bytes : gather_(nb::bytes(text.data(), text.size()))) {
      const auto of_rank = nb::cast<nb::bytes>(bytes);
      texts.emplace_back(of_rank.c_str(), of_rank.size());
    }
    return texts;
  }

 private:
  int rank_;
  int size_;
  nb::object all_reduce_;
  nb::object gather_;
};

struct Exchange {
  PythonCommunicator communicator;
  SumExchange sums;

  Exchange(int rank, int size, nb::object all_reduce, nb::object gather, Index channels, bool extended)
      : communicator(rank, size, std::move(all_reduce), std::move(gather)),
        sums(communicator, channels, extended ? PartialSums::Range::extended : PartialSums::Range::single) {}
};

void fail(Exchange& exchange, const std::string& argument, const std::string& problem) {
  exchange.sums.start_failed(Error(argument, problem));
  static_cast<void>(exchange.sums.finish());
}

void training_of(Exchange& exchange, nb::handle x, nb::handle y, nb::handle weight, nb::handle bias,
                 nb::handle statistics, double epsilon, int threads) {
  const Input x_array = input("input", x);
  const Output y_array = output("output", y);
  const auto weight_array = optional_input("weight", weight);
  const auto bias_array = optional_input("bias", bias);
  const Output found = output("statistics", statistics);
  check_statistics_rows(found.view);
  const nb::gil_scoped_release released;
  store_statistics(
      synchronized_training(exchange.sums, x_array.view, y_array.view, {view_of(weight_array), view_of(bias_array)},
                            tensor_options(epsilon, threads)),
      found.view);
}

void backward_of(Exchange& exchange, nb::handle dy, nb::handle x, nb::handle statistics, nb::handle weight,
                 nb::handle dx, nb::handle dweight, nb::handle dbias, double epsilon, int threads) {
  const Input dy_array = input("grad_output", dy);
  const Input x_array = input("input", x);
  const Input found = input("statistics", statistics);
  const auto weight_array = optional_input("weight", weight);
  const Output dx_array = output("grad_input", dx);
  const auto dweight_array = optional_output("grad_weight", dweight);
  const auto dbias_array = optional_output("grad_bias", dbias);
  const SynchronizedGradients gradients = {
      .dx = dx_array.view, .dgamma_share = view_of(dweight_array), .dbeta_share = view_of(dbias_array)};
  const nb::gil_scoped_release released;
  synchronized_backward(exchange.sums, dy_array.view, x_array.view, load_statistics(found.view, epsilon),
                        {view_of(weight_array)}, gradients, tensor_options(epsilon, threads));
}

}  // namespace

void bind_synchronized(nb::module_& module) {
  nb::class_<Exchange>(module, "Exchange", "Adds up exact sums over ranks that Python connects.")
      .def(nb::init<int, int, nb::object, nb::object, Index, bool>(), nb::arg("rank"), nb::arg("size"),
           nb::arg("all_reduce"), nb::arg("gather"), nb::arg("channels"), nb::arg("extended"))
      .def_prop_ro("channels", [](const Exchange& self) { return self.sums.layers()[0].channels; })
      .def("fail", &fail, nb::arg("argument"), nb::arg("problem"))
      .def("training", &training_of, nb::arg("x"), nb::arg("y"), nb::arg("weight").none(), nb::arg("bias").none(),
           nb::arg("statistics"), nb::arg("epsilon"), nb::arg("threads"))
      .def("backward", &backward_of, nb::arg("dy"), nb::arg("x"), nb::arg("statistics"), nb::arg("weight").none(),
           nb::arg("dx"), nb::arg("dweight").none(), nb::arg("dbias").none(), nb::arg("epsilon"), nb::arg("threads"));
}

}  // namespace exactnorm::python

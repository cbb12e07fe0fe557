// Uses an installed exactnorm: normalizes three examples of two channels.
#include <exactnorm/exactnorm.h>

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

static_assert(EXACTNORM_VERSION >= 100, "0.1.0 or later");

namespace {

// An engine of the program's own, for a single process.
class OwnCommunicator : public exactnorm::Communicator {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int size() const override { return 1; }
  [[nodiscard]] std::unique_ptr<exactnorm::PendingSum> start_sum(std::vector<std::int64_t> numbers) override {
    return exactnorm::single_process().start_sum(std::move(numbers));
  }
  [[nodiscard]] std::vector<std::string> gather(const std::string& text) override { return {text}; }
};

// Classes of the program and of the library know each other, whichever of them throws.
bool errors_are_caught() {
  std::array<float, 6> x{};
  bool caught = false;
  try {
    exactnorm::training(exactnorm::view(x, {3, 2}), exactnorm::mutable_view(x, {2, 3}));
  } catch (const exactnorm::Error& error) {
    caught = error.argument() == "y" && error.problem() == "has shape (2, 3); expected (3, 2), the shape of x";
  }
  OwnCommunicator communicator;
  try {
    exactnorm::agree(communicator, [] { throw exactnorm::Error("file", "is missing; expected one"); });
    return false;
  } catch (const std::runtime_error& error) {
    return caught && dynamic_cast<const exactnorm::Error*>(&error) != nullptr;
  }
}

}  // namespace

int main() {
  try {
    // The first channel is 1, 3, 8 (mean 4, variance 26 / 3), the second does not vary.
    const std::array<float, 6> x = {1, 5, 3, 5, 8, 5};
    std::array<double, 6> y{};
    const exactnorm::Statistics statistics =
        exactnorm::training(exactnorm::view(x, {3, 2}), exactnorm::mutable_view(y, {3, 2}));

    const double deviation = std::sqrt(26.0 / 3.0 + 1e-5);
    const std::array<double, 6> expected = {-3.0 / deviation, 0, -1.0 / deviation, 0, 4.0 / deviation, 0};
    bool right = statistics.mean[0] == 4.0 && statistics.mean[1] == 5.0 && statistics.variance[1] == 0.0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      // The variance that normalizes float32 data has some 30 bits.
      right = right && std::abs(y[i] - expected[i]) <= 1e-9;
      std::printf("%g ", y[i]);
    }
    std::printf("by exactnorm %s: %s\n", std::string(exactnorm::version()).c_str(), right ? "right" : "WRONG");
    if (!errors_are_caught()) {
      std::printf("an Error was not caught as one\n");
      return 1;
    }
    return right ? 0 : 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}

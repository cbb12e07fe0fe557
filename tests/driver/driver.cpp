// A thin C interface to the library for the Python tests (tests/python/driver.py), which call it through
// ctypes on NumPy's memory. Each function returns 0, or 1 with a message in `error`.

#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

#include "exactnorm/exactnorm.h"

namespace {

using exactnorm::Index;

struct DriverView {
  void* data;
  std::int32_t dtype;
  std::int32_t rank;
  std::int64_t shape[exactnorm::maximum_rank];
  std::int64_t strides[exactnorm::maximum_rank];
};

struct DriverOptions {
  std::int64_t channel_axes[exactnorm::maximum_rank];
  std::int32_t channel_axis_count;
  std::int32_t epsilon_beside_deviation;
  double epsilon;
  std::int32_t threads;
};

exactnorm::MutableTensorView to_view(const DriverView& view) {
  const auto rank = static_cast<std::size_t>(view.rank);
  return {view.data, static_cast<exactnorm::DType>(view.dtype),
          exactnorm::IndexList(std::span<const Index>(view.shape, rank)),
          exactnorm::IndexList(std::span<const Index>(view.strides, rank))};
}

std::optional<exactnorm::TensorView> to_optional(const DriverView* view) {
  if (view == nullptr) return std::nullopt;
  return to_view(*view);
}
std::optional<exactnorm::MutableTensorView> to_optional_output(const DriverView* view) {
  if (view == nullptr) return std::nullopt;
  return to_view(*view);
}

exactnorm::Options to_options(const DriverOptions& options) {
  exactnorm::Options result;
  result.channel_axes = exactnorm::IndexList(
      std::span<const Index>(options.channel_axes, static_cast<std::size_t>(options.channel_axis_count)));
  result.epsilon = options.epsilon;
  result.epsilon_placement = options.epsilon_beside_deviation != 0 ? exactnorm::EpsilonPlacement::deviation
                                                                   : exactnorm::EpsilonPlacement::variance;
  result.threads = options.threads;
  return result;
}

template <typename Call>
int guarded(char* error, std::size_t size, const Call& call) {
  try {
    call();
    return 0;
  } catch (const std::exception& exception) {
    std::strncpy(error, exception.what(), size - 1);
    error[size - 1] = '\0';
    return 1;
  }
}

}  // namespace

extern "C" {

void* driver_new_statistics() { return new exactnorm::Statistics(); }
void driver_delete_statistics(void* statistics) { delete static_cast<exactnorm::Statistics*>(statistics); }
std::int64_t driver_statistics_channels(void* statistics) {
  return static_cast<exactnorm::Statistics*>(statistics)->channels();
}
void driver_read_statistics(void* statistics, double* mean, double* variance, double* inverse_deviation) {
  const auto& from = *static_cast<exactnorm::Statistics*>(statistics);
  std::copy(from.mean.begin(), from.mean.end(), mean);
  std::copy(from.variance.begin(), from.variance.end(), variance);
  std::copy(from.inverse_deviation.begin(), from.inverse_deviation.end(), inverse_deviation);
}

int driver_training(const DriverView* x, const DriverView* y, const DriverView* gamma, const DriverView* beta,
                    const DriverOptions* options, void* statistics, char* error, std::size_t error_size) {
  return guarded(error, error_size, [&] {
    *static_cast<exactnorm::Statistics*>(statistics) =
        exactnorm::training(to_view(*x), to_view(*y), {to_optional(gamma), to_optional(beta)}, to_options(*options));
  });
}

int driver_given_statistics(const DriverView* mean, const DriverView* variance, const DriverOptions* options,
                            void* statistics, char* error, std::size_t error_size) {
  return guarded(error, error_size, [&] {
    *static_cast<exactnorm::Statistics*>(statistics) =
        exactnorm::given_statistics(to_view(*mean), to_view(*variance), to_options(*options));
  });
}

int driver_inference(const DriverView* x, void* statistics, const DriverView* y, const DriverView* gamma,
                     const DriverView* beta, const DriverOptions* options, char* error, std::size_t error_size) {
  return guarded(error, error_size, [&] {
    exactnorm::inference(to_view(*x), *static_cast<exactnorm::Statistics*>(statistics), to_view(*y),
                         {to_optional(gamma), to_optional(beta)}, to_options(*options));
  });
}

int driver_backward(const DriverView* dy, const DriverView* x, void* statistics, const DriverView* gamma,
                    const DriverView* dx, const DriverView* dgamma, const DriverView* dbeta, std::int32_t frozen,
                    const DriverOptions* options, char* error, std::size_t error_size) {
  return guarded(error, error_size, [&] {
    const exactnorm::Gradients gradients = {to_optional_output(dx), to_optional_output(dgamma),
                                            to_optional_output(dbeta)};
    const auto run = frozen != 0 ? exactnorm::backward_frozen : exactnorm::backward;
    run(to_view(*dy), to_view(*x), *static_cast<exactnorm::Statistics*>(statistics), {to_optional(gamma)}, gradients,
        to_options(*options));
  });
}

void* driver_new_running_statistics(std::int64_t channels, double momentum, std::int32_t cumulative) {
  auto* running = new exactnorm::RunningStatistics(channels);
  if (cumulative != 0) {
    running->momentum = std::nullopt;
  } else {
    running->momentum = momentum;
  }
  return running;
}
void driver_delete_running_statistics(void* running) { delete static_cast<exactnorm::RunningStatistics*>(running); }
int driver_update_running_statistics(void* running, void* statistics, double* mean, double* variance, char* error,
                                     std::size_t error_size) {
  return guarded(error, error_size, [&] {
    auto& values = *static_cast<exactnorm::RunningStatistics*>(running);
    values.update(*static_cast<exactnorm::Statistics*>(statistics));
    std::copy(values.mean.begin(), values.mean.end(), mean);
    std::copy(values.variance.begin(), values.variance.end(), variance);
  });
}

}  // extern "C"

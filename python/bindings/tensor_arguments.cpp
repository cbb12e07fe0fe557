#include "tensor_arguments.h"

#include <algorithm>
#include <cstddef>
#include <type_traits>
#include <vector>

#include "exactnorm/error.h"
#include "exactnorm/layer.h"
#include "tensor/elements.h"

namespace exactnorm::python {
namespace {

constexpr std::ptrdiff_t rows_of_statistics = 5;

template <typename View>
auto* row_of(const View& array, std::ptrdiff_t row) {
  using Element = std::conditional_t<std::is_same_v<View, TensorView>, const double, double>;
  return static_cast<Element*>(array.data) + row * array.strides[0];
}

}  // namespace

Options tensor_options(double epsilon, int threads) {
  Options options;
  options.channel_axes = {1};
  options.epsilon = epsilon;
  options.threads = threads;
  return options;
}

void check_statistics_rows(const TensorView& array) {
  if (array.dtype == DType::float64 && array.shape.size() == 2 && array.shape[0] == rows_of_statistics &&
      array.strides[1] == 1) {
    return;
  }
  throw Error("statistics", "is not what these operators return; expected float64 of shape (5, channels)");
}

void store_statistics(const Statistics& from, const MutableTensorView& to) {
  std::copy(from.mean.begin(), from.mean.end(), row_of(to, 0));
  std::copy(from.mean_residual.begin(), from.mean_residual.end(), row_of(to, 1));
  std::copy(from.variance.begin(), from.variance.end(), row_of(to, 2));
  std::copy(from.inverse_deviation.begin(), from.inverse_deviation.end(), row_of(to, 3));
  std::fill_n(row_of(to, 4), from.mean.size(), static_cast<double>(from.count));
}

Statistics load_statistics(const TensorView& from, double epsilon) {
  check_statistics_rows(from);
  const Index channels = from.shape[1];
  const auto row = [&](std::ptrdiff_t i) { return std::vector<double>(row_of(from, i), row_of(from, i) + channels); };
  return {channels > 0 ? static_cast<Index>(*row_of(from, 4)) : 0, row(0), row(1), row(2), row(3), epsilon};
}

void update_running(const Statistics& batch, const MutableTensorView& mean, const MutableTensorView& variance,
                    double momentum) {
  RunningStatistics running(0);
  running.mean = values_of(mean);
  running.variance = values_of(variance);
  running.momentum = momentum;
  running.update(batch);
  write_values(mean, running.mean.data());
  write_values(variance, running.variance.data());
}

}  // namespace exactnorm::python

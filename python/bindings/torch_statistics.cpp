#include "torch_statistics.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <vector>

#include "exactnorm/tensor.h"
#include "tensor/elements.h"

namespace exactnorm::python::torch {

namespace {

// In front: a number that says what follows, the count, the step, and four rows.
constexpr std::uint64_t magic = 0x6578'6e5f'7361'7632;  // "exn_sav2"
constexpr std::size_t numbers_before_rows = 5;
constexpr std::size_t rows = 4;

std::size_t bytes_in_front(std::size_t channels) { return (numbers_before_rows + rows * channels) * sizeof(double); }

Index elements_in_front(Index channels, DType dtype) {
  return static_cast<Index>(bytes_in_front(static_cast<std::size_t>(channels)) / size_of(dtype));
}

Tensor part_of(const Tensor& whole, Index size, Index offset) {
  constexpr std::int64_t stride = 1;
  TensorObject* part = nullptr;
  check(functions().part_of_storage(whole.object(), 1, &size, &stride, offset, &part), "a part of a tensor");
  return Tensor(part);
}

}  // namespace

SavedStatistics save(const Statistics& statistics, DType dtype, const ModuleStep& step, const Tensor& bias) {
  const Index channels = statistics.channels();
  const Index front = elements_in_front(channels, dtype);
  const Index more = step.activation != Activation::none ? 1 : 0;
  const bool has_bias = more == 1 && bias.is_defined();
  const IndexList size = {front + (has_bias ? 3 : 2) * channels + more};
  const Tensor whole = empty(size, {1}, dtype);
  auto* at = static_cast<double*>(whole.mutable_view().data);
  *at++ = std::bit_cast<double>(magic);
  *at++ = std::bit_cast<double>(static_cast<std::int64_t>(statistics.count));
  *at++ = step.keeps_layout ? 1 : 0;
  *at++ = static_cast<double>(step.activation);
  *at++ = step.slope;
  for (const std::vector<double>* row :
       {&statistics.mean, &statistics.mean_residual, &statistics.variance, &statistics.inverse_deviation}) {
    at = std::copy(row->begin(), row->end(), at);
  }
  const auto write = [&](Index row, const double* values) {
    write_values(part_of(whole, channels, front + row * channels).mutable_view(), values);
  };
  write(0, statistics.mean.data());
  write(1, statistics.inverse_deviation.data());
  if (has_bias) write(2, values_of(bias.view()).data());
  return {part_of(whole, channels + more, front), part_of(whole, channels + more, front + channels)};
}

std::optional<Saved> load(const Tensor& saved_mean, Index channels, double epsilon) {
  const std::optional<DType> dtype = saved_mean.dtype();
  if (!dtype || saved_mean.rank() != 1) return std::nullopt;
  const TensorView view = saved_mean.view();
  const Index more = view.shape[0] - channels;
  if (more != 0 && more != 1) return std::nullopt;
  std::int64_t bytes = 0;
  std::int64_t offset = 0;
  check(functions().storage_bytes(saved_mean.object(), &bytes), "the size of a tensor's memory");
  check(functions().storage_offset(saved_mean.object(), &offset), "a tensor's offset");
  const Index front = elements_in_front(channels, *dtype);
  const auto size = static_cast<Index>(size_of(*dtype));
  const bool has_bias = more == 1 && bytes == (front + 3 * channels + more) * size;
  if (offset != front || !(has_bias || bytes == (front + 2 * channels + more) * size)) return std::nullopt;
  const auto* const begin =
      static_cast<const std::byte*>(view.data) - bytes_in_front(static_cast<std::size_t>(channels));
  const auto* at = reinterpret_cast<const double*>(begin);
  if (std::bit_cast<std::uint64_t>(at[0]) != magic) return std::nullopt;
  Saved saved = {{}, {at[2] != 0, static_cast<Activation>(at[3]), at[4]}, std::nullopt};
  if (has_bias) {
    saved.bias = view;
    saved.bias->shape[0] = channels;
    saved.bias->data = static_cast<const std::byte*>(view.data) + 2 * channels * size;
  }
  Statistics& statistics = saved.statistics;
  statistics.count = std::bit_cast<std::int64_t>(at[1]);
  statistics.epsilon = epsilon;
  at += numbers_before_rows;
  for (std::vector<double>* row :
       {&statistics.mean, &statistics.mean_residual, &statistics.variance, &statistics.inverse_deviation}) {
    row->assign(at, at + channels);
    at += channels;
  }
  return saved;
}

}  // namespace exactnorm::python::torch

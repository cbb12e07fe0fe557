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

StatisticsMemory::StatisticsMemory(Index channels, DType dtype, const ModuleStep& step, const Tensor& bias)
    : channels_(channels),
      dtype_(dtype),
      more_(step.activation != Activation::none ? 1 : 0),
      front_(elements_in_front(channels, dtype)) {
  const bool has_bias = more_ == 1 && bias.is_defined();
  whole_ = empty({front_ + (has_bias ? 3 : 2) * channels + more_}, {1}, dtype);
  numbers_ = static_cast<double*>(whole_.mutable_view().data);
  numbers_[2] = step.keeps_layout ? 1 : 0;
  numbers_[3] = static_cast<double>(step.activation);
  numbers_[4] = step.slope;
  double* const first = numbers_ + numbers_before_rows;
  rows_ = {first, first + channels, first + 2 * channels, first + 3 * channels};
  if (has_bias) write_values(part(2, channels), values_of(bias.view()).data());
}

MutableTensorView StatisticsMemory::part(Index row, Index size) const {
  MutableTensorView view = whole_.mutable_view();
  view.data = static_cast<std::byte*>(view.data) + (front_ + row * channels_) * static_cast<Index>(size_of(dtype_));
  view.shape = {size};
  return view;
}

SavedStatistics StatisticsMemory::finish(Index count) {
  numbers_[0] = std::bit_cast<double>(magic);
  numbers_[1] = std::bit_cast<double>(static_cast<std::int64_t>(count));
  write_values(part(0, channels_), rows_.mean);
  write_values(part(1, channels_), rows_.inverse_deviation);
  return {part_of(whole_, channels_ + more_, front_), part_of(whole_, channels_ + more_, front_ + channels_)};
}

std::optional<Saved> load(const Tensor& saved_mean, Index channels) {
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
  const double* const rows = at + numbers_before_rows;
  Saved saved = {{rows, rows + channels, rows + 2 * channels, rows + 3 * channels},
                 std::bit_cast<std::int64_t>(at[1]),
                 {at[2] != 0, static_cast<Activation>(at[3]), at[4]},
                 std::nullopt};
  if (has_bias) {
    saved.bias = view;
    saved.bias->shape[0] = channels;
    saved.bias->data = static_cast<const std::byte*>(view.data) + 2 * channels * size;
  }
  return saved;
}

}  // namespace exactnorm::python::torch

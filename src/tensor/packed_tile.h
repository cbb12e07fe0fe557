#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <utility>
#include <vector>

#include "exactnorm/tensor.h"
#include "tensor/element_type.h"

namespace exactnorm {

/// A small buffer, in L1 cache, through which elements pass that do not lie as vector code needs them
/// (strided, of an integer dtype, too few at a time): side by side, as float32 or float64.
///
/// Its memory comes from a stock that each thread keeps: fetching it from the system for every group of
/// channels, page by page, would take longer than the work.
template <typename T>
class PackedTile {
 public:
  static constexpr Index capacity = 16384 / static_cast<Index>(sizeof(T));

  PackedTile() = default;
  PackedTile(PackedTile&&) noexcept = default;
  PackedTile& operator=(PackedTile&&) noexcept = default;
  PackedTile(const PackedTile&) = delete;
  PackedTile& operator=(const PackedTile&) = delete;
  ~PackedTile() {
    if (values_ != nullptr && stock().size() < largest_stock) stock().push_back(std::move(values_));
  }

  [[nodiscard]] T* data() noexcept { return values_->data(); }

  /// Copies `count` elements that are `stride` apart to position `at` of the buffer.
  void put(const TensorView& x, Index offset, Index count, Index stride, Index at) {
    visit_dtype(x.dtype, [&](auto element) {
      using Element = decltype(element);
      if constexpr (sizeof(T) == 8 || fits_float32<Element>) {
        copy(static_cast<const Element*>(x.data) + offset, stride, values_->data() + at, 1, count);
      }
    });
  }
  void put_zeros(Index count, Index at) { std::fill_n(values_->data() + at, count, T{0}); }

  /// Copies `count` elements from position `at` of the buffer on to a float32 or float64 output.
  void take(const MutableTensorView& y, Index offset, Index count, Index stride, Index at) const {
    const T* const from = values_->data() + at;
    if (y.dtype == DType::float32) {
      copy(from, 1, static_cast<float*>(y.data) + offset, stride, count);
    } else {
      copy(from, 1, static_cast<double*>(y.data) + offset, stride, count);
    }
  }

 private:
  // Not inlined, so that loops have registers for themselves; four elements at a time, as a loop of one costs more than
  // its copy.
  template <typename From, typename To>
  [[gnu::noinline]] static void copy(const From* from, Index from_stride, To* to, Index to_stride, Index count) {
    if (from_stride == 1 && to_stride == 1) {
      std::copy_n(from, count, to);
      return;
    }
    const auto one = [&](Index i) { to[i * to_stride] = static_cast<To>(from[i * from_stride]); };
    constexpr Index at_once = 4;
    for (; count >= at_once; count -= at_once) {
      for (Index i = 0; i < at_once; ++i) one(i);
      from += at_once * from_stride;
      to += at_once * to_stride;
    }
    for (Index i = 0; i < count; ++i) one(i);
  }

  struct alignas(64) Values : std::array<T, static_cast<std::size_t>(capacity)> {};
  using Stock = std::vector<std::unique_ptr<Values>>;
  static constexpr std::size_t largest_stock = 128;

  static Stock& stock() {
    thread_local Stock values;
    return values;
  }
  static std::unique_ptr<Values> take_from_stock() {
    if (stock().empty()) {
      stock().reserve(largest_stock);  // so that giving back cannot fail
      return std::make_unique_for_overwrite<Values>();
    }
    std::unique_ptr<Values> values = std::move(stock().back());
    stock().pop_back();
    return values;
  }

  std::unique_ptr<Values> values_ = take_from_stock();
};

}  // namespace exactnorm

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <ranges>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "exactnorm/dtype.h"
#include "exactnorm/error.h"
#include "exactnorm/export.h"

namespace exactnorm {

/// Sizes, strides, axes and counts.
using Index = std::int64_t;

/// The most dimensions that a view may have.
inline constexpr std::size_t maximum_rank = 8;

/// A short list of indices (a shape, strides or a set of axes) that never allocates.
class EXACTNORM_EXPORT IndexList {
 public:
  constexpr IndexList() = default;
  /// Throws Error when there are more than `maximum_rank` values.
  IndexList(std::initializer_list<Index> values) : IndexList(std::span<const Index>(values.begin(), values.size())) {}
  explicit IndexList(std::span<const Index> values) {
    for (const Index value : values) push_back(value);
  }

  void push_back(Index value) {
    if (size_ == maximum_rank) throw Error("values", "are more than 8; expected at most 8 dimensions");
    values_[size_++] = value;
  }
  [[nodiscard]] constexpr std::size_t size() const noexcept { return size_; }
  [[nodiscard]] constexpr bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] constexpr const Index* begin() const noexcept { return values_.data(); }
  [[nodiscard]] constexpr const Index* end() const noexcept { return values_.data() + size_; }
  [[nodiscard]] constexpr Index* begin() noexcept { return values_.data(); }
  [[nodiscard]] constexpr Index* end() noexcept { return values_.data() + size_; }
  [[nodiscard]] constexpr Index operator[](std::size_t i) const noexcept { return values_[i]; }
  [[nodiscard]] constexpr Index& operator[](std::size_t i) noexcept { return values_[i]; }
  friend constexpr bool operator==(const IndexList& a, const IndexList& b) noexcept {
    if (a.size_ != b.size_) return false;
    for (std::size_t i = 0; i < a.size_; ++i) {
      if (a.values_[i] != b.values_[i]) return false;
    }
    return true;
  }

 private:
  std::array<Index, maximum_rank> values_{};
  std::size_t size_ = 0;
};

/// "(2, 3, 4)", "(5,)" or "()", as Python prints a tuple.
[[nodiscard]] EXACTNORM_EXPORT std::string to_string(const IndexList& list);

/// Row-major strides of `shape`, in elements.
[[nodiscard]] EXACTNORM_EXPORT IndexList contiguous_strides(const IndexList& shape) noexcept;

/// Number of elements of `shape`. Throws Error when a size is negative or the product exceeds 2^62.
[[nodiscard]] EXACTNORM_EXPORT Index element_count(const IndexList& shape);

/// A read-only view of somebody else's memory: nothing is copied, nothing is owned.
///
/// Element (i0, i1, ...) lies at `data` plus `i0 * strides[0] + i1 * strides[1] + ...` elements. Strides
/// may have any sign, and may be zero (a broadcast input). `data` is the address of element (0, 0, ...),
/// aligned to its type.
struct EXACTNORM_EXPORT TensorView {
  const void* data = nullptr;
  DType dtype = DType::float32;
  IndexList shape;
  IndexList strides;

  [[nodiscard]] std::size_t rank() const noexcept { return shape.size(); }
};

/// The same for memory that will be written. No two of its elements may share memory.
struct EXACTNORM_EXPORT MutableTensorView {
  void* data = nullptr;
  DType dtype = DType::float32;
  IndexList shape;
  IndexList strides;

  [[nodiscard]] std::size_t rank() const noexcept { return shape.size(); }
  operator TensorView() const noexcept { return {data, dtype, shape, strides}; }  // NOLINT(google-explicit-constructor)
};

/// A view of `data` with explicit strides, in elements.
template <typename T>
[[nodiscard]] TensorView view(const T* data, const IndexList& shape, const IndexList& strides) {
  return {data, dtype_of<T>(), shape, strides};
}
template <typename T>
[[nodiscard]] MutableTensorView mutable_view(T* data, const IndexList& shape, const IndexList& strides) {
  return {data, dtype_of<T>(), shape, strides};
}

/// A row-major view of `data`.
template <typename T>
[[nodiscard]] TensorView view(const T* data, const IndexList& shape) {
  return {data, dtype_of<T>(), shape, contiguous_strides(shape)};
}
template <typename T>
[[nodiscard]] MutableTensorView mutable_view(T* data, const IndexList& shape) {
  return {data, dtype_of<T>(), shape, contiguous_strides(shape)};
}

namespace detail {
EXACTNORM_EXPORT void check_span_size(std::size_t size, const IndexList& shape);

template <typename Container>
concept SpanSource = !std::is_pointer_v<std::remove_cvref_t<Container>> && requires(Container & values) {
  std::span(values);
};

template <typename Container>
concept MutableSpanSource =
    SpanSource<Container> && !std::is_const_v<typename decltype(std::span(std::declval<Container&>()))::element_type>;
}  // namespace detail

/// A row-major view of `values`, which must hold exactly the elements of `shape`; a container that
/// converts to a span (std::vector, std::array) may be given as it is. A container that is about to end is refused by
/// the compiler, since the view would outlive its elements; a span is fine.
/// Throws Error when the sizes differ.
template <typename T>
[[nodiscard]] TensorView view(std::span<const T> values, const IndexList& shape) {
  detail::check_span_size(values.size(), shape);
  return view(values.data(), shape);
}
template <detail::SpanSource Container>
requires std::ranges::borrowed_range<Container>
[[nodiscard]] TensorView view(Container&& values, const IndexList& shape) {
  detail::check_span_size(std::span(values).size(), shape);
  return view(std::span(values).data(), shape);
}
template <detail::SpanSource Container>
requires(!std::ranges::borrowed_range<Container>) TensorView view(Container&& values, const IndexList& shape)
= delete;
template <detail::MutableSpanSource Container>
requires std::ranges::borrowed_range<Container>
[[nodiscard]] MutableTensorView mutable_view(Container&& values, const IndexList& shape) {
  detail::check_span_size(std::span(values).size(), shape);
  return mutable_view(std::span(values).data(), shape);
}
template <detail::MutableSpanSource Container>
requires(!std::ranges::borrowed_range<Container>) MutableTensorView
    mutable_view(Container&& values, const IndexList& shape)
= delete;

/// The same memory with its axes in another order: axis i of the result is axis `order[i]` of `x`.
/// Throws Error when `order` is not a permutation.
[[nodiscard]] EXACTNORM_EXPORT TensorView permute(const TensorView& x, const IndexList& order);
[[nodiscard]] EXACTNORM_EXPORT MutableTensorView permute(const MutableTensorView& x, const IndexList& order);

/// All elements in row-major order, as float64; int64 beyond 2^53 is rounded. Throws Error when x is no possible view.
[[nodiscard]] EXACTNORM_EXPORT std::vector<double> values_of(const TensorView& x);

/// `x[begin : begin + size]` along one axis. Throws Error when it leaves the axis.
[[nodiscard]] EXACTNORM_EXPORT TensorView slice(const TensorView& x, std::size_t axis, Index begin, Index size);
[[nodiscard]] EXACTNORM_EXPORT MutableTensorView slice(const MutableTensorView& x, std::size_t axis, Index begin,
                                                       Index size);

}  // namespace exactnorm

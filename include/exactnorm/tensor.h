#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "exactnorm/error.h"
#include "exactnorm/export.h"

namespace exactnorm {

/// Element types that a view may have. Inputs may have any of them; outputs are float32, float64, bfloat16 or float16.
enum class DType : std::uint8_t {
  float32,
  float64,
  bfloat16,
  float16,
  uint8,
  int8,
  uint16,
  int16,
  uint32,
  int32,
  int64,
  boolean  // a byte; true where it is not 0
};

inline constexpr std::array all_dtypes = {DType::float32, DType::float64, DType::bfloat16, DType::float16,
                                          DType::uint8,   DType::int8,    DType::uint16,   DType::int16,
                                          DType::uint32,  DType::int32,   DType::int64,    DType::boolean};

/// Their names, and those of the types of outputs, as messages list them.
inline constexpr std::string_view dtype_names =
    "float32, float64, bfloat16, float16, uint8, int8, uint16, int16, uint32, int32, int64 or bool";
inline constexpr std::string_view floating_dtype_names = "float32, float64, bfloat16 or float16";

/// Elements of DType::bfloat16 and DType::float16: the 16 bits of a float32 number's upper half, and of IEEE 754's
/// binary16. Memory of another library's types of these formats (std::bfloat16_t, _Float16, c10::BFloat16) may be
/// viewed as these.
struct bfloat16 {
  std::uint16_t bits = 0;
};
struct float16 {
  std::uint16_t bits = 0;
};

/// Bytes per element; 0 for what is no DType.
[[nodiscard]] constexpr std::size_t size_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::uint8:
    case DType::int8:
    case DType::boolean:
      return 1;
    case DType::bfloat16:
    case DType::float16:
    case DType::uint16:
    case DType::int16:
      return 2;
    case DType::float32:
    case DType::uint32:
    case DType::int32:
      return 4;
    case DType::float64:
    case DType::int64:
      return 8;
  }
  return 0;
}

/// The name as NumPy (ml_dtypes for bfloat16) spells it, "float32" for example.
[[nodiscard]] constexpr std::string_view name_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::float32:
      return "float32";
    case DType::float64:
      return "float64";
    case DType::bfloat16:
      return "bfloat16";
    case DType::float16:
      return "float16";
    case DType::uint8:
      return "uint8";
    case DType::int8:
      return "int8";
    case DType::uint16:
      return "uint16";
    case DType::int16:
      return "int16";
    case DType::uint32:
      return "uint32";
    case DType::int32:
      return "int32";
    case DType::int64:
      return "int64";
    case DType::boolean:
      return "bool";
  }
  return "unknown";
}

[[nodiscard]] constexpr bool is_floating(DType dtype) noexcept {
  return dtype == DType::float32 || dtype == DType::float64 || dtype == DType::bfloat16 || dtype == DType::float16;
}

namespace detail {
template <typename T, typename... Types>
inline constexpr bool is_one_of = (std::is_same_v<T, Types> || ...);
}  // namespace detail

template <typename T>
inline constexpr bool is_element_type =
    detail::is_one_of<T, float, double, bfloat16, float16, std::uint8_t, std::int8_t, std::uint16_t, std::int16_t,
                      std::uint32_t, std::int32_t, std::int64_t, bool>;

/// The DType of a C++ type.
template <typename T>
requires is_element_type<T>
[[nodiscard]] constexpr DType dtype_of() noexcept {
  if constexpr (std::is_same_v<T, float>) return DType::float32;
  if constexpr (std::is_same_v<T, double>) return DType::float64;
  if constexpr (std::is_same_v<T, bfloat16>) return DType::bfloat16;
  if constexpr (std::is_same_v<T, float16>) return DType::float16;
  if constexpr (std::is_same_v<T, std::uint8_t>) return DType::uint8;
  if constexpr (std::is_same_v<T, std::int8_t>) return DType::int8;
  if constexpr (std::is_same_v<T, std::uint16_t>) return DType::uint16;
  if constexpr (std::is_same_v<T, std::int16_t>) return DType::int16;
  if constexpr (std::is_same_v<T, std::uint32_t>) return DType::uint32;
  if constexpr (std::is_same_v<T, std::int32_t>) return DType::int32;
  if constexpr (std::is_same_v<T, std::int64_t>) return DType::int64;
  if constexpr (std::is_same_v<T, bool>) return DType::boolean;
}

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

/// A view together with the axes that are its channels.
struct EXACTNORM_EXPORT LayoutView {
  TensorView view;
  IndexList channel_axes;
};
struct EXACTNORM_EXPORT MutableLayoutView {
  MutableTensorView view;
  IndexList channel_axes;
};

/// Dense memory described by the order of its axes, slowest first, as in "nchw", "nhwc", "nc", "cn",
/// "ncdhw" or "hwcn": letters out of n, c, d, h, w, l and m, each at most once, with one c for the channels.
/// A blocked layout is written as oneDNN does: "nChw16c" has C for the blocks and 16c for the channels
/// in a block, and `sizes` then gives the number of all channels, a multiple of 16, at the C.
///
/// `sizes` has one size per letter, in the order of the letters (the block's own size left out).
/// Throws Error when the layout is not of that form or does not fit `sizes`.
[[nodiscard]] EXACTNORM_EXPORT LayoutView layout_view(const void* data, DType dtype, std::string_view layout,
                                                      const IndexList& sizes);
[[nodiscard]] EXACTNORM_EXPORT MutableLayoutView layout_view(void* data, DType dtype, std::string_view layout,
                                                             const IndexList& sizes);

template <typename T>
[[nodiscard]] LayoutView layout_view(const T* data, std::string_view layout, const IndexList& sizes) {
  return layout_view(static_cast<const void*>(data), dtype_of<T>(), layout, sizes);
}
template <typename T>
[[nodiscard]] MutableLayoutView layout_view(T* data, std::string_view layout, const IndexList& sizes) {
  return layout_view(static_cast<void*>(data), dtype_of<T>(), layout, sizes);
}

}  // namespace exactnorm

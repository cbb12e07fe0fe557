#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "exactnorm/tensor.h"
#include "support/half.h"
#include "support/random.h"

namespace exactnorm::testing {

inline Index product(const IndexList& shape) {
  Index count = 1;
  for (const Index size : shape) count *= size;
  return count;
}

/// The indices of element `position` in row-major order.
inline IndexList unravel(Index position, const IndexList& shape) {
  IndexList indices = shape;
  for (std::size_t i = shape.size(); i-- > 0;) {
    indices[i] = position % shape[i];
    position /= shape[i];
  }
  return indices;
}

template <typename Visit>
decltype(auto) with_type(DType dtype, const Visit& visit) {
  switch (dtype) {
    case DType::float32:
      return visit(float{});
    case DType::bfloat16:
      return visit(HalfElement<DType::bfloat16>{});
    case DType::float16:
      return visit(HalfElement<DType::float16>{});
    case DType::uint8:
      return visit(std::uint8_t{});
    case DType::int8:
      return visit(std::int8_t{});
    case DType::uint16:
      return visit(std::uint16_t{});
    case DType::int16:
      return visit(std::int16_t{});
    case DType::uint32:
      return visit(std::uint32_t{});
    case DType::int32:
      return visit(std::int32_t{});
    case DType::int64:
      return visit(std::int64_t{});
    case DType::boolean:
      return visit(bool{});
    case DType::float64:
      break;
  }
  return visit(double{});
}

/// Memory of its own for a view of any strides. All bytes around and between the view's elements hold a
/// pattern (NaN, or -1) that `guards_intact` looks for. Elements are numbered in row-major order of the
/// shape, wherever they lie.
class Tensor {
 public:
  /// Row-major.
  Tensor(DType dtype, const IndexList& shape) : Tensor(shape, dense_strides(shape), dtype) {}
  Tensor(DType dtype, const IndexList& shape, const std::vector<double>& values) : Tensor(dtype, shape) {
    fill(values);
  }
  static Tensor strided(DType dtype, const IndexList& shape, const IndexList& strides) {
    return {shape, strides, dtype};
  }

  static IndexList dense_strides(const IndexList& shape) {
    IndexList strides = shape;
    Index stride = 1;
    for (std::size_t i = shape.size(); i-- > 0;) {
      strides[i] = stride;
      stride *= shape[i];
    }
    return strides;
  }

  [[nodiscard]] MutableTensorView view() { return {memory_.data() + first_, dtype_, shape_, strides_}; }
  [[nodiscard]] TensorView view() const { return {memory_.data() + first_, dtype_, shape_, strides_}; }
  [[nodiscard]] const IndexList& shape() const { return shape_; }
  [[nodiscard]] Index count() const { return count_; }

  void set(Index position, double value) {
    with_type(dtype_, [&](auto type) {
      const auto element = static_cast<decltype(type)>(value);
      std::memcpy(memory_.data() + byte_of(position), &element, sizeof(element));
    });
  }
  [[nodiscard]] double get(Index position) const {
    return with_type(dtype_, [&](auto element) {
      std::memcpy(&element, memory_.data() + byte_of(position), sizeof(element));
      return static_cast<double>(element);
    });
  }
  void fill(const std::vector<double>& values) {
    for (Index i = 0; i < count_; ++i) set(i, values[static_cast<std::size_t>(i)]);
  }
  [[nodiscard]] std::vector<double> values() const {
    std::vector<double> values(static_cast<std::size_t>(count_));
    for (Index i = 0; i < count_; ++i) values[static_cast<std::size_t>(i)] = get(i);
    return values;
  }

  /// Whether all bytes outside of the view are as they were.
  [[nodiscard]] bool guards_intact() const {
    std::vector<bool> inside(memory_.size());
    for (Index i = 0; i < count_; ++i) {
      for (std::size_t j = 0; j < size_of(dtype_); ++j) inside[byte_of(i) + j] = true;
    }
    for (std::size_t i = 0; i < memory_.size(); ++i) {
      if (!inside[i] && memory_[i] != guard) return false;
    }
    return true;
  }

 private:
  static constexpr Index guard_elements = 37;
  static constexpr std::byte guard{0xff};

  Tensor(const IndexList& shape, const IndexList& strides, DType dtype)
      : dtype_(dtype), shape_(shape), strides_(strides), count_(product(shape)) {
    Index lowest = 0;
    Index highest = 0;
    for (std::size_t i = 0; count_ > 0 && i < shape.size(); ++i) {
      const Index reach = (shape[i] - 1) * strides[i];
      (reach < 0 ? lowest : highest) += reach;
    }
    const auto elements = static_cast<std::size_t>(highest - lowest + 1 + 2 * guard_elements);
    memory_.assign(elements * size_of(dtype), guard);
    first_ = static_cast<std::size_t>(guard_elements - lowest) * size_of(dtype);
  }

  [[nodiscard]] std::size_t byte_of(Index position) const {
    const IndexList indices = unravel(position, shape_);
    Index offset = 0;
    for (std::size_t i = 0; i < shape_.size(); ++i) offset += indices[i] * strides_[i];
    return first_ + static_cast<std::size_t>(offset * static_cast<Index>(size_of(dtype_)));
  }

  DType dtype_;
  IndexList shape_;
  IndexList strides_;
  Index count_;
  std::vector<std::byte> memory_;
  std::size_t first_ = 0;
};

/// Strides of memory whose axes lie in a random order, with random gaps, steps and directions.
inline IndexList random_strides(Random& random, const IndexList& shape) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < shape.size(); ++i) order.push_back(i);
  if (random.chance(0.7)) random.shuffle(order);
  const bool gaps = random.chance(0.5);
  const bool backwards = random.chance(0.4);
  IndexList strides = shape;
  Index stride = gaps ? random.between(1, 3) : 1;
  for (auto i = order.rbegin(); i != order.rend(); ++i) {
    strides[*i] = backwards && random.chance(0.5) ? -stride : stride;
    stride *= std::max<Index>(shape[*i], 1);
    if (gaps && random.chance(0.5)) stride += random.between(1, 5);
    if (shape[*i] == 1 && random.chance(0.3)) strides[*i] = random.between(-100, 100);
  }
  return strides;
}

}  // namespace exactnorm::testing

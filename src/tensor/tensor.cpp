#include "exactnorm/tensor.h"

#include <algorithm>
#include <vector>

#include "tensor/checks.h"
#include "tensor/elements.h"
#include "traverse/floating_point.h"

namespace exactnorm {

std::string to_string(const IndexList& list) {
  std::string text = "(";
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(list[i]);
  }
  return text + (list.size() == 1 ? ",)" : ")");
}

IndexList contiguous_strides(const IndexList& shape) noexcept {
  constexpr Index limit = Index{1} << 62;
  IndexList strides = shape;
  Index stride = 1;
  for (std::size_t i = shape.size(); i-- > 0;) {
    strides[i] = stride;
    // A size of zero must not make the strides of the axes before it zero too; a shape of too many elements is
    // for others to refuse.
    const Index size = std::max<Index>(shape[i], 1);
    stride = size > limit / stride ? limit : stride * size;
  }
  return strides;
}

Index element_count(const IndexList& shape) {
  constexpr Index limit = Index{1} << 62;
  bool empty = false;
  for (const Index size : shape) {
    if (size < 0) throw Error("shape", "is " + to_string(shape) + "; expected sizes of 0 or more");
    empty = empty || size == 0;
  }
  if (empty) return 0;
  Index count = 1;
  for (const Index size : shape) {
    if (size > limit / count) throw Error("shape", "is " + to_string(shape) + "; expected at most 2^62 elements");
    count *= size;
  }
  return count;
}

namespace detail {

void check_span_size(std::size_t size, const IndexList& shape) {
  const Index expected = element_count(shape);
  if (static_cast<Index>(size) != expected) {
    throw Error("values", "hold " + std::to_string(size) + " elements; expected " + std::to_string(expected) +
                              " for shape " + to_string(shape));
  }
}

}  // namespace detail

namespace {

template <typename View>
View permuted(const View& x, const IndexList& order) {
  bool valid = order.size() == x.rank();
  std::array<bool, maximum_rank> seen{};
  View result = x;
  for (std::size_t i = 0; valid && i < order.size(); ++i) {
    const Index axis = order[i];
    valid = axis >= 0 && axis < static_cast<Index>(x.rank()) && !seen[static_cast<std::size_t>(axis)];
    if (!valid) break;
    seen[static_cast<std::size_t>(axis)] = true;
    result.shape[i] = x.shape[static_cast<std::size_t>(axis)];
    result.strides[i] = x.strides[static_cast<std::size_t>(axis)];
  }
  if (!valid) {
    throw Error("order", "is " + to_string(order) + "; expected each axis of shape " + to_string(x.shape) + " once");
  }
  return result;
}

template <typename View, typename Byte>
View sliced(const View& x, std::size_t axis, Index begin, Index size) {
  if (axis >= x.rank()) {
    throw Error("axis", "is " + std::to_string(axis) + "; expected less than " + std::to_string(x.rank()));
  }
  if (begin < 0 || begin > x.shape[axis]) {
    throw Error("begin", "is " + std::to_string(begin) + "; expected 0 to " + std::to_string(x.shape[axis]) +
                             ", the axis' size");
  }
  if (size < 0 || begin > x.shape[axis] - size) {
    throw Error("size", "takes " + std::to_string(size) + " from " + std::to_string(begin) +
                            " on; expected a part of 0 to " + std::to_string(x.shape[axis]));
  }
  View result = x;
  result.shape[axis] = size;
  if (x.data != nullptr) {
    const Index bytes = begin * x.strides[axis] * static_cast<Index>(size_of(x.dtype));
    result.data = static_cast<Byte*>(x.data) + bytes;
  }
  return result;
}

}  // namespace

TensorView permute(const TensorView& x, const IndexList& order) { return permuted(x, order); }
MutableTensorView permute(const MutableTensorView& x, const IndexList& order) { return permuted(x, order); }

TensorView slice(const TensorView& x, std::size_t axis, Index begin, Index size) {
  return sliced<TensorView, const std::byte>(x, axis, begin, size);
}
MutableTensorView slice(const MutableTensorView& x, std::size_t axis, Index begin, Index size) {
  return sliced<MutableTensorView, std::byte>(x, axis, begin, size);
}

std::vector<double> values_of(const TensorView& x) {
  const DefaultFloatingPoint default_floating_point;
  check_view("x", x);
  std::vector<double> values(static_cast<std::size_t>(element_count(x.shape)));
  read_values(x, values.data());
  return values;
}

}  // namespace exactnorm

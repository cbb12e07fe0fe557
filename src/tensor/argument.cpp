#include "tensor/argument.h"

#include <cstdint>

namespace exactnorm {

Argument::Argument(const char* name, const TensorView& layout) : name_(name), layout_(layout) {
  layout_.data = nullptr;
  if (element_count(layout.shape) > 0) extent_ = extent_of(layout);
}

Argument Argument::input(const char* name, const TensorView& x) {
  check_layout(name, x);
  return {name, x};
}

Argument Argument::output(const char* name, const TensorView& y) {
  check_output_layout(name, y);
  return {name, y};
}

Argument Argument::parameter(const char* name, const TensorView& parameter, const IndexList& axes,
                             const TensorView& x) {
  check_layout(name, parameter);
  return {name, view_parameter(name, parameter, axes, x)};
}

Argument Argument::output_parameter(const char* name, const TensorView& parameter, const IndexList& axes,
                                    const TensorView& x) {
  check_output_layout(name, parameter);
  return {name, view_parameter(name, parameter, axes, x)};
}

void Argument::check_address(const void* address) const {
  const bool is_empty = extent_.begin == extent_.end;
  const bool is_aligned = reinterpret_cast<std::uintptr_t>(address) % size_of(layout_.dtype) == 0;
  if (is_empty || (address != nullptr && is_aligned)) return;
  exactnorm::check_address(name_, at(address));
}

void check_separate(const Argument& output, const void* output_address, const Argument& other,
                    const void* other_address, bool may_be_same) {
  const auto distance = static_cast<Index>(reinterpret_cast<std::uintptr_t>(other_address) -
                                           reinterpret_cast<std::uintptr_t>(output_address));
  if (output.extent_.end <= other.extent_.begin + distance || other.extent_.end + distance <= output.extent_.begin) {
    return;
  }
  check_overlap(output.name_, output.at(output_address), other.name_, other.at(other_address), may_be_same);
}

}  // namespace exactnorm

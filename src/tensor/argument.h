#pragma once

#include "exactnorm/tensor.h"
#include "tensor/checks.h"

namespace exactnorm {

/// A tensor that an operation is given. Its layout is checked when it is made, its address with each call.
class Argument {
 public:
  /// Throws Error as check_layout does.
  [[nodiscard]] static Argument input(const char* name, const TensorView& x);
  /// Throws Error as check_output_layout does.
  [[nodiscard]] static Argument output(const char* name, const TensorView& y);
  /// A parameter of a tensor x of these channel axes. Throws Error as view_parameter does.
  [[nodiscard]] static Argument parameter(const char* name, const TensorView& parameter, const IndexList& axes,
                                          const TensorView& x);
  [[nodiscard]] static Argument output_parameter(const char* name, const TensorView& parameter, const IndexList& axes,
                                                 const TensorView& x);

  [[nodiscard]] const char* name() const noexcept { return name_; }
  /// The shape of a parameter is that of the channel axes.
  [[nodiscard]] TensorView at(const void* address) const noexcept {
    return {address, layout_.dtype, layout_.shape, layout_.strides};
  }
  [[nodiscard]] MutableTensorView at(void* address) const noexcept {
    return {address, layout_.dtype, layout_.shape, layout_.strides};
  }
  /// Without an address.
  [[nodiscard]] const TensorView& layout() const noexcept { return layout_; }

  /// Throws Error as the function of this name does.
  void check_address(const void* address) const;

  friend void check_separate(const Argument& output, const void* output_address, const Argument& other,
                             const void* other_address, bool may_be_same);

 private:
  Argument(const char* name, const TensorView& layout);

  const char* name_;
  TensorView layout_;  // whose data is null
  Extent extent_;      // empty where there are no elements
};

/// Throws Error as check_overlap does.
void check_separate(const Argument& output, const void* output_address, const Argument& other,
                    const void* other_address, bool may_be_same);

}  // namespace exactnorm

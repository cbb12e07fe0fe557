#pragma once

#include "exactnorm/options.h"
#include "exactnorm/tensor.h"
#include "tensor/argument.h"
#include "traverse/selection.h"

namespace exactnorm {

/// A mask that an operation is given.
class MaskArgument {
 public:
  /// Of a tensor x of these channel axes. Throws Error where its dtype or its shape is wrong.
  MaskArgument(const Mask& mask, const IndexList& axes, const TensorView& x);

  [[nodiscard]] const Argument& argument() const noexcept { return argument_; }
  [[nodiscard]] MaskedOutput masked() const noexcept { return masked_; }
  /// Whether masked elements have no part in the sums of a backward pass.
  [[nodiscard]] bool leaves_out_gradients() const noexcept { return masked_ != MaskedOutput::normalized; }
  /// With x's shape, and without an address.
  [[nodiscard]] const TensorView& layout() const noexcept { return layout_; }
  /// Counts the elements that are selected.
  [[nodiscard]] Selection select(const void* address) const;

 private:
  Argument argument_;
  MaskedOutput masked_;
  TensorView layout_;
  Index repeats_ = 0;  // elements of each of x's channels for one of the mask
};

/// What a mask of x selects. Throws Error as MaskArgument does, and where the address is wrong.
[[nodiscard]] SelectedView selected_view(const Mask& mask, const IndexList& axes, const TensorView& x);

}  // namespace exactnorm

/* Files of data/, which is on the include path, as they are. embedded.cpp declares the symbols. */

.macro embed symbol, file
  .global exactnorm_\symbol
  .global exactnorm_\symbol\()_end
  .hidden exactnorm_\symbol
  .hidden exactnorm_\symbol\()_end
exactnorm_\symbol:
  .incbin "\file"
exactnorm_\symbol\()_end:
.endm

  .section .rodata
  embed digits, "digits.npy"
  embed fully_connected_random_weights, "demo/fully_connected_random_weights.npy"
  embed fully_connected_random_input, "demo/fully_connected_random_input.npy"
  embed fully_connected_random_pytorch, "demo/fully_connected_random_pytorch.npy"
  embed fully_connected_digits_weights, "demo/fully_connected_digits_weights.npy"
  embed fully_connected_digits_pytorch, "demo/fully_connected_digits_pytorch.npy"
  embed convolution_random_input, "demo/convolution_random_input.npy"
  embed convolution_random_pytorch, "demo/convolution_random_pytorch.npy"
  embed convolution_digits_filters, "demo/convolution_digits_filters.npy"
  embed convolution_digits_pytorch, "demo/convolution_digits_pytorch.npy"

  /* Without this, linkers make the stack executable. */
  .section .note.GNU-stack, "", %progbits

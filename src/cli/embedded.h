#pragma once

#include <vector>

#include "exactnorm/tensor.h"

// The data of the demonstration, which the executable carries within itself.

namespace exactnorm::cli {

/// Values of a .npy file in row-major order; float64 holds all that these files have.
struct EmbeddedArray {
  IndexList shape;
  std::vector<double> values;
};

enum class Embedded {
  digits,
  fully_connected_random_weights,
  fully_connected_random_input,
  fully_connected_random_pytorch,
  fully_connected_digits_weights,
  fully_connected_digits_pytorch,
  convolution_random_input,
  convolution_random_pytorch,
  convolution_digits_filters,
  convolution_digits_pytorch
};

[[nodiscard]] EmbeddedArray read_embedded(Embedded file);

}  // namespace exactnorm::cli

#pragma once

#include "exactnorm/tensor.h"

// The vector code of apply. For each element, in float64, each operation rounded by itself (a
// fused multiply-add would give other bits on processors that have it):
//
//     out = (x - mean) * x_scale + shift                                            forward
//     out = the same, and 0 where that is less                                      relu
//     out = the same, and 6 where that is more                                      relu6
//     out = forward, rounded to the type of the arithmetic, + residual              sum
//     out = the same, and 0 where that is less                                      relu_of_sum
//     out = (dy + (((x - mean) * x_scale) * normalized_scale + shift)) * dy_scale   gradient
//     out = the same, with 0 for dy unless lower < x < upper                        windowed gradient, float32 alone
//
// Where all elements are float32, in float32, each product added without a rounding of its own
// (affine/coefficient_kernels.cpp, which has the error bounds), on all processors alike:
//
//     out = d * scale + (d * scale_rest + shift), d = x - mean                      forward, and what is made of it
//     out = dy * scale + (dy * scale_rest + (d * x_scale + shift))                  gradient
//
// unless a channel's coefficients are beyond that: then as in float64, and rounded to float32.

namespace exactnorm {

/// What is computed of each element.
enum class Formula { forward, relu, relu6, sum, relu_of_sum, gradient, windowed_gradient };
[[nodiscard]] constexpr bool is_gradient(Formula formula) noexcept {
  return formula == Formula::gradient || formula == Formula::windowed_gradient;
}
[[nodiscard]] constexpr bool adds_residual(Formula formula) noexcept {
  return formula == Formula::sum || formula == Formula::relu_of_sum;
}
/// Beside x: dy, or the residual.
[[nodiscard]] constexpr bool reads_second(Formula formula) noexcept {
  return is_gradient(formula) || adds_residual(formula);
}

/// Float32 coefficients of consecutive channels.
struct SingleColumns {
  const float* mean = nullptr;  // NaN: those in float64 serve
  const float* scale = nullptr;
  const float* scale_rest = nullptr;
  const float* shift = nullptr;
  const float* x_scale = nullptr;  // looked at in gradients only
};

/// The x between which an activation's derivative is 1, and 0 elsewhere, of consecutive channels.
struct WindowColumns {
  const float* lower = nullptr;
  const float* upper = nullptr;
};

/// Coefficients of consecutive channels.
struct Coefficients {
  const double* mean = nullptr;
  const double* x_scale = nullptr;
  const double* shift = nullptr;
  // Looked at in gradients only:
  const double* normalized_scale = nullptr;
  const double* dy_scale = nullptr;
  // Looked at only where elements are float32:
  SingleColumns single;
  // Looked at in windowed gradients only:
  WindowColumns window = {};

  /// The same from channel `channel` on.
  [[nodiscard]] Coefficients from(Index channel) const {
    return {mean + channel,
            x_scale + channel,
            shift + channel,
            normalized_scale + channel,
            dy_scale + channel,
            {single.mean + channel, single.scale + channel, single.scale_rest + channel, single.shift + channel,
             single.x_scale + channel},
            {window.lower + channel, window.upper + channel}};
  }
};

/// Where apply reads and writes. `second` is dy or the residual, or null. `out` may be x or that, unless it is
/// streamed.
template <typename T>
struct ApplyPointers {
  const T* x = nullptr;
  const T* second = nullptr;
  T* out = nullptr;

  /// The same, each moved on by its own number of elements.
  [[nodiscard]] ApplyPointers moved(Index by_x, Index by_second, Index by_out) const {
    return {x + by_x, second == nullptr ? nullptr : second + by_second, out + by_out};
  }
};

/// How outputs are written: into the caches, or past them, where they would not stay anyway and reading
/// the old contents of a line first is a waste. After streamed stores, `flush_streams` comes before any
/// other thread reads.
enum class Store { cached, streamed };
void flush_streams() noexcept;

/// Elements from one run or row to the next.
struct RowStrides {
  Index x = 0;
  Index second = 0;
  Index out = 0;
};

/// `runs` runs of `count` neighbouring elements of one channel each. Run i belongs to channel i, or, where
/// `same_channel`, all to the first.
template <typename T>
void apply_runs(Formula formula, const ApplyPointers<T>& at, Index runs, const RowStrides& strides, Index count,
                const Coefficients& coefficients, bool same_channel, Store store);

/// `rows` rows of `columns` neighbouring elements each; column i has the coefficients of entry i. Streamed
/// only where rows of `out` start at multiples of `line_bytes`.
template <typename T>
void apply_rows(Formula formula, const ApplyPointers<T>& at, Index rows, Index columns, const RowStrides& strides,
                const Coefficients& coefficients, Store store);

}  // namespace exactnorm

#pragma once

#include <string>
#include <vector>

#include "exactnorm/statistics.h"
#include "memory.h"
#include "placement.h"

namespace exactnorm::bench {

enum class Operation { training, inference, backward };
enum class Data { normal, relu, wide };

/// What is measured.
struct Case {
  Operation operation = Operation::training;
  std::string layout = "nchw";
  IndexList shape;  ///< (N, C) or (N, C, H, W)
  DType dtype = DType::float32;
  Data data = Data::normal;
  bool has_relu = false;  ///< follows the normalization
};

[[nodiscard]] std::string name_of(Operation operation);
/// "training", or "training+relu".
[[nodiscard]] std::string operation_of(const Case& measured);
[[nodiscard]] std::string name_of(Data data);

inline constexpr double epsilon = 1e-5;

/// What all layouts and contenders of a case share: one value per channel each.
template <typename T>
struct Parameters {
  std::vector<T> gamma;  ///< a third of them negative
  std::vector<T> beta;
  std::vector<T> mean;      ///< running statistics, for inference
  std::vector<T> variance;  ///< the same
};

template <typename T>
[[nodiscard]] Parameters<T> make_parameters(Index channels);

/// The tensors of a case in one layout: x, dy (backward only) and the output, which is y or dx.
template <typename T>
struct Tensors {
  /// Element (n, c, h, w) of x and dy depends on its indices, not on where the layout places it.
  Tensors(const Case& from, const Placement& at, int threads);

  /// Makes all outputs NaN: a call that leaves them as they are is found out.
  void forget_outputs();

  Placement placement;
  Memory x;
  Memory dy;
  Memory output;
  std::vector<T> dgamma;
  std::vector<T> dbeta;
};

/// Bytes that a case takes in one layout.
[[nodiscard]] std::size_t memory_of(const Case& from, const Placement& at);

}  // namespace exactnorm::bench

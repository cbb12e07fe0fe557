#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <optional>
#include <string>

#include "arguments.h"
#include "exactnorm/batch_norm.h"
#include "exactnorm/options.h"
#include "exactnorm/tensor.h"

// Python's arrays as views: NumPy's, and whatever else speaks DLPack or the buffer protocol. Nothing is copied. For
// callers to whom every microsecond counts, a tuple (address, dtype's name, shape, strides in elements) is an array,
// too; it is theirs to keep the memory alive.

namespace exactnorm::python {

/// An array that is read, held as long as the view is used, if it is not a tuple.
struct Input {
  nanobind::ndarray<nanobind::ro> array;
  TensorView view;
};
/// An array that is written.
struct Output {
  nanobind::ndarray<> array;
  MutableTensorView view;
};

/// Throws TypeError, naming the argument, for what is no array of CPU memory of a dtype that the library knows.
[[nodiscard]] Input input(const char* name, nanobind::handle object);
/// The same, and for an array that is read-only.
[[nodiscard]] Output output(const char* name, nanobind::handle object);

/// Nothing for None.
[[nodiscard]] std::optional<Input> optional_input(const char* name, nanobind::handle object);
[[nodiscard]] std::optional<Output> optional_output(const char* name, nanobind::handle object);

/// A mask, of a pair of an array and the name of what becomes of other elements. Throws Error where there is no such
/// name.
struct MaskInput {
  Input selected;
  MaskedOutput masked;
};
[[nodiscard]] std::optional<MaskInput> optional_mask(nanobind::handle pair);
[[nodiscard]] inline std::optional<Mask> view_of(const std::optional<MaskInput>& mask) {
  return mask ? std::optional(Mask(mask->selected.view, mask->masked)) : std::nullopt;
}

[[nodiscard]] inline std::optional<TensorView> view_of(const std::optional<Input>& array) {
  return array ? std::optional(array->view) : std::nullopt;
}
[[nodiscard]] inline std::optional<MutableTensorView> view_of(const std::optional<Output>& array) {
  return array ? std::optional(array->view) : std::nullopt;
}

/// What an operation takes beside x, each of which may be None.
class AffineInput {
 public:
  AffineInput(nanobind::handle gamma, nanobind::handle beta, nanobind::handle residual, nanobind::handle mask)
      : gamma_(optional_input("gamma", gamma)),
        beta_(optional_input("beta", beta)),
        residual_(optional_input("residual", residual)),
        mask_(optional_mask(mask)) {}

  [[nodiscard]] Affine view() const { return {view_of(gamma_), view_of(beta_), view_of(residual_), view_of(mask_)}; }

 private:
  std::optional<Input> gamma_;
  std::optional<Input> beta_;
  std::optional<Input> residual_;
  std::optional<MaskInput> mask_;
};

/// What a backward pass writes, each of which may be None.
class GradientOutputs {
 public:
  GradientOutputs(nanobind::handle dx, nanobind::handle dgamma, nanobind::handle dbeta, nanobind::handle d_residual)
      : dx_(optional_output("out", dx)),
        dgamma_(optional_output("dgamma", dgamma)),
        dbeta_(optional_output("dbeta", dbeta)),
        d_residual_(optional_output("out_residual", d_residual)) {}

  [[nodiscard]] Gradients view() const {
    return {view_of(dx_), view_of(dgamma_), view_of(dbeta_), view_of(d_residual_)};
  }
  /// Calls `call`, whose errors name outputs as they are called in Python.
  template <typename Call>
  static void renaming_them(const Call& call) {
    renaming("dx", "out", [&] { renaming("d_residual", "out_residual", call); });
  }

 private:
  std::optional<Output> dx_;
  std::optional<Output> dgamma_;
  std::optional<Output> dbeta_;
  std::optional<Output> d_residual_;
};

}  // namespace exactnorm::python

#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "torch_statistics.h"

// Marked calls: a module of this package calls PyTorch's own operator, whose autograd is PyTorch's, and has the
// replaced kernel compute this one call, whether or not all others are computed.

namespace exactnorm::python::torch {

struct MarkedCall {
  ModuleStep step;
  bool is_computed = false;
  bool is_declined = false;
  std::string refusal;  // the library's words for arguments that it refuses
};

/// The call that this thread makes just now; the kernel that asks takes it. Null for all other calls.
[[nodiscard]] MarkedCall* take_marked_call() noexcept;

void bind_torch_marked(nanobind::module_& module);

}  // namespace exactnorm::python::torch

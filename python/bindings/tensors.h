#pragma once

#include <nanobind/nanobind.h>

namespace exactnorm::python {

/// Adds the functions behind exactnorm.torch, whose names begin with `tensor_`.
void bind_tensors(nanobind::module_& module);

}  // namespace exactnorm::python

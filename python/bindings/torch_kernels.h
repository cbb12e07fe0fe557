#pragma once

#include <nanobind/nanobind.h>

namespace exactnorm::python::torch {

/// Adds the functions behind exactnorm.torch.enable, whose names begin with `torch_`.
void bind_torch_kernels(nanobind::module_& module);

}  // namespace exactnorm::python::torch

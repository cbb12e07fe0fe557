#pragma once

#include <nanobind/nanobind.h>

namespace exactnorm::python {

/// Adds what is behind exactnorm.torch.SyncBatchNorm.
void bind_synchronized(nanobind::module_& module);

}  // namespace exactnorm::python

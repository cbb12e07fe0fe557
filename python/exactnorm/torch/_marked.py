"""A converted module's training step through PyTorch's own operator: its autograd in C++, and the library's kernels.

Of all calls of the operator those that are marked are computed by the library, and nothing else is changed by it: what a
call costs is then little more than PyTorch's own part of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from exactnorm import _core
from exactnorm.torch import _enable, _operators
from exactnorm.torch._kernels import is_recomputation

_exact_call: Any = _core.torch_exact_call()
_native_batch_norm = torch.native_batch_norm
_plain = (Tensor, nn.Parameter)
_saved_tensors_hooks = torch._C._autograd._top_saved_tensors_default_hooks
_is_available: bool | None = None


def is_available() -> bool:
    """Whether this PyTorch's kernels can be replaced; replaces them at the first call."""
    global _is_available
    if _is_available is None:
        try:
            _enable.install()
            _is_available = True
        except RuntimeError:
            _is_available = False
    return _is_available


def training_step(module: nn.modules.batchnorm._BatchNorm, input: Tensor) -> Tensor | None:
    """What the module's forward() gives in training; None for what has to go another way: whatever looks at operators
    (modes, transforms, tracers, profilers, hooks of saved tensors), checkpointing, and arguments that are not plain."""
    dtype = input.dtype
    if (
        (dtype != torch.float32 and dtype != torch.float64)
        or _operators.is_transformed()
        or _operators._active_modes() > 0
        or _operators._tracer() is not None
        or _operators._has_profiler()
        or _saved_tensors_hooks(True) is not None
        or is_recomputation()
    ):
        return None
    parameters, buffers, momentum = module._parameters, module._buffers, module.momentum
    sizes = input.shape
    if "weight" not in parameters or momentum is None or not 0 <= momentum <= 1 or not 0 <= module.eps < float("inf"):
        return None
    weight, bias = parameters["weight"], parameters["bias"]
    mean = variance = batches = None
    if module.track_running_stats:
        mean, variance, batches = buffers["running_mean"], buffers["running_var"], buffers["num_batches_tracked"]
        if (mean is None) != (variance is None) or (batches is not None and batches.dtype != torch.int64):
            return None
    if not 2 <= len(sizes) <= 8 or not input.is_cpu or input.numel() <= sizes[1]:
        return None
    if input.is_neg() or input._is_zerotensor() or input.layout != torch.strided:
        return None
    expected = (sizes[1],)
    for value in (weight, bias, mean, variance):
        if value is not None and (
            type(value) not in _plain
            or value.dtype != dtype
            or value.shape != expected
            or not value.is_cpu
            or value.is_neg()
            or value._is_zerotensor()
        ):
            return None
    if mean is not None and (mean.requires_grad or variance.requires_grad):  # type: ignore[union-attr]
        return None
    if batches is not None and (type(batches) is not Tensor or not batches.is_cpu):
        return None
    if not is_available():
        return None
    module._check_input_dim(input)  # type: ignore[no-untyped-call]
    counter = 0 if batches is None else batches.data_ptr()
    output: Tensor = _exact_call(
        counter, _native_batch_norm, input, weight, bias, mean, variance, True, momentum, module.eps
    )[0]
    if batches is not None:
        # PyTorch does not see this write. A new version tells graphs that have saved the tensor; of the running statistics
        # its own operator gives no new one either.
        torch._C._increment_version((batches,))
    return output

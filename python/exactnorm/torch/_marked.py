"""A converted module's step through PyTorch's own operator: its autograd in C++, and the library's kernels.

Of all calls of the operator those that are marked are computed by the library, and nothing else is changed by it: what a
call costs is then little more than PyTorch's own part of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from exactnorm import _core
from exactnorm.torch import _enable, _kernels, _operators
from exactnorm.torch._kernels import is_recomputation

_exact_call: Any = _core.torch_exact_call()
_native_batch_norm = torch.native_batch_norm
_plain = _operators._plain_tensors
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


def step(module: nn.modules.batchnorm._BatchNorm, input: Tensor) -> Tensor | None:
    """What the module's forward() gives; None for what has to go another way: whatever looks at operators (modes, transforms,
    tracers, profilers, hooks of saved tensors), checkpointing, arguments that are not plain, and evaluations with a gradient,
    which is to be that of the statistics that were used, and not of those that a later training step makes of them."""
    dtype = input.dtype
    parameters, buffers = module._parameters, module._buffers
    training, tracks, momentum = module.training, module.track_running_stats, module.momentum
    if (
        dtype not in _kernels.dtypes
        or "weight" not in parameters
        or _operators.is_transformed()
        or _operators._active_modes() > 0
        or _operators._tracer() is not None
        or _operators._has_profiler()
        or _saved_tensors_hooks(True) is not None
        or is_recomputation()
    ):
        return None
    weight, bias = parameters["weight"], parameters["bias"]
    mean, variance, batches = buffers["running_mean"], buffers["running_var"], None
    sizes = input.shape
    if not 2 <= len(sizes) <= 8 or not input.is_cpu or not 0 <= module.eps < float("inf"):
        return None
    if training:
        if momentum is None or not 0 <= momentum <= 1 or input.numel() <= sizes[1]:
            return None
        if tracks:
            batches = buffers["num_batches_tracked"]
        else:
            mean = variance = None
    elif mean is None or input.numel() == 0 or (torch.is_grad_enabled() and _requires_grad(input, weight, bias)):
        return None
    if input.is_neg() or input._is_zerotensor() or input.layout != torch.strided or (mean is None) != (variance is None):
        return None
    expected = (sizes[1],)
    if dtype in _kernels.half_dtypes:
        dtype = _kernels.parameter_dtype(dtype, (weight, bias, mean))
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
    if batches is not None and (type(batches) is not Tensor or batches.dtype != torch.int64 or not batches.is_cpu):
        return None
    if not is_available():
        return None
    module._check_input_dim(input)  # type: ignore[no-untyped-call]
    counter = 0 if batches is None else batches.data_ptr()
    output: Tensor = _exact_call(
        counter, _native_batch_norm, input, weight, bias, mean, variance, training, momentum or 0.0, module.eps
    )[0]
    if batches is not None:
        # PyTorch does not see this write. A new version tells graphs that have saved the tensor; of the running statistics
        # its own operator gives no new one either.
        torch._C._increment_version((batches,))
    return output


def _requires_grad(*tensors: Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)

"""A converted module's step through PyTorch's own operator: its autograd in C++, and the library's kernels.

Of all calls of the operator those that are marked are computed by the library, and nothing else is changed by it: what a
call costs is then little more than PyTorch's own part of it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from exactnorm import _core
from exactnorm.torch import _enable, _operators
from exactnorm.torch._activations import ACTIVATIONS
from exactnorm.torch._kernels import is_recomputation

_marked_call: Any = _core.torch_marked_call()
_native_batch_norm = torch.native_batch_norm
_saved_tensors_hooks = torch._C._autograd._top_saved_tensors_default_hooks
_plain = _operators.plain_tensors
# By the kernel's numbers of them.
_activations = {name: number for number, name in enumerate(ACTIVATIONS)}
_is_refused = False


def is_available() -> bool:
    """Whether this PyTorch's kernels can be replaced; replaces them if they are not."""
    global _is_refused
    if not _enable.is_installed() and not _is_refused:
        try:
            _enable.install()
        except RuntimeError:
            _is_refused = True
    return not _is_refused


def step(
    module: nn.modules.batchnorm._BatchNorm, input: Tensor, activation: str = "none", slope: float = 0.0
) -> Tensor | None:
    """What the module's forward() gives for a plain tensor; None for what has to go another way: whatever looks at operators
    (modes, transforms, tracers, hooks of saved tensors), checkpointing, arguments that are not plain or that the
    kernel declines, and evaluations with a gradient, which is to be that of the statistics that were used, and not of those
    that a later training step makes of them."""
    parameters, buffers = module._parameters, module._buffers
    training, momentum = module.training, module.momentum
    if (
        "weight" not in parameters
        or not input.is_cpu
        or _operators.is_transformed()
        or _operators._active_modes() > 0
        or _operators._tracer() is not None
        or _saved_tensors_hooks(True) is not None
        or is_recomputation()
    ):
        return None
    weight, bias = parameters["weight"], parameters["bias"]
    mean, variance, batches, counter = buffers["running_mean"], buffers["running_var"], None, 0
    needs_gradient = torch.is_grad_enabled() and _requires_grad(input, weight, bias)
    if training:
        if momentum is None or input.numel() <= module.num_features:
            return None
        if not module.track_running_stats:
            mean = variance = None
        else:
            batches = buffers["num_batches_tracked"]
            if batches is not None:
                if type(batches) is not Tensor or batches.dtype != torch.int64 or not batches.is_cpu:
                    return None
                counter = batches.data_ptr()
    elif mean is None or needs_gradient:
        return None
    for value in (weight, bias, mean, variance):
        if value is not None and type(value) not in _plain:
            return None
    if mean is not None and (variance is None or mean.requires_grad or variance.requires_grad):
        return None
    if not is_available():
        return None
    module._check_input_dim(input)  # type: ignore[no-untyped-call]
    output: Tensor | None = _marked_call(
        counter,
        _activations[activation],
        slope,
        _native_batch_norm,
        input,
        weight,
        bias,
        mean,
        variance,
        training,
        momentum or 0.0,
        module.eps,
    )
    if output is not None and batches is not None:
        # PyTorch does not see this write. A new version tells graphs that have saved the tensor; of the running statistics
        # its own operator gives no new one either.
        torch._C._increment_version((batches,))
    return output


def _requires_grad(*tensors: Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)

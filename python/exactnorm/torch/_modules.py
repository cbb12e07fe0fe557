"""`torch.nn`'s batch normalization modules, computed by exactnorm."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from exactnorm.torch import _marked
from exactnorm.torch.functional import normalize


_checks: dict[int, Any] = {
    1: nn.BatchNorm1d._check_input_dim,
    2: nn.BatchNorm2d._check_input_dim,
    3: nn.BatchNorm3d._check_input_dim,
}


# One step for torch.fx, as torch.nn's modules are one.
@torch.fx.wrap
def batch_norm_module(
    input: Tensor,
    spatial_dimensions: int,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    batches: Tensor | None,
) -> Tensor:
    """What the modules do with their parameters and buffers."""
    _checks[spatial_dimensions](None, input)
    return normalize(input, running_mean, running_var, weight, bias, training, momentum, eps, batches)


def arguments_of(module: nn.modules.batchnorm._BatchNorm) -> tuple[Any, ...]:
    """What `normalize` takes after the input, from a module's mode, parameters and buffers."""
    tracks = module.training and module.track_running_stats
    has_buffers = tracks or not module.training
    return (
        module.running_mean if has_buffers else None,
        module.running_var if has_buffers else None,
        module.weight,
        module.bias,
        module.training or (module.running_mean is None and module.running_var is None),
        module.momentum,
        module.eps,
        module.num_batches_tracked if tracks else None,
    )


class _ExactBatchNorm(nn.modules.batchnorm._BatchNorm):
    _spatial_dimensions: int
    # Under torch.compile and torch.export: "fast" is what torch.nn's module does, "exact" an operator.
    compiled: Literal["fast", "exact"] = "fast"

    def forward(self, input: Tensor) -> Tensor:
        """Normalizes by the batch, updating running statistics, or in evaluation mode by these."""
        if torch.compiler.is_compiling():
            # An average over all batches would break PyTorch's graph.
            if self.compiled == "fast" and self.momentum is not None:
                return nn.modules.batchnorm._BatchNorm.forward(self, input)
        elif type(input) is Tensor:
            output = _marked.step(self, input)
            if output is not None:
                return output
        return batch_norm_module(input, self._spatial_dimensions, *arguments_of(self))


class BatchNorm1d(_ExactBatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` for (N, C) and (N, C, L), computed by exactnorm: same arguments, same state_dict.

    >>> import torch, exactnorm.torch
    >>> layer = exactnorm.torch.BatchNorm1d(3)
    >>> layer(torch.randn(5, 3) + 1e6).std(0, correction=0).round(decimals=2)
    tensor([1., 1., 1.], grad_fn=<RoundBackward1>)
    """

    _spatial_dimensions = 1


class BatchNorm2d(_ExactBatchNorm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` for (N, C, H, W), computed by exactnorm: same arguments, same state_dict.

    >>> import torch, exactnorm.torch
    >>> layer = exactnorm.torch.BatchNorm2d(3)
    >>> x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    >>> layer(x).is_contiguous(memory_format=torch.channels_last)
    True
    """

    _spatial_dimensions = 2


class BatchNorm3d(_ExactBatchNorm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` for (N, C, D, H, W), computed by exactnorm: same arguments, same state_dict."""

    _spatial_dimensions = 3


class LazyBatchNorm1d(nn.LazyBatchNorm1d):
    """A `BatchNorm1d` that takes the number of channels from its first input."""

    cls_to_become = BatchNorm1d


class LazyBatchNorm2d(nn.LazyBatchNorm2d):
    """A `BatchNorm2d` that takes the number of channels from its first input."""

    cls_to_become = BatchNorm2d


class LazyBatchNorm3d(nn.LazyBatchNorm3d):
    """A `BatchNorm3d` that takes the number of channels from its first input."""

    cls_to_become = BatchNorm3d


# Where pickles and users find them.
for _class in (BatchNorm1d, BatchNorm2d, BatchNorm3d, LazyBatchNorm1d, LazyBatchNorm2d, LazyBatchNorm3d):
    _class.__module__ = "exactnorm.torch"

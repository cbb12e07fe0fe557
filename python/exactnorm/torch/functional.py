"""`torch.nn.functional.batch_norm`, computed by exactnorm."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from exactnorm.torch import _formulas, _kernels, _operators
from exactnorm.torch._kernels import is_recomputation

__all__ = ["batch_norm"]


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Stands in for `torch.nn.functional.batch_norm`, with the same arguments.

    input
        Of shape (N, C) or (N, C, ...), in any memory layout, which the output has, too.
    running_mean, running_var
        Of shape (C,): what is normalized by if not `training`; otherwise updated, if given, with the unbiased variance. A
        channel whose batch is not finite keeps what it had.
    momentum
        The weight of the new value. None is PyTorch's TypeError: only the modules count batches, to average over all.

    Within a backward pass, as when activation checkpointing computes a batch again, running statistics stay as they are.

    Raises ValueError for one value per channel in training, and, where PyTorch would return NaN, for running statistics
    that are not finite, or variances of -eps or less.

    >>> import torch, exactnorm.torch
    >>> x = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    >>> exactnorm.torch.functional.batch_norm(x, None, None, training=True, eps=0)
    tensor([[-1., -1.],
            [ 1.,  1.]])
    """
    if momentum is None:
        # The error is PyTorch's: without a counter, there is no average over all batches.
        return torch.nn.functional.batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )
    return normalize(input, running_mean, running_var, weight, bias, training, momentum, eps, None)


def normalize(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    batches: Tensor | None,
) -> Tensor:
    """batch_norm that counts `batches`, if given; with momentum None, running statistics are the average over all of them."""
    is_taken = is_known(input, (running_mean, running_var, weight, bias), training, momentum, eps)
    # Neither forward-mode derivatives nor torch.func's transforms can look into our operators.
    is_transformed = _operators.is_transformed()
    output: Tensor
    if is_taken and is_transformed and torch.compiler.is_compiling() and _operators.is_forward_mode():
        # PyTorch cannot compile this of its own function.
        if not training:
            assert running_mean is not None and running_var is not None
            output = _formulas.inference(input, running_mean, running_var, weight, bias, eps)
            return output
        if running_mean is None and batches is None:
            check_size(input)
            output, _ = _formulas.batch_norm(input, weight, bias, eps)
            return output
    if not is_taken or is_transformed:
        if not torch.compiler.is_compiling() and is_recomputation():
            # To be computed with, and then forgotten.
            running_mean, running_var = _copy(running_mean), _copy(running_var)
            batches = _copy(batches)
        if batches is not None:
            batches.add_(1)
        if momentum is None:
            momentum = 0.0 if batches is None else 1.0 / float(batches)
        return torch.nn.functional.batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )
    if not training:
        output = _operators.batch_norm_inference(input, running_mean, running_var, weight, bias, eps)
        return output
    check_size(input)
    output, statistics = _operators.batch_norm(input, weight, bias, eps)
    if running_mean is not None or batches is not None:
        _operators.track(statistics, running_mean, running_var, batches, momentum)
    return output


def check_size(input: Tensor) -> None:
    if input.numel() == input.shape[1] and input.numel() > 0:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {input.shape}; "
            "its variance would be 0, whatever the value"
        )


def _copy(buffer: Tensor | None) -> Tensor | None:
    return None if buffer is None else buffer.clone()


def is_known(
    input: Tensor, others: tuple[Tensor | None, ...], training: bool, momentum: float | None, eps: float
) -> bool:
    """Whether our operators are for such arguments."""
    if not (input.is_cpu and input.dtype in _kernels.dtypes and 2 <= input.dim() <= 8):
        return False
    if input.layout != torch.strided or not 0 <= eps < math.inf or not (momentum is None or 0 <= momentum <= 1):
        return False
    if type(input) is not Tensor and _operators.dispatches_itself(type(input)):
        return False
    channels = input.shape[1]
    dtype = _kernels.parameter_dtype(input.dtype, others)
    for other in others:
        if other is not None and not (
            other.is_cpu
            and other.dtype == dtype
            and other.dim() == 1
            and other.shape[0] == channels
            and not _operators.dispatches_itself(type(other))
        ):
            return False
    running_mean, running_var, *_ = others
    if running_mean is None or running_var is None:
        if not training or running_mean is not running_var:
            return False
    elif torch.is_grad_enabled() and (running_mean.requires_grad or running_var.requires_grad):
        return False
    # ONNX has an operator for PyTorch's normalization, and none for ours.
    return not (
        (torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None)
        and torch.onnx.is_in_onnx_export()
    )

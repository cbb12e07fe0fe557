"""Batch normalization, a residual and an activation by operations one after the other, which compilers, transforms and other
devices follow, and which have derivatives of every order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from exactnorm.torch.functional import normalize

# By the library's names, in its order.
ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda y, slope: y,
    "relu": lambda y, slope: functional.relu(y),
    "relu6": lambda y, slope: functional.relu6(y),
    "leaky_relu": functional.leaky_relu,
    "silu": lambda y, slope: functional.silu(y),
    "hard_swish": lambda y, slope: functional.hardswish(y),
}


def activate(y: Tensor, activation: str, slope: float) -> Tensor:
    return ACTIVATIONS[activation](y, slope)


def activated_batch_norm(
    input: Tensor,
    residual: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float | None,
    eps: float,
    batches: Tensor | None,
    activation: str,
    slope: float,
) -> Tensor:
    """activation(batch_norm(input) + residual), with running statistics and a counter of batches as `normalize` has them."""
    if torch.compiler.is_compiling() and momentum is not None:
        # PyTorch's own, which its compiler fuses with its neighbours.
        if batches is not None:
            batches.add_(1)
        y = functional.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    else:
        y = normalize(input, running_mean, running_var, weight, bias, training, momentum, eps, batches)
    return activate(y if residual is None else y + residual, activation, slope)


def gradients(
    grad_output: Tensor,
    sources: tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None],
    needs: Sequence[bool],
    running: tuple[Tensor | None, Tensor | None],
    training: bool,
    eps: float,
    activation: str,
    slope: float,
) -> list[Tensor | None]:
    """Of input, residual, weight and bias, those that are needed; with derivatives of their own where the caller's have them."""
    wanted = [source for source, is_needed in zip(sources, needs, strict=True) if is_needed and source is not None]
    input, residual, weight, bias = sources
    assert input is not None
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        y = activated_batch_norm(
            input, residual, *running, weight, bias, training, 0.0, eps, None, activation, slope
        )
        found = iter(torch.autograd.grad(y, wanted, grad_output, create_graph=create_graph, allow_unused=True))
    return [next(found) if is_needed else None for is_needed in needs]

"""The activations that a layer takes in, by PyTorch's operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

# By the library's names, in its order.
ACTIVATIONS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "none": lambda y, slope: y,
    "relu": lambda y, slope: functional.relu(y),
    "relu6": lambda y, slope: functional.relu6(y),
    "leaky_relu": functional.leaky_relu,
    "silu": lambda y, slope: functional.silu(y),
    "hard_swish": lambda y, slope: functional.hardswish(y),
}

# Of what goes into an activation, from the gradient of what comes out of it, y: where a layer with a residual keeps y. Only
# what PyTorch keeps the output of, too: a program may overwrite that of others before the backward pass.
GRADIENTS_BY_OUTPUT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": lambda gradient, y: gradient,
    "relu": lambda gradient, y: torch.ops.aten.threshold_backward(gradient, y, 0),
}


def activate(y: Tensor, residual: Tensor | None, activation: str, slope: float) -> Tensor:
    """activation(y + residual)"""
    return ACTIVATIONS[activation](y if residual is None else y + residual, slope)

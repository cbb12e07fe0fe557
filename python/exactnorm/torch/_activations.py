"""The activations that a layer takes in, by PyTorch's operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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

_aten: Any = torch.ops.aten
# Of what goes into an activation, from the gradient of what comes out of it, y: for those whose y tells the derivative.
GRADIENTS_BY_OUTPUT: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "none": lambda gradient, y, slope: gradient,
    "relu": lambda gradient, y, slope: _aten.threshold_backward(gradient, y, 0),
    "relu6": lambda gradient, y, slope: _aten.hardtanh_backward(gradient, y, 0, 6),
    "leaky_relu": lambda gradient, y, slope: _aten.leaky_relu_backward(gradient, y, slope, True),
}


def output_tells(activation: str, slope: float) -> bool:
    """Whether an activation's output tells its derivative."""
    return activation in GRADIENTS_BY_OUTPUT and not (activation == "leaky_relu" and slope < 0)


def activate(y: Tensor, activation: str, slope: float) -> Tensor:
    return ACTIVATIONS[activation](y, slope)

"""Batch normalization, a residual and an activation by operations one after the other, which compilers, transforms and other
devices follow, and which have derivatives of every order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from exactnorm.torch._activations import activate
from exactnorm.torch.functional import normalize


def activated_batch_norm(
    input: Tensor, residual: Tensor | None, arguments: tuple[Any, ...], activation: str, slope: float
) -> Tensor:
    """activation(batch_norm(input) + residual), with the arguments that `normalize` takes after the input."""
    *of_pytorch, batches = arguments
    if torch.compiler.is_compiling() and of_pytorch[-2] is not None:  # the momentum
        # PyTorch's own, which its compiler fuses with its neighbours.
        if batches is not None:
            batches.add_(1)
        y = functional.batch_norm(input, *of_pytorch)
    else:
        y = normalize(input, *arguments)
    return activate(y, residual, activation, slope)


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
    if not wanted:
        return [None] * len(sources)
    input, residual, *parameters = sources
    assert input is not None
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        arguments = (*running, *parameters, training, 0.0, eps, None)
        y = activated_batch_norm(input, residual, arguments, activation, slope)
        found = iter(torch.autograd.grad(y, wanted, grad_output, create_graph=create_graph, allow_unused=True))
    return [
        next(found) if is_needed and source is not None else None
        for source, is_needed in zip(sources, needs, strict=True)
    ]

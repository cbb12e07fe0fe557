"""Derivatives of the backward pass, in PyTorch's own operations, so that they have derivatives of every order."""

from __future__ import annotations

import torch
from torch import Tensor


def gradients_of_gradients(
    cotangents: tuple[Tensor | None, ...],
    grad_output: Tensor,
    input: Tensor,
    frozen_statistics: Tensor | None,
    weight: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of grad_output, input and weight, given those of grad_input, grad_weight and grad_bias.

    With n the normalized input, r = 1 / deviation, and u, v, w the three cotangents, the backward pass has the value

        L = weight * r * (C - A * B / m) + sum(v * B) + sum(w * sum(grad_output))
        A = sum(u * n)    B = sum(grad_output * n)    C = sum((u - mean(u)) * (grad_output - mean(grad_output)))

    per channel of m elements, and what is returned is the derivatives of L. The change of n and r with the input is

        dn = r * (d - mean(d) - n * mean(d * n))    dr = -r^2 * mean(d * n)

    With frozen statistics n and r do not depend on each other's elements, and L = sum(weight * r * u * grad_output) +
    sum(v * B) + sum(w * sum(grad_output)). All is computed in float64, from the input alone.
    """
    axes = [axis for axis in range(input.dim()) if axis != 1]
    per_channel = [-1 if axis == 1 else 1 for axis in range(input.dim())]
    elements = max(1, input.numel() // max(1, input.shape[1]))

    def total(values: Tensor) -> Tensor:
        return values.sum(axes, keepdim=True)

    def centered(values: Tensor) -> Tensor:
        return values - total(values) / elements

    def wide(values: Tensor | None, stands_for: float) -> Tensor:
        if values is None:
            return torch.full([1] * input.dim(), stands_for, dtype=torch.float64)
        return values.double() if values.dim() == input.dim() else values.double().reshape(per_channel)

    u = wide(cotangents[0], 0).expand_as(input)
    v, w = wide(cotangents[1], 0), wide(cotangents[2], 0)
    scale, dy, x = wide(weight, 1), grad_output.double(), input.double()

    if frozen_statistics is not None:
        mean, residual, _, r, _ = (row.reshape(per_channel) for row in frozen_statistics)
        n = ((x - mean) - residual) * r
        for_output = scale * r * u + v * n + w
        for_input = v * r * dy
        for_weight = r * total(u * dy)
    else:
        x_centered = centered(x)
        variance = total(x_centered * x_centered) / elements
        # A constant channel without epsilon has no gradient.
        divisor = torch.where(variance + eps > 0, variance + eps, 1)
        r = torch.where(variance + eps > 0, divisor.rsqrt(), 0)
        n = x_centered * r
        a, b = total(u * n), total(dy * n)
        for_weight = r * (total(centered(u) * centered(dy)) - a * b / elements)
        for_output = scale * r * (centered(u) - n * a / elements) + v * n + w
        q = v * dy - scale * r * (u * b + dy * a) / elements
        for_input = r * (centered(q) - n * total(q * n) / elements - scale * for_weight * n / elements)
    return (
        for_output.expand_as(input).to(grad_output.dtype),
        for_input.expand_as(input).to(input.dtype),
        None if weight is None else for_weight.reshape(weight.shape).to(weight.dtype),
    )

"""What the operators compute, in PyTorch's own operations: slower, but every transform can follow, and there are derivatives
of every order. All is computed in float64."""

from __future__ import annotations

import torch
from torch import Tensor

from exactnorm.torch import _kernels


def batch_norm(input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    shapes = _Shapes(input)
    mean, variance, inverse_deviation, normalized = shapes.normalized(input.double(), eps)
    count = torch.full_like(mean, input.numel() // max(1, input.shape[1]))
    rows = (mean, torch.zeros_like(mean), variance, inverse_deviation, count)
    statistics = torch.stack([row.detach().flatten() for row in rows])
    return shapes.scaled(normalized, weight, bias).to(input.dtype), statistics


def inference(
    input: Tensor, running_mean: Tensor, running_var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    shapes = _Shapes(input)
    statistics = given_statistics(running_mean, running_var, eps)
    return shapes.scaled(shapes.normalized_by(statistics, input.double()), weight, bias).to(input.dtype)


def given_statistics(running_mean: Tensor, running_var: Tensor, eps: float) -> Tensor:
    mean, variance = running_mean.detach().double(), running_var.detach().double()
    rows = (mean, torch.zeros_like(mean), variance, (variance + eps).rsqrt(), torch.ones_like(mean))
    return torch.stack(rows)


def gradients(
    grad_output: Tensor,
    input: Tensor,
    statistics: Tensor,
    weight: Tensor | None,
    eps: float,
    frozen: bool,
    output_mask: list[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of input, weight and bias, and tensors without elements where they are not wanted.

    Statistics of the batch are computed anew, since they change with the input.
    """
    shapes = _Shapes(input)
    dy, x, scale = grad_output.double(), input.double(), shapes.wide(weight, 1)
    if frozen:
        n = shapes.normalized_by(statistics, x)
        grad_input = scale * shapes.per_channel(statistics[3]) * dy
    else:
        _, _, r, n = shapes.normalized(x, eps)
        grad_input = scale * r * (shapes.centered(dy) - n * shapes.total(dy * n) / shapes.elements)
    results = (grad_input, shapes.total(dy * n).flatten(), shapes.total(dy).flatten())
    of_parameters = _kernels.gradient_dtype(input, weight)
    dtypes = (input.dtype, of_parameters, of_parameters)
    for_input, for_weight, for_bias = (
        result.to(dtype) if wanted else input.new_empty(0, dtype=dtype)
        for result, dtype, wanted in zip(results, dtypes, output_mask, strict=True)
    )
    return for_input, for_weight, for_bias


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
    sum(v * B) + sum(w * sum(grad_output)).
    """
    shapes = _Shapes(input)
    total, centered, elements = shapes.total, shapes.centered, shapes.elements
    u = shapes.wide(cotangents[0], 0).expand_as(input)
    v, w = shapes.wide(cotangents[1], 0), shapes.wide(cotangents[2], 0)
    scale, dy, x = shapes.wide(weight, 1), grad_output.double(), input.double()

    if frozen_statistics is not None:
        r = shapes.per_channel(frozen_statistics[3])
        n = shapes.normalized_by(frozen_statistics, x)
        for_output = scale * r * u + v * n + w
        for_input = v * r * dy
        for_weight = r * total(u * dy)
    else:
        _, _, r, n = shapes.normalized(x, eps)
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


class _Shapes:
    """Sums and numbers per channel, in shapes that broadcast with the input's."""

    def __init__(self, input: Tensor) -> None:
        self.input = input
        self.axes = [axis for axis in range(input.dim()) if axis != 1]
        self.elements = max(1, input.numel() // max(1, input.shape[1]))

    def total(self, values: Tensor) -> Tensor:
        return values.sum(self.axes, keepdim=True)

    def centered(self, values: Tensor) -> Tensor:
        return values - self.total(values) / self.elements

    def per_channel(self, row: Tensor) -> Tensor:
        return row.reshape([-1 if axis == 1 else 1 for axis in range(self.input.dim())])

    def wide(self, values: Tensor | None, stands_for: float) -> Tensor:
        if values is None:
            return torch.full([1] * self.input.dim(), stands_for, dtype=torch.float64, device=self.input.device)
        return values.double() if values.dim() == self.input.dim() else self.per_channel(values.double())

    def normalized(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean, variance, 1 / deviation, and x normalized by them."""
        mean = self.total(x) / self.elements
        x_centered = x - mean
        variance = self.total(x_centered * x_centered) / self.elements
        # A constant channel without epsilon has no gradient.
        divisor = torch.where(variance + eps > 0, variance + eps, 1)
        inverse_deviation = torch.where(variance + eps > 0, divisor.rsqrt(), 0)
        return mean, variance, inverse_deviation, x_centered * inverse_deviation

    def normalized_by(self, statistics: Tensor, x: Tensor) -> Tensor:
        mean, residual, _, inverse_deviation, _ = (self.per_channel(row) for row in statistics)
        return ((x - mean) - residual) * inverse_deviation

    def scaled(self, normalized: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
        return normalized * self.wide(weight, 1) + self.wide(bias, 0)

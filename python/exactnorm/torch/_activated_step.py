"""Normalization, a residual and an activation in one pass: a function of autograd's, and an operator for compilers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from exactnorm.torch import _formulas, _kernels, _operators, _separate, functional
from exactnorm.torch._activations import GRADIENTS_BY_OUTPUT, activate
from exactnorm.torch._kernels import track

Activation = tuple[str, float]  # its name and slope

_operators.define(
    "batch_norm_activated(Tensor input, Tensor? residual, Tensor? weight, Tensor? bias, float eps, str activation,"
    " float slope) -> (Tensor, Tensor)"
)
_operators.define(
    "batch_norm_activated_backward(Tensor grad_output, Tensor input, Tensor? residual, Tensor? output, Tensor statistics,"
    " Tensor? weight, Tensor? bias, float eps, bool frozen, str activation, float slope, bool[4] output_mask)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)


def _formula(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    activation: str,
    slope: float,
) -> tuple[Tensor, Tensor]:
    y, statistics = _formulas.batch_norm(input, weight, bias, eps)
    return activate(y, residual, activation, slope), statistics


def _keep(
    ctx: Any,
    sources: tuple[Tensor, Tensor | None, Tensor | None, Tensor | None],
    output: Tensor,
    statistics: Tensor,
    training: bool,
    eps: float,
    activation: Activation,
) -> None:
    """What `_gradients` takes of a forward pass. With a residual that is the output, if the gradient comes of it: the next
    layer keeps it, too, as nobody may keep the residual."""
    input, residual, weight, bias = sources
    by_output = residual is not None and activation[0] in GRADIENTS_BY_OUTPUT
    kept = None if by_output and activation[0] == "none" else output if by_output else residual
    ctx.save_for_backward(input, kept, weight, bias, statistics)
    ctx.training, ctx.eps, ctx.activation, ctx.by_output = training, eps, activation, by_output
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, grad_output: Tensor | None, needs: tuple[bool, ...]) -> list[Tensor | None]:
    """Of the input, the residual, weight and bias."""
    if grad_output is None:
        return [None] * 4
    input, kept, weight, bias, statistics = ctx.saved_tensors
    residual, output = (None, kept) if ctx.by_output else (kept, None)
    name, slope = ctx.activation
    # Without an activation, the residual's gradient is that of the output.
    passes_on = ctx.by_output and output is None
    if torch.is_grad_enabled() or _operators.is_other(grad_output):
        if ctx.by_output:
            grad_output = GRADIENTS_BY_OUTPUT[name](grad_output, grad_output if output is None else output.detach())
        running: tuple[Tensor | None, Tensor | None] = (None, None)
        if not ctx.training:
            running = (statistics[0].to(input.dtype), statistics[2].to(input.dtype))
        sources = (input, residual, weight, bias)
        activation = ("none", 0.0) if ctx.by_output else ctx.activation
        found = _separate.gradients(grad_output, sources, needs, running, ctx.training, ctx.eps, *activation)
        if ctx.by_output and needs[1]:
            found[1] = grad_output
        return found
    grad_output = grad_output.to(input.dtype)
    wanted = [needs[0], needs[1] and not passes_on, needs[2], needs[3]]
    results = activated_backward(
        grad_output, input, residual, output, statistics, weight, bias, ctx.eps, not ctx.training, name, slope, wanted
    )
    gradients = _operators.only_wanted(results, wanted)
    if needs[1] and passes_on:
        gradients[1] = grad_output
    return gradients


class _Training(torch.autograd.Function):
    """Of the operator."""

    @staticmethod
    def forward(ctx: Any, keyset: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        input, residual, weight, bias, eps, name, slope = inputs
        output, statistics = activated.below_autograd(keyset, inputs)
        _keep(ctx, (input, residual, weight, bias), output, statistics, True, eps, (name, slope))
        ctx.mark_non_differentiable(statistics)
        return output, statistics

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        return None, *_gradients(ctx, grad_output, ctx.needs_input_grad[1:5]), None, None, None


activated = _operators.Operator(
    "batch_norm_activated", _kernels.activated, _kernels.activated_meta, _formula, _Training
)
activated_backward = _operators.Operator(
    "batch_norm_activated_backward", _kernels.activated_backward, _kernels.activated_backward_meta
)


class _Activated(torch.autograd.Function):
    """Of a module, in either mode."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        residual: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float | None,
        eps: float,
        batches: Tensor | None,
        activation: Activation,
    ) -> Tensor:
        if training:
            output, statistics = _kernels.activated(input, residual, weight, bias, eps, *activation)
            track(statistics, running_mean, running_var, batches, momentum)
        else:
            assert running_mean is not None and running_var is not None
            statistics = _kernels.given_statistics(running_mean, running_var, eps)
            output = _kernels.inference(input, running_mean, running_var, weight, bias, eps, residual, activation)
        _keep(ctx, (input, residual, weight, bias), output, statistics, training, eps, activation)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None) -> tuple[Tensor | None, ...]:
        return *_gradients(ctx, grad_output, ctx.needs_input_grad[:4]), *(None,) * 7


def _fits(residual: Tensor, input: Tensor) -> bool:
    return residual.dtype == input.dtype and residual.shape == input.shape and residual.is_cpu


def activated_by_operator(
    input: Tensor, residual: Tensor | None, arguments: tuple[Any, ...], activation: str, slope: float
) -> Tensor | None:
    """For compilers, with the arguments that `normalize` takes after the input: a step in training, as one operator; None of
    what the operator is not for."""
    running_mean, running_var, weight, bias, training, momentum, eps, batches = arguments
    others = (running_mean, running_var, weight, bias)
    if not training or _operators.is_transformed() or not functional.is_known(input, others, training, momentum, eps):
        return None
    if residual is not None and (not _fits(residual, input) or _operators.dispatches_itself(type(residual))):
        return None
    functional.check_size(input)
    output: Tensor
    output, statistics = activated(input, residual, weight, bias, eps, activation, slope)
    if running_mean is not None or batches is not None:
        _operators.track(statistics, running_mean, running_var, batches, momentum)
    return output


# Without the wrapper that looks for torch.func's transforms, of which is_for_kernels says that there are none.
apply_activated: Any = super(torch.autograd.Function, _Activated).apply


def is_for_kernels(
    input: Tensor, residual: Tensor | None, others: tuple[Tensor | None, ...], training: bool, eps: float
) -> bool:
    """Whether the kernels are for such arguments, and nobody is watching who would want to see operations."""
    if (
        torch.compiler.is_compiling()
        or _operators.is_transformed()
        or _operators._active_modes() > 0
        or _operators._tracer() is not None
    ):
        return False
    dtype = input.dtype
    if type(input) not in _operators.plain_tensors or dtype not in _kernels.dtypes or not input.is_cpu or not 0 <= eps < math.inf:
        return False
    if not 2 <= input.dim() <= 8 or input.numel() == 0 or input.is_neg() or input._is_zerotensor():
        return False
    if residual is not None and (
        type(residual) not in _operators.plain_tensors
        or not _fits(residual, input)
        or residual.is_neg()
        or residual._is_zerotensor()
    ):
        return False
    dtype = _kernels.parameter_dtype(dtype, others)
    for other in others:
        if other is None:
            continue
        if type(other) not in _operators.plain_tensors or not other.is_cpu or other.shape != (input.shape[1],):
            return False
        if other.dtype != dtype:
            return False
    running_mean, running_var = others[:2]
    if (running_mean is None) != (running_var is None) or (running_mean is None and not training):
        return False
    # One value per channel is an error, which the operations have words for.
    return not training or input.numel() > input.shape[1]



"""The operators `torch.ops.exactnorm.*`, and their derivatives.

PyTorch's compilers, exporters, tracers, profilers and modes see an operator. Where none of them is looking, the kernel is called
directly: going through the dispatcher, and through it again below autograd, takes longer than normalizing a small tensor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from exactnorm.torch import _kernels
from exactnorm.torch._double_backward import gradients_of_gradients

DispatchKeySet = Any

_library: Any = torch.library.Library("exactnorm", "DEF")  # type: ignore[no-untyped-call]
_library.define("batch_norm(Tensor input, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor)")
_library.define(
    "batch_norm_inference(Tensor input, Tensor running_mean, Tensor running_var, Tensor? weight, Tensor? bias, float eps)"
    " -> Tensor"
)
_library.define("given_statistics(Tensor running_mean, Tensor running_var, float eps) -> Tensor")
_library.define(
    "batch_norm_backward(Tensor grad_output, Tensor input, Tensor statistics, Tensor? weight, float eps, bool frozen,"
    " bool[3] output_mask) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "update_running(Tensor statistics, Tensor(a!) running_mean, Tensor(b!) running_var, Tensor? batches, float? momentum)"
    " -> ()"
)

# Of arguments behind which nobody hides.
_plain_types = {Tensor, torch.nn.Parameter, float, bool, list, type(None)}


class _Operator:
    def __init__(
        self,
        name: str,
        kernel: Callable[..., Any],
        meta: Callable[..., Any],
        derivative: type[torch.autograd.Function] | None = None,
    ) -> None:
        self.overload = getattr(torch.ops.exactnorm, name).default
        self.kernel = kernel
        self.derivative = derivative
        _library.impl(name, kernel, "CPU")
        torch.library.register_fake(f"exactnorm::{name}", meta, lib=_library)
        if derivative is not None:
            _library.impl(name, self._above_autograd, "Autograd", with_keyset=True)

    def __call__(self, *inputs: Any) -> Any:
        if torch.compiler.is_compiling() or _is_watched(inputs):
            return self.overload(*inputs)
        if self._needs_derivative(inputs):
            return self.derivative.apply(None, *inputs)  # type: ignore[union-attr]
        return self.kernel(*inputs)

    def below_autograd(self, keyset: DispatchKeySet | None, inputs: tuple[Any, ...]) -> Any:
        """What a derivative's forward pass calls. Without a keyset, nobody is watching."""
        if keyset is None:
            return self.kernel(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return self.overload.redispatch(keyset & torch._C._after_autograd_keyset, *inputs)

    def _above_autograd(self, keyset: DispatchKeySet, *inputs: Any) -> Any:
        if self._needs_derivative(inputs):
            return self.derivative.apply(keyset, *inputs)  # type: ignore[union-attr]
        return self.below_autograd(keyset, inputs)

    def _needs_derivative(self, inputs: tuple[Any, ...]) -> bool:
        return self.derivative is not None and torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs)


def _is_watched(inputs: tuple[Any, ...]) -> bool:
    if (
        torch._C._len_torch_dispatch_stack() > 0
        or torch._C._get_tracing_state() is not None
        or torch._C._autograd._profiler_enabled()
    ):
        return True
    for value in inputs:
        if type(value) not in _plain_types:
            return True
        # The dispatcher makes real numbers of what is only marked as negated, or as zero.
        if isinstance(value, Tensor) and (value.is_neg() or value._is_zerotensor()):
            return True
    return False


def _only_wanted(gradients: tuple[Tensor | None, ...], wanted: list[bool]) -> list[Tensor | None]:
    return [gradient if is_wanted else None for gradient, is_wanted in zip(gradients, wanted, strict=True)]


class _Training(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyset: DispatchKeySet | None, *inputs: Any) -> tuple[Tensor, Tensor]:
        output, statistics = batch_norm.below_autograd(keyset, inputs)
        input, weight, _, ctx.eps = inputs
        ctx.save_for_backward(input, weight, statistics)
        ctx.mark_non_differentiable(statistics)
        return output, statistics

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        input, weight, statistics = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[1:4])
        gradients = batch_norm_backward(grad_output, input, statistics, weight, ctx.eps, False, wanted)
        return None, *_only_wanted(gradients, wanted), None


class _Inference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyset: DispatchKeySet | None, *inputs: Any) -> Tensor:
        input, running_mean, running_var, weight, _, ctx.eps = inputs
        ctx.save_for_backward(input, running_mean, running_var, weight)
        output: Tensor = batch_norm_inference.below_autograd(keyset, inputs)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        input, running_mean, running_var, weight = ctx.saved_tensors
        _, for_input, _, _, for_weight, for_bias, _ = ctx.needs_input_grad
        wanted = [for_input, for_weight, for_bias]
        statistics = given_statistics(running_mean, running_var, ctx.eps)
        gradients = batch_norm_backward(grad_output, input, statistics, weight, ctx.eps, True, wanted)
        grad_input, grad_weight, grad_bias = _only_wanted(gradients, wanted)
        return None, grad_input, None, None, grad_weight, grad_bias, None


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyset: DispatchKeySet | None, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        grad_output, input, statistics, weight, ctx.eps, ctx.frozen, ctx.wanted = inputs
        ctx.save_for_backward(grad_output, input, statistics, weight)
        gradients: tuple[Tensor, Tensor, Tensor] = batch_norm_backward.below_autograd(keyset, inputs)
        return gradients

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_output, input, statistics, weight = ctx.saved_tensors
        for_output, for_input, for_weight = gradients_of_gradients(
            tuple(_only_wanted(cotangents, ctx.wanted)),
            grad_output,
            input,
            statistics if ctx.frozen else None,
            weight,
            ctx.eps,
        )
        return None, for_output, for_input, None, for_weight, None, None, None


batch_norm = _Operator("batch_norm", _kernels.batch_norm, _kernels.batch_norm_meta, _Training)
batch_norm_inference = _Operator("batch_norm_inference", _kernels.inference, _kernels.inference_meta, _Inference)
given_statistics = _Operator("given_statistics", _kernels.given_statistics, _kernels.given_statistics_meta)
batch_norm_backward = _Operator("batch_norm_backward", _kernels.backward, _kernels.backward_meta, _Backward)
update_running = _Operator("update_running", _kernels.update_running, _kernels.update_running_meta)

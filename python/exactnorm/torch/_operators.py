"""The operators `torch.ops.exactnorm.*`, and their derivatives.

PyTorch's compilers, exporters, tracers, profilers and modes see an operator. Where none of them is looking, the kernel is called
directly: going through the dispatcher, and through it again below autograd, takes longer than normalizing a small tensor.
Where a tensor is not what it seems, as within torch.func's transforms, the operators are formulas of PyTorch's operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.autograd import forward_ad

from exactnorm.torch import _formulas, _kernels

DispatchKeySet = Any

_library: Any = torch.library.Library("exactnorm", "DEF")  # type: ignore[no-untyped-call]


def define(schema: str) -> None:
    # Kernels take any layout: without the tag, compilers copy inputs into the one that they traced.
    _library.define(schema, tags=(torch.Tag.flexible_layout,))


define("batch_norm(Tensor input, Tensor? weight, Tensor? bias, float eps) -> (Tensor, Tensor)")
define(
    "batch_norm_inference(Tensor input, Tensor running_mean, Tensor running_var, Tensor? weight, Tensor? bias, float eps)"
    " -> Tensor"
)
define("given_statistics(Tensor running_mean, Tensor running_var, float eps) -> Tensor")
define(
    "batch_norm_backward(Tensor grad_output, Tensor input, Tensor statistics, Tensor? weight, float eps, bool frozen,"
    " bool[3] output_mask) -> (Tensor, Tensor, Tensor)"
)
define(
    "track(Tensor statistics, Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor(c!)? batches, float? momentum)"
    " -> ()"
)

# Types of arguments that are what they seem.
plain_tensors = {Tensor, torch.nn.Parameter}
_plain_others = {float, bool, str, list, type(None)}
# Stand-ins for plain tensors, which ask for an operator's meta function, or pass the operator on.
_stand_ins = (FakeTensor, FunctionalTensor)


# Looking these up anew costs as much as a call of them.
_is_in_torch_func = torch._C._are_functorch_transforms_active
_active_modes = torch._C._len_torch_dispatch_stack
_tracer = torch._C._get_tracing_state
_has_profiler = torch._C._autograd._profiler_enabled
# By is_grads_batched, which is another thing than torch.func's vmap.
_is_batched = torch._C._functorch.is_legacy_batchedtensor


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_transformed() -> bool:
    """Whether torch.func's transforms or forward-mode derivatives are active; compilers guard both by themselves."""
    return _is_in_torch_func() or forward_ad._current_level >= 0


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def is_forward_mode() -> bool:
    """Whether forward-mode derivatives are among them."""
    return forward_ad._current_level >= 0


def dispatches_itself(kind: type) -> bool:
    """Whether tensors of this class may be anything, a DTensor for example, which only PyTorch's operations know."""
    return (
        kind not in plain_tensors
        and kind not in _stand_ins
        and kind.__torch_dispatch__ is not Tensor.__torch_dispatch__  # type: ignore[attr-defined]
    )


def are_opaque(inputs: tuple[Any, ...]) -> bool:
    """Whether kernels and autograd.Function cannot follow what is done to these inputs."""
    return is_transformed() or any(
        _is_batched(value) or dispatches_itself(type(value)) for value in inputs if isinstance(value, Tensor)
    )


def is_other(value: Tensor) -> bool:
    """Whether this is neither a plain tensor nor a stand-in for one."""
    kind = type(value)
    return (kind not in plain_tensors and kind not in _stand_ins) or are_opaque((value,))


class Operator:
    def __init__(
        self,
        name: str,
        kernel: Callable[..., Any],
        meta: Callable[..., Any],
        formula: Callable[..., Any] | None = None,
        derivative: type[torch.autograd.Function] | None = None,
    ) -> None:
        self.overload = getattr(torch.ops.exactnorm, name).default
        self.kernel = kernel
        self.formula = formula
        self.derivative = derivative
        _library.impl(name, kernel, "CPU")
        torch.library.register_fake(f"exactnorm::{name}", meta, lib=_library)
        if formula is not None:
            _library.impl(name, self._above_autograd, "Autograd", with_keyset=True)
            _library.impl(name, formula, "FuncTorchBatchedDecomposition")

    def __call__(self, *inputs: Any) -> Any:
        """For inputs that are not opaque."""
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
        if are_opaque(inputs):
            return self.formula(*inputs)  # type: ignore[misc]
        if self._needs_derivative(inputs):
            return self.derivative.apply(keyset, *inputs)  # type: ignore[union-attr]
        return self.below_autograd(keyset, inputs)

    def _needs_derivative(self, inputs: tuple[Any, ...]) -> bool:
        return self.derivative is not None and torch.is_grad_enabled() and torch._C._any_requires_grad(*inputs)


def _is_watched(inputs: tuple[Any, ...]) -> bool:
    if _active_modes() > 0 or _tracer() is not None or _has_profiler():
        return True
    for value in inputs:
        kind = type(value)
        if kind in plain_tensors:
            # The dispatcher makes real numbers of what is only marked as negated, or as zero.
            if value.is_neg() or value._is_zerotensor():
                return True
        elif kind not in _plain_others:
            return True
    return False


def pull_back(*inputs: Any) -> Any:
    """batch_norm_backward, of gradients that may be batched, duals, or anything."""
    if torch.compiler.is_compiling() or are_opaque(inputs[:1]):
        return batch_norm_backward.overload(*inputs)
    return batch_norm_backward(*inputs)


def only_wanted(gradients: tuple[Tensor | None, ...], wanted: list[bool]) -> list[Tensor | None]:
    return [gradient if is_wanted else None for gradient, is_wanted in zip(gradients, wanted, strict=True)]


class _Training(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyset: DispatchKeySet | None, *inputs: Any) -> tuple[Tensor, Tensor]:
        output, statistics = batch_norm.below_autograd(keyset, inputs)
        input, weight, _, ctx.eps = inputs
        ctx.save_for_backward(input, weight, statistics)
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        return output, statistics

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_output is None:
            return (None,) * 5
        input, weight, statistics = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[1:4])
        gradients = pull_back(grad_output, input, statistics, weight, ctx.eps, False, wanted)
        return None, *only_wanted(gradients, wanted), None


class _Inference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, keyset: DispatchKeySet | None, *inputs: Any) -> Tensor:
        input, running_mean, running_var, weight, _, ctx.eps = inputs
        # Not the buffers, which training steps may change before the backward pass.
        ctx.save_for_backward(input, given_statistics(running_mean, running_var, ctx.eps), weight)
        ctx.set_materialize_grads(False)
        output: Tensor = batch_norm_inference.below_autograd(keyset, inputs)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_output is None:
            return (None,) * 7
        input, statistics, weight = ctx.saved_tensors
        _, for_input, _, _, for_weight, for_bias, _ = ctx.needs_input_grad
        wanted = [for_input, for_weight, for_bias]
        gradients = pull_back(grad_output, input, statistics, weight, ctx.eps, True, wanted)
        grad_input, grad_weight, grad_bias = only_wanted(gradients, wanted)
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
        for_output, for_input, for_weight = _formulas.gradients_of_gradients(
            tuple(only_wanted(cotangents, ctx.wanted)),
            grad_output,
            input,
            statistics if ctx.frozen else None,
            weight,
            ctx.eps,
        )
        return None, for_output, for_input, None, for_weight, None, None, None


batch_norm = Operator(
    "batch_norm", _kernels.batch_norm, _kernels.batch_norm_meta, _formulas.batch_norm, _Training
)
batch_norm_inference = Operator(
    "batch_norm_inference", _kernels.inference, _kernels.inference_meta, _formulas.inference, _Inference
)
given_statistics = Operator(
    "given_statistics", _kernels.given_statistics, _kernels.given_statistics_meta, _formulas.given_statistics
)
batch_norm_backward = Operator(
    "batch_norm_backward", _kernels.backward, _kernels.backward_meta, _formulas.gradients, _Backward
)
track = Operator("track", _kernels.track, _kernels.track_meta)

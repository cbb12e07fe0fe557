"""Batch normalization with the activation that follows it, and the residual that is added before that, in one pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from exactnorm import _core
from exactnorm.torch import _kernels, _marked, _operators, _separate
from exactnorm.torch._kernels import _new_statistics, track
from exactnorm.torch._kernels import _optional_view as _view
from exactnorm.torch._modules import BatchNorm1d, BatchNorm2d, BatchNorm3d, arguments_of

_plain_tensors = _operators._plain_tensors


class _Activated(torch.autograd.Function):
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
        activation: tuple[str, float],
    ) -> Tensor:
        output = torch.empty_like(input)
        statistics = _new_statistics(input, input.shape[1])
        threads = torch.get_num_threads()
        affine = (_view(weight), _view(bias))
        if training:
            _core.tensor_training(
                _view(input), _view(output), *affine, _view(statistics), eps, threads, _view(residual), activation
            )
            track(statistics, running_mean, running_var, batches, momentum)
        else:
            of_running = (_view(running_mean), _view(running_var))
            _core.tensor_given_statistics(*of_running, _view(statistics), eps)
            _core.tensor_inference(
                _view(input), _view(output), *of_running, *affine, eps, threads, _view(residual), activation
            )
        ctx.save_for_backward(input, residual, weight, bias, statistics)
        ctx.training, ctx.eps, ctx.activation = training, eps, activation
        ctx.set_materialize_grads(False)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None) -> tuple[Tensor | None, ...]:
        nothing = (None,) * 7
        if grad_output is None:
            return (None,) * 4 + nothing
        input, residual, weight, bias, statistics = ctx.saved_tensors
        if torch.is_grad_enabled() or type(grad_output) is not Tensor or _operators.are_opaque((grad_output,)):
            running: tuple[Tensor | None, Tensor | None] = (None, None)
            if not ctx.training:
                running = (statistics[0].to(input.dtype), statistics[2].to(input.dtype))
            sources = (input, residual, weight, bias)
            found = _separate.gradients(
                grad_output, sources, ctx.needs_input_grad[:4], running, ctx.training, ctx.eps, *ctx.activation
            )
            return *found, *nothing
        for_input, for_residual, for_weight, for_bias = ctx.needs_input_grad[:4]
        grad_output = grad_output.to(input.dtype)
        dx = torch.empty_like(input) if for_input else None
        d_residual = torch.empty_like(residual) if for_residual else None
        dweight = torch.empty_like(weight) if for_weight else None
        dbias = torch.empty_like(bias) if for_bias else None
        _core.tensor_backward(
            _view(grad_output),
            _view(input),
            _view(statistics),
            _view(weight),
            _view(dx),
            _view(dweight),
            _view(dbias),
            not ctx.training,
            ctx.eps,
            torch.get_num_threads(),
            _view(bias),
            _view(residual),
            _view(d_residual),
            ctx.activation,
        )
        return dx, d_residual, dweight, dbias, *nothing


# Without the wrapper that looks for torch.func's transforms, of which _is_known says that there are none.
_apply_activated: Any = super(torch.autograd.Function, _Activated).apply


def _is_known(
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
    if type(input) not in _plain_tensors or dtype not in _kernels.dtypes or not input.is_cpu or not 0 <= eps < math.inf:
        return False
    if not 2 <= input.dim() <= 8 or input.numel() == 0 or input.is_neg() or input._is_zerotensor():
        return False
    if residual is not None and (
        type(residual) not in _plain_tensors
        or residual.dtype != dtype
        or residual.shape != input.shape
        or not residual.is_cpu
        or residual.is_neg()
        or residual._is_zerotensor()
    ):
        return False
    dtype = _kernels.parameter_dtype(dtype, others)
    for other in others:
        if other is None:
            continue
        if type(other) not in _plain_tensors or not other.is_cpu or other.shape != (input.shape[1],):
            return False
        if other.dtype != dtype:
            return False
    running_mean, running_var = others[:2]
    if (running_mean is None) != (running_var is None) or (running_mean is None and not training):
        return False
    # One value per channel is an error, which the operations have words for.
    return not training or input.numel() > input.shape[1]


class _BatchNormAct(nn.modules.batchnorm._BatchNorm):
    activation: str
    slope: float
    # Whether gradients without a residual may have gradients (create_graph=True), at some microseconds more for each call.
    twice_differentiable: bool = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        activation: str = "relu",
        slope: float = 0.01,
        twice_differentiable: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device=device, dtype=dtype)
        if activation not in _separate.ACTIVATIONS:
            raise ValueError(f"activation: is {activation!r}; expected one of {', '.join(map(repr, _separate.ACTIVATIONS))}")
        if not math.isfinite(slope):
            raise ValueError(f"slope: is {slope}; expected a finite number")
        self.activation = activation
        self.slope = float(slope)
        self.twice_differentiable = twice_differentiable

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """activation(batch_norm(input) + residual): by the batch, or in evaluation mode by running statistics."""
        if torch.compiler.is_compiling():
            if self.compiled == "exact":
                y: Tensor = super().forward(input)
                return _separate.activate(y if residual is None else y + residual, self.activation, self.slope)
        elif residual is None and type(input) is Tensor and not self.twice_differentiable:
            output = _marked.step(self, input, self.activation, self.slope)
            if output is not None:
                return output
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        arguments = arguments_of(self)
        running_mean, running_var, weight, bias, *rest = arguments
        training, _, eps, _ = rest
        if not _is_known(input, residual, (running_mean, running_var, weight, bias), training, eps):
            return _separate.activated_batch_norm(input, residual, arguments, self.activation, self.slope)
        activation = (self.activation, self.slope)
        activated: Tensor = _apply_activated(
            input, residual, weight, bias, running_mean, running_var, *rest, activation
        )
        return activated

    def extra_repr(self) -> str:
        slope = f", slope={self.slope}" if self.activation == "leaky_relu" else ""
        text = super().extra_repr()  # type: ignore[no-untyped-call]
        return f"{text}, activation={self.activation!r}{slope}"


class BatchNormAct1d(_BatchNormAct, BatchNorm1d):
    """`BatchNorm1d` and an activation, of y and a residual: `layer(x, residual=None)`.

    activation
        "relu", "relu6", "leaky_relu" (of negative slope `slope`), "silu", "hard_swish" or "none".
    twice_differentiable
        Whether `autograd.grad(create_graph=True)` is to work, with derivatives of every order, and `vmap`, forward mode or
        compiled autograd of the backward pass; there is a RuntimeError where they do not. It costs some microseconds in each
        call. Calls with a residual, `torch.func` around the layer and compilers do without.

    The state_dict is that of `torch.nn.BatchNorm1d`; all other arguments are its, too. The backward pass keeps x, the residual
    and the batch's statistics: no output, and no mask. bfloat16 and float16 inputs with parameters of the same dtype, or
    float32, are computed here as well. `torch.compile`, `torch.func` and other devices take PyTorch's operations, one after the
    other.

    >>> import torch, exactnorm.torch
    >>> layer = exactnorm.torch.BatchNormAct1d(3, activation="relu")
    >>> x = torch.randn(5, 3)
    >>> bool((layer(x, residual=x) >= 0).all())
    True
    """


class BatchNormAct2d(_BatchNormAct, BatchNorm2d):
    """`BatchNorm2d` and an activation: see `BatchNormAct1d`."""


class BatchNormAct3d(_BatchNormAct, BatchNorm3d):
    """`BatchNorm3d` and an activation: see `BatchNormAct1d`."""


for _class in (BatchNormAct1d, BatchNormAct2d, BatchNormAct3d):
    _class.__module__ = "exactnorm.torch"

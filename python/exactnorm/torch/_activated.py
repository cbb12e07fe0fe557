"""Batch normalization with the activation that follows it, and the residual that is added before that, in one pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from exactnorm.torch import _marked, _separate
from exactnorm.torch._activated_step import activated_by_operator, apply_activated, is_for_kernels
from exactnorm.torch._activations import ACTIVATIONS, activate
from exactnorm.torch._modules import BatchNorm1d, BatchNorm2d, BatchNorm3d, arguments_of


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
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation: is {activation!r}; expected one of {', '.join(map(repr, ACTIVATIONS))}")
        if not math.isfinite(slope):
            raise ValueError(f"slope: is {slope}; expected a finite number")
        self.activation = activation
        self.slope = float(slope)
        self.twice_differentiable = twice_differentiable

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """activation(batch_norm(input) + residual): by the batch, or in evaluation mode by running statistics."""
        if torch.compiler.is_compiling():
            if self.compiled == "exact":
                return self._exactly_compiled(input, residual)
        elif residual is None and type(input) is Tensor and not self.twice_differentiable:
            output = _marked.step(self, input, self.activation, self.slope)
            if output is not None:
                return output
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        arguments = arguments_of(self)
        running_mean, running_var, weight, bias, *rest = arguments
        training, _, eps, _ = rest
        if not is_for_kernels(input, residual, (running_mean, running_var, weight, bias), training, eps):
            return _separate.activated_batch_norm(input, residual, arguments, self.activation, self.slope)
        activation = (self.activation, self.slope)
        activated: Tensor = apply_activated(
            input, residual, weight, bias, running_mean, running_var, *rest, activation
        )
        return activated

    def _exactly_compiled(self, input: Tensor, residual: Tensor | None) -> Tensor:
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        output = activated_by_operator(input, residual, arguments_of(self), self.activation, self.slope)
        if output is not None:
            return output
        y: Tensor = super().forward(input)
        return activate(y, residual, self.activation, self.slope)

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

    The state_dict is that of `torch.nn.BatchNorm1d`; all other arguments are its, too. The backward pass keeps x and the
    batch's statistics, and no mask. With a residual it keeps the output of relu, as `torch.relu` does, which the next layer
    keeps anyway, and the residual before other activations. bfloat16 and float16 inputs with parameters of the same dtype, or
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

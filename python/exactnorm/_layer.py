"""A layer with state."""

from __future__ import annotations

import copy
from typing import overload

from exactnorm import _core
from exactnorm._arrays import (
    Activation,
    Array,
    ArrayLike,
    Axes,
    EpsilonPlacement,
    Masked,
    Parameter,
    as_array,
    axes_list,
    channel_values,
    gradient_of,
    integer,
    named_activation,
    named_mask,
    number,
    of_class,
    optional_array,
    output_like,
    thread_count,
)
from exactnorm._renormalization import RenormalizationLimits, named_limits
from exactnorm._running import RunningStatistics, VarianceKind


class BatchNorm:
    """Batch normalization with parameters, running statistics, a training and an evaluation mode.

    `gamma` and `beta` are float64 arrays of one element per channel, to change freely, in place or by assignment; so are
    the values of `running`. `training` chooses the mode. `dgamma` and `dbeta` are those of the latest backward pass, and
    None before. The other attributes may be changed, too, and count from the next call on.

    With `renormalization`, training is batch renormalization, by `running` as it is before each batch; its limits may be
    changed from batch to batch (`RenormalizationSchedule`).

    Threads may share a layer. Evaluations run at the same time, training passes one after another; what a backward pass
    belongs to is the latest call, by whichever thread. A copy, pickled or not, has not been called; it keeps `dgamma` and `dbeta`.

    >>> import numpy as np, exactnorm
    >>> layer = exactnorm.BatchNorm(3)
    >>> x = np.random.default_rng(2).normal(5, 2, (64, 3)).astype(np.float32)
    >>> y = layer(x)
    >>> layer.running.batches_tracked
    1
    >>> layer.training = False
    >>> layer(x).shape
    (64, 3)
    """

    def __init__(
        self,
        channels: int,
        *,
        channel_axes: Axes = 1,
        epsilon: float = 1e-5,
        epsilon_placement: EpsilonPlacement = "variance",
        momentum: float | None = 0.1,
        variance_kind: VarianceKind = "unbiased",
        activation: Activation | None = None,
        slope: float = 0.01,
        renormalization: RenormalizationLimits | None = None,
        threads: int | None = None,
    ) -> None:
        self._layer = _core.Layer(integer("channels", channels))
        self.momentum = momentum
        self.variance_kind = variance_kind
        self.dgamma: Array | None = None
        self.dbeta: Array | None = None
        self.channel_axes = channel_axes
        self.epsilon = epsilon
        self.epsilon_placement: EpsilonPlacement = epsilon_placement
        self.activation: Activation | None = activation
        self.slope = slope
        self.renormalization = renormalization
        self.threads = threads
        self.training = True

    def __copy__(self) -> BatchNorm:
        return copy.deepcopy(self)

    def __repr__(self) -> str:
        mode = "training" if self.training else "evaluation"
        return f"<exactnorm.BatchNorm of {self.channels} channels, in {mode} mode>"

    @property
    def channels(self) -> int:
        return self.running.channels

    @property
    def momentum(self) -> float | None:
        """That of `running`."""
        return self.running.momentum

    @momentum.setter
    def momentum(self, value: float | None) -> None:
        self.running.momentum = value

    @property
    def variance_kind(self) -> VarianceKind:
        """That of `running`."""
        return self.running.variance_kind

    @variance_kind.setter
    def variance_kind(self, value: VarianceKind) -> None:
        self.running.variance_kind = value

    @property
    def gamma(self) -> Array:
        return self._layer.gamma

    @gamma.setter
    def gamma(self, value: Parameter) -> None:
        self._layer.gamma[:] = channel_values("gamma", value, self.running.channels)

    @property
    def beta(self) -> Array:
        return self._layer.beta

    @beta.setter
    def beta(self, value: Parameter) -> None:
        self._layer.beta[:] = channel_values("beta", value, self.running.channels)

    @property
    def running(self) -> RunningStatistics:
        """The layer's own: to assign others copies their values."""
        return RunningStatistics._of(self._layer.running)

    @running.setter
    def running(self, value: RunningStatistics) -> None:
        self._layer.running = of_class("running", value, RunningStatistics)._values

    def __call__(
        self,
        x: ArrayLike,
        residual: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        masked: Masked = "zero",
        out: ArrayLike | None = None,
    ) -> Array:
        """Normalizes x by itself, and takes its statistics into `running`; or, in evaluation mode, by `running`. Then the
        residual, where there is one, is added, and the activation taken. `mask` and `masked` are those of `batch_norm`;
        where nothing is selected `running` stays as it is.

        Raises ValueError or TypeError, with nothing written and `running` unchanged, where something does not fit.
        """
        x = as_array("x", x)
        target = output_like(x, out, masked)
        self._layer.forward(
            x,
            target,
            optional_array("residual", residual),
            named_mask(mask, masked),
            bool(self.training),
            named_limits(self.renormalization),
            axes_list(self.channel_axes),
            number("epsilon", self.epsilon),
            of_class("epsilon_placement", self.epsilon_placement, str),
            named_activation(self.activation, self.slope),
            thread_count(self.threads),
        )
        return target

    @overload
    def backward(
        self,
        dy: ArrayLike,
        x: ArrayLike,
        residual: None = None,
        *,
        mask: ArrayLike | None = None,
        masked: Masked = "zero",
        out: ArrayLike | None = None,
        out_residual: None = None,
    ) -> Array: ...
    @overload
    def backward(
        self,
        dy: ArrayLike,
        x: ArrayLike,
        residual: ArrayLike,
        *,
        mask: ArrayLike | None = None,
        masked: Masked = "zero",
        out: ArrayLike | None = None,
        out_residual: ArrayLike | None = None,
    ) -> tuple[Array, Array]: ...
    def backward(
        self,
        dy: ArrayLike,
        x: ArrayLike,
        residual: ArrayLike | None = None,
        *,
        mask: ArrayLike | None = None,
        masked: Masked = "zero",
        out: ArrayLike | None = None,
        out_residual: ArrayLike | None = None,
    ) -> Array | tuple[Array, Array]:
        """The backward pass of the latest call, with its mode, gamma, beta, epsilon, channel axes and activation: returns
        dx, or, with the residual that the call was given, dx and d_residual; and sets `dgamma` and `dbeta`, float64
        arrays of one element per channel. The mask is that of the call, too.

        x holds what that call was given: the same array or a copy, but not one that was normalized in place. After a call
        in training mode, x is read once more to make sure: ValueError where its shape is another, or the mean or variance
        of a channel, as `Statistics` hold them. After one in evaluation mode, dx does not depend on x, and its shape alone
        is checked.
        """
        x = as_array("x", x)
        target = output_like(x, out, masked)
        dy = as_array("dy", dy)
        residual = optional_array("residual", residual)
        d_residual = gradient_of(residual, dy, out_residual, masked)
        self.dgamma, self.dbeta = self._layer.backward(
            dy, x, target, residual, named_mask(mask, masked), d_residual, thread_count(self.threads)
        )
        return target if d_residual is None else (target, d_residual)

"""A layer with state."""

from __future__ import annotations

import numpy as np

from exactnorm._arrays import Array, ArrayLike, Axes, EpsilonPlacement, as_array, integer, number
from exactnorm._core import RunningStatistics, Statistics
from exactnorm._functions import batch_norm, batch_norm_backward, batch_norm_inference


class BatchNorm:
    """Batch normalization with parameters, running statistics, a training and an evaluation mode.

    `gamma` and `beta` are arrays to change freely; `training` chooses the mode. A layer may be used by one thread at
    a time.

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
        threads: int | None = None,
    ) -> None:
        self.running = RunningStatistics(
            integer("channels", channels), None if momentum is None else number("momentum", momentum)
        )
        self.gamma: Array = np.ones(channels)
        self.beta: Array = np.zeros(channels)
        self.dgamma: Array | None = None
        self.dbeta: Array | None = None
        self.channel_axes = channel_axes
        self.epsilon = epsilon
        self.epsilon_placement = epsilon_placement
        self.threads = threads
        self.training = True
        self._latest: tuple[Statistics, bool] | None = None

    def __call__(self, x: ArrayLike, *, out: ArrayLike | None = None) -> Array:
        """Normalizes x by itself, and takes its statistics into `running`; or, in evaluation mode, by `running`."""
        x = as_array("x", x)
        if not self.training:
            found = self.running.statistics(epsilon=self.epsilon, epsilon_placement=self.epsilon_placement)
            y = batch_norm_inference(
                x, found, self.gamma, self.beta, channel_axes=self.channel_axes, out=out, threads=self.threads
            )
            self._latest = (found, True)
            return y
        if x.size == self.running.channels and x.size > 0:
            raise ValueError("x: has one element per channel; expected more in training mode")
        y, found = batch_norm(
            x,
            self.gamma,
            self.beta,
            channel_axes=self.channel_axes,
            epsilon=self.epsilon,
            epsilon_placement=self.epsilon_placement,
            out=out,
            return_statistics=True,
            threads=self.threads,
        )
        self.running.update(found)
        self._latest = (found, False)
        return y

    def backward(self, dy: ArrayLike, x: ArrayLike, *, out: ArrayLike | None = None) -> Array:
        """The backward pass of the latest call, in its mode: returns dx, and sets `dgamma` and `dbeta`."""
        if self._latest is None:
            raise RuntimeError("backward() before the first forward pass")
        found, frozen = self._latest
        gradients = batch_norm_backward(
            dy,
            x,
            found,
            self.gamma,
            channel_axes=self.channel_axes,
            epsilon=self.epsilon,
            epsilon_placement=self.epsilon_placement,
            frozen=frozen,
            out=out,
            threads=self.threads,
        )
        self.dgamma, self.dbeta = gradients.dgamma, gradients.dbeta
        return gradients.dx

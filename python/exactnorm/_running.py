"""Statistics that a layer remembers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, SupportsIndex

import numpy as np

from exactnorm import _core
from exactnorm._arrays import Array, EpsilonPlacement, Parameter, as_parameter, channel_values, integer, number, of_class
from exactnorm._core import Statistics

VarianceKind = Literal["unbiased", "biased"]


def _finite_values(name: str, value: Parameter, channels: int) -> list[float]:
    values = channel_values(name, value, channels)
    wrong = np.flatnonzero(~np.isfinite(values))
    if wrong.size > 0:
        raise ValueError(f"{name}: is {values[wrong[0]]} in channel {wrong[0]}; expected a finite number")
    return values.tolist()  # type: ignore[no-any-return]


class RunningStatistics:
    """Means and variances remembered over training batches, for inference.

    Starts at mean 0 and variance 1. Those kept elsewhere come in by `from_values`, or by assignment to `mean` and
    `variance`: one number per channel, or one for all. The arrays that these return are read-only.

    momentum
        The weight of the new value, as in PyTorch, where Keras and Flax give that of the old one, 1 - momentum. With None,
        all batches have the same weight.
    variance_kind
        Which variance of a batch is remembered: "unbiased" (divided by count - 1), as in PyTorch, or "biased" (divided by
        count), as in Keras and Flax.

    Threads may share one: updates come one after another.

    >>> import numpy as np, exactnorm
    >>> keras = exactnorm.RunningStatistics.from_values([1, 2], [4, 9], momentum=1 - 0.99, variance_kind="biased")
    >>> keras.variance = 16
    >>> keras.mean, keras.variance
    (array([1., 2.]), array([16., 16.]))
    """

    def __init__(
        self, channels: SupportsIndex, momentum: float | None = 0.1, variance_kind: VarianceKind = "unbiased"
    ) -> None:
        self._values = _core.Running(integer("channels", channels))
        self.momentum = momentum
        self.variance_kind = variance_kind

    @classmethod
    def _of(cls, values: _core.Running) -> RunningStatistics:
        result = cls.__new__(cls)
        result._values = values
        return result

    @classmethod
    def from_values(
        cls,
        mean: Parameter,
        variance: Parameter,
        *,
        momentum: float | None = 0.1,
        variance_kind: VarianceKind = "unbiased",
        batches_tracked: SupportsIndex = 0,
        batches_refused: Sequence[SupportsIndex] | None = None,
    ) -> RunningStatistics:
        """Statistics kept elsewhere. Without a momentum, `batches_tracked` is how many batches they are the average of.

        Raises ValueError or TypeError where a mean or variance is not a finite number, or their sizes differ.
        """
        means, variances = as_parameter("mean", mean), as_parameter("variance", variance)
        result = cls(variances.size if means.ndim == 0 else means.size, momentum, variance_kind)
        result.mean = means
        result.variance = variances
        result.batches_tracked = batches_tracked
        if batches_refused is not None:
            result.batches_refused = batches_refused
        return result

    def __copy__(self) -> RunningStatistics:
        return copy.deepcopy(self)

    @property
    def channels(self) -> int:
        return self._values.channels

    @property
    def mean(self) -> Array:
        return self._values.mean

    @mean.setter
    def mean(self, value: Parameter) -> None:
        self._values.mean = _finite_values("mean", value, self.channels)

    @property
    def variance(self) -> Array:
        return self._values.variance

    @variance.setter
    def variance(self, value: Parameter) -> None:
        self._values.variance = _finite_values("variance", value, self.channels)

    @property
    def batches_tracked(self) -> int:
        """Updates so far."""
        return self._values.batches_tracked

    @batches_tracked.setter
    def batches_tracked(self, value: SupportsIndex) -> None:
        count = integer("batches_tracked", value)
        if not 0 <= count < 2**63:
            raise ValueError(f"batches_tracked: is {count}; expected 0 or more, and less than 2^63")
        self._values.batches_tracked = count

    @property
    def batches_refused(self) -> tuple[int, ...]:
        """How many of them each channel refused."""
        return tuple(self._values.batches_refused)

    @batches_refused.setter
    def batches_refused(self, value: Sequence[SupportsIndex]) -> None:
        try:
            counts = [integer("batches_refused", count) for count in value]
        except TypeError:
            raise TypeError(f"batches_refused: is {value!r}; expected a sequence of integers") from None
        if not all(0 <= count < 2**63 for count in counts):
            raise ValueError(f"batches_refused: are {counts}; expected numbers of 0 or more, and less than 2^63")
        self._values.batches_refused = counts

    @property
    def momentum(self) -> float | None:
        return self._values.momentum

    @momentum.setter
    def momentum(self, value: float | None) -> None:
        self._values.momentum = None if value is None else number("momentum", value)

    @property
    def variance_kind(self) -> VarianceKind:
        return self._values.variance_kind  # type: ignore[return-value]

    @variance_kind.setter
    def variance_kind(self, value: VarianceKind) -> None:
        self._values.variance_kind = of_class("variance_kind", value, str)

    def update(self, batch: Statistics) -> list[int]:
        """Takes in the statistics of one batch; returns the channels that refused theirs, as they are not finite.

        Raises ValueError, and changes nothing, when the number of channels differs, when momentum is not from 0 to 1, or
        when the batch has one element per channel, which has no unbiased variance.
        """
        return self._values.update(of_class("batch", batch, Statistics))

    def statistics(
        self, *, epsilon: float = 1e-5, epsilon_placement: EpsilonPlacement = "variance"
    ) -> Statistics:
        """The statistics to give to `batch_norm_inference`. Raises ValueError as `given_statistics` does."""
        return self._values.statistics(
            number("epsilon", epsilon), of_class("epsilon_placement", epsilon_placement, str)
        )

    def __repr__(self) -> str:
        return f"<exactnorm.RunningStatistics of {self.channels} channels over {self.batches_tracked} batches>"

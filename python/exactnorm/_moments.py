"""Sums of a data set that comes in parts."""

from __future__ import annotations

import math

from exactnorm import _core
from exactnorm._arrays import (
    ArrayLike,
    Axes,
    EpsilonPlacement,
    Nonfinite,
    as_array,
    axes_fit,
    axes_list,
    integer,
    named_mask,
    number,
    of_class,
    parameter_shape,
    thread_count,
)
from exactnorm._core import Statistics


class Moments:
    """Exact sums of x and x * x per channel, over as many parts as there are.

    Additions never round, so that parts may come in any order, be cut anywhere, and be added up by several threads or
    processes whose sums are merged afterwards: the result is that of all the data at once, bit for bit. A value: it may be
    copied, compared, pickled.

    Threads may share one: each `add` sums its array at the same time as others, and what is read meanwhile is that of
    whole additions.

    >>> import numpy as np, exactnorm
    >>> x = np.random.default_rng(1).normal(size=(100, 3)).astype(np.float32)
    >>> parts = exactnorm.Moments(3).add(x[70:]) + exactnorm.Moments(3).add(x[:70])
    >>> parts == exactnorm.Moments.of(x)
    True
    >>> parts.count
    100
    """

    def __init__(self, channels: int) -> None:
        self._sums = _core.Sums(integer("channels", channels))

    @classmethod
    def of(
        cls,
        x: ArrayLike,
        *,
        channel_axes: Axes = 1,
        mask: ArrayLike | None = None,
        threads: int | None = None,
    ) -> Moments:
        """Those of one array."""
        x = as_array("x", x)
        axes = axes_list(channel_axes)
        # Where axes do not fit, add() says so.
        channels = math.prod(parameter_shape(x, axes)) if axes_fit(x, axes) else 0
        return cls(channels).add(x, channel_axes=channel_axes, mask=mask, threads=threads)

    def add(
        self,
        x: ArrayLike,
        *,
        channel_axes: Axes = 1,
        mask: ArrayLike | None = None,
        threads: int | None = None,
    ) -> Moments:
        """Adds the elements of x, memory-mapped arrays included; returns itself. `mask` is that of `batch_norm`: what it
        selects is added.

        Raises ValueError, and changes nothing, when x has another number of channels.
        """
        self._sums.add(as_array("x", x), named_mask(mask, "zero"), axes_list(channel_axes), thread_count(threads))
        return self

    def merge(self, other: Moments) -> Moments:
        """Adds the sums of another part; returns itself. Raises ValueError when channels differ."""
        self._sums.merge(of_class("other", other, Moments)._sums)
        return self

    def __iadd__(self, other: Moments) -> Moments:
        return self.merge(other) if isinstance(other, Moments) else NotImplemented

    def __add__(self, other: Moments) -> Moments:
        return self.copy().merge(other) if isinstance(other, Moments) else NotImplemented

    def copy(self) -> Moments:
        result = type(self).__new__(type(self))
        result._sums = self._sums.copy()
        return result

    def __eq__(self, other: object) -> bool:
        return self._sums.equals(other._sums) if isinstance(other, Moments) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @property
    def channels(self) -> int:
        return self._sums.channels

    @property
    def count(self) -> int:
        """Elements per channel so far."""
        return self._sums.count

    def nonfinite_count(self, channel: int) -> int:
        """NaN and infinite values met in this channel so far. One is enough to make its statistics NaN, unless they are
        ignored."""
        return self._sums.nonfinite_count(integer("channel", channel))

    def statistics(
        self,
        *,
        epsilon: float = 1e-5,
        epsilon_placement: EpsilonPlacement = "variance",
        nonfinite: Nonfinite = "propagate",
    ) -> Statistics:
        """Mean, variance and 1 / deviation: the exact values, rounded once.

        nonfinite
            What NaN and infinity among a channel's elements do: "propagate" makes its statistics NaN, "ignore" leaves
            them out. `counts` of the result says how many elements each channel has then; one without any gets NaN.

        >>> import numpy as np, exactnorm
        >>> sums = exactnorm.Moments(2).add(np.array([[1.0, 5.0], [np.nan, 7.0], [3.0, 9.0]]))
        >>> sums.statistics(nonfinite="ignore").mean
        array([2., 7.])
        """
        return self._sums.statistics(
            number("epsilon", epsilon),
            of_class("epsilon_placement", epsilon_placement, str),
            of_class("nonfinite", nonfinite, str),
        )

    def normalizing_statistics(
        self,
        *,
        epsilon: float = 1e-5,
        epsilon_placement: EpsilonPlacement = "variance",
        nonfinite: Nonfinite = "propagate",
    ) -> Statistics:
        """The statistics with which `batch_norm` normalizes the same data in one piece, to the bit.

        For data that float32 holds they are those of `statistics`, rounded to some 30 bits.
        """
        return self._sums.normalizing_statistics(
            number("epsilon", epsilon),
            of_class("epsilon_placement", epsilon_placement, str),
            of_class("nonfinite", nonfinite, str),
        )

    def to_bytes(self) -> bytes:
        """The same on every machine; `from_bytes` reads it."""
        return self._sums.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Moments:
        """Raises ValueError where `data` is not what `to_bytes` writes."""
        result = cls.__new__(cls)
        result._sums = _core.Sums.from_bytes(of_class("data", data, bytes))
        return result

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        return type(self).from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"<exactnorm.Moments of {self.channels} channels over {self.count} elements each>"


class WeightedMoments:
    """Exact sums of w, w * x and w * x * x per channel, over as many parts as there are.

    mean = sum(w * x) / sum(w), variance = sum(w * (x - mean)^2) / sum(w), each exact and rounded once. A weight of 3 is the
    element three times, to the bit; weights need not be whole. A value as `Moments` is: parts come in any order, merge,
    compare and pickle.

    >>> import numpy as np, exactnorm
    >>> latitudes = np.cos(np.radians([-60.0, 0.0, 60.0]))
    >>> field = np.array([[[1.0, 2.0], [5.0, 6.0], [3.0, 4.0]]])  # (channel, latitude, longitude)
    >>> exactnorm.WeightedMoments(1).add(field, latitudes[:, None], channel_axes=0).statistics().mean
    array([4.])
    """

    def __init__(self, channels: int) -> None:
        self._sums = _core.WeightedSums(integer("channels", channels))

    def add(
        self, x: ArrayLike, weights: ArrayLike, *, channel_axes: Axes = 1, threads: int | None = None
    ) -> WeightedMoments:
        """Adds the elements of x; returns itself.

        weights
            Of any dtype, finite, 0 or more: of x's shape with 1 on the channel axes, or of the other axes alone; 1 on an
            axis stands for all of it. Elements of weight 0 have no part, whatever they hold.

        Raises ValueError, and changes nothing, where a weight is impossible, x has another number of channels, or a product
        of a weight and an element leaves 2^-968 to 2^1023.
        """
        self._sums.add(as_array("x", x), as_array("weights", weights), axes_list(channel_axes), thread_count(threads))
        return self

    def merge(self, other: WeightedMoments) -> WeightedMoments:
        """Adds the sums of another part; returns itself. Raises ValueError when channels differ."""
        self._sums.merge(of_class("other", other, WeightedMoments)._sums)
        return self

    def __iadd__(self, other: WeightedMoments) -> WeightedMoments:
        return self.merge(other) if isinstance(other, WeightedMoments) else NotImplemented

    def __add__(self, other: WeightedMoments) -> WeightedMoments:
        return self.copy().merge(other) if isinstance(other, WeightedMoments) else NotImplemented

    def copy(self) -> WeightedMoments:
        return type(self).from_bytes(self.to_bytes())

    def __eq__(self, other: object) -> bool:
        return self._sums.equals(other._sums) if isinstance(other, WeightedMoments) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    @property
    def channels(self) -> int:
        return self._sums.channels

    @property
    def count(self) -> int:
        """Elements per channel so far: the sum of integer weights, or how many others are not 0."""
        return self._sums.count

    def statistics(
        self, *, epsilon: float = 1e-5, epsilon_placement: EpsilonPlacement = "variance"
    ) -> Statistics:
        """Mean, variance and 1 / deviation, for `batch_norm_inference` and `RunningStatistics.update`. NaN where all weights
        are 0, or an element that has a weight is NaN or infinite."""
        return self._statistics(epsilon, epsilon_placement, False)

    def normalizing_statistics(
        self, *, epsilon: float = 1e-5, epsilon_placement: EpsilonPlacement = "variance"
    ) -> Statistics:
        """The same, rounded as `batch_norm` rounds what it normalizes with: for whole weights those of repeated elements."""
        return self._statistics(epsilon, epsilon_placement, True)

    def _statistics(self, epsilon: float, epsilon_placement: EpsilonPlacement, is_normalizing: bool) -> Statistics:
        placement = of_class("epsilon_placement", epsilon_placement, str)
        return self._sums.statistics(number("epsilon", epsilon), placement, is_normalizing)

    def to_bytes(self) -> bytes:
        """The same on every machine; `from_bytes` reads it."""
        return self._sums.to_bytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> WeightedMoments:
        """Raises ValueError where `data` is not what `to_bytes` writes."""
        result = cls.__new__(cls)
        result._sums = _core.WeightedSums.from_bytes(of_class("data", data, bytes))
        return result

    def __reduce__(self) -> tuple[object, tuple[bytes]]:
        return type(self).from_bytes, (self.to_bytes(),)

    def __repr__(self) -> str:
        return f"<exactnorm.WeightedMoments of {self.channels} channels over {self.count} elements each>"

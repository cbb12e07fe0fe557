"""Batch renormalization (Ioffe, 2017): training by a batch's statistics, moved towards those of inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, SupportsIndex

from exactnorm import _core
from exactnorm._arrays import integer, number


class RenormalizationLimits(NamedTuple):
    """How far a layer's batches are moved: y = gamma * (normalized * r + d) + beta, with

    r = deviation of the batch / running deviation, from `r_min` (by default 1 / r_max, as in the paper) to `r_max`, and
    d = (mean of the batch - running mean) / running deviation, from -d_max to d_max.

    By default r is 1 and d is 0: batch normalization. infinity stands for no limit.

    >>> import exactnorm
    >>> exactnorm.RenormalizationLimits.from_keras({"rmax": 3, "dmax": 5})
    RenormalizationLimits(r_max=3.0, d_max=5.0, r_min=0.0)
    """

    r_max: float = 1.0
    d_max: float = 0.0
    r_min: float | None = None

    @classmethod
    def from_keras(cls, clipping: Mapping[str, float] | None = None) -> RenormalizationLimits:
        """Those of Keras's `renorm_clipping`: its keys are "rmax", "rmin" and "dmax", and what is absent is no limit."""
        given = {} if clipping is None else dict(clipping)
        limits = cls(
            number("rmax", given.pop("rmax", float("inf"))),
            number("dmax", given.pop("dmax", float("inf"))),
            number("rmin", given.pop("rmin", 0.0)),
        )
        if given:
            raise ValueError(f"clipping: has keys {sorted(given)}; expected 'rmax', 'rmin' and 'dmax' alone")
        return limits


class RenormalizationSchedule(NamedTuple):
    """Limits that grow while a network is trained, each along a straight line; the defaults are the paper's.

    Before step `begin` r is 1 and d is 0; from `r_end` and `d_end` on the limits are `r_max` and `d_max`.

    >>> import exactnorm
    >>> layer = exactnorm.BatchNorm(3)
    >>> schedule = exactnorm.RenormalizationSchedule()
    >>> layer.renormalization = schedule.at(15_000)
    >>> layer.renormalization.d_max
    2.5
    """

    begin: int = 5000
    r_end: int = 40000
    d_end: int = 25000
    r_max: float = 3.0
    d_max: float = 5.0

    def at(self, step: SupportsIndex) -> RenormalizationLimits:
        """The limits of a step, counted from 0. Raises ValueError where a member is impossible."""
        r_max, d_max = _core.renormalization_limits(
            integer("begin", self.begin),
            integer("r_end", self.r_end),
            integer("d_end", self.d_end),
            number("r_max", self.r_max),
            number("d_max", self.d_max),
            integer("step", step),
        )
        return RenormalizationLimits(r_max, d_max)


def named_limits(limits: RenormalizationLimits | None) -> tuple[float, float, float | None] | None:
    """As the library takes them."""
    if limits is None:
        return None
    if not isinstance(limits, RenormalizationLimits):
        raise TypeError(f"renormalization: is of type {type(limits).__name__}; expected RenormalizationLimits or None")
    r_min = None if limits.r_min is None else number("r_min", limits.r_min)
    return number("r_max", limits.r_max), number("d_max", limits.d_max), r_min

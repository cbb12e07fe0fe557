"""Batch normalization with given statistics, channel by channel, as exact numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from exactnorm._arrays import Parameter, as_parameter, channel_values, number
from exactnorm._surds import FORMATS, Float64, Format, Surds, rational

_float64_format = FORMATS["float64"]


class Normalization:
    """gamma * (x - mean) / sqrt(variance + epsilon) + beta, channel by channel, as exact numbers.

    mean, variance
        One number per channel.
    gamma, beta
        The same, or one number for all; 1 and 0 by default.

    Raises ValueError where a parameter is not finite, or where variance + epsilon is not positive.

    >>> first = Normalization([0.0, 1.0], [4.0, 1.0], epsilon=0)
    >>> first.scale.tolist(), first.shift.tolist()
    ([0.5, 1.0], [0.0, -1.0])
    >>> first.then(Normalization([0.0, 0.0], [1.0, 0.25], epsilon=0)).scale.tolist()
    [0.5, 2.0]
    """

    def __init__(
        self,
        mean: Parameter,
        variance: Parameter,
        gamma: Parameter | None = None,
        beta: Parameter | None = None,
        epsilon: float = 1e-5,
    ) -> None:
        channels = as_parameter("mean", mean).size
        self._scales: list[Surds] = []
        self._shifts: list[Surds] = []
        plus = Fraction(float(finite("epsilon", np.array(number("epsilon", epsilon)))))
        columns = [
            finite(name, channel_values(name, value, channels)).tolist()
            for name, value in (
                ("mean", mean), ("variance", variance), ("gamma", 1.0 if gamma is None else gamma),
                ("beta", 0.0 if beta is None else beta),
            )
        ]  # fmt: skip
        for channel, (of_mean, of_variance, of_gamma, of_beta) in enumerate(zip(*columns, strict=True)):
            square = Fraction(of_variance) + plus
            if square <= 0:
                raise ValueError(
                    f"variance: is {of_variance} in channel {channel}, with epsilon {float(plus)}; expected a positive sum"
                )
            scale = Surds(((Fraction(of_gamma), square),))
            self._scales.append(scale)
            self._shifts.append(rational(of_beta) + scale.times(-Fraction(of_mean)))

    @staticmethod
    def _of(scales: list[Surds], shifts: list[Surds]) -> Normalization:
        made = Normalization.__new__(Normalization)
        made._scales, made._shifts = scales, shifts
        return made

    @property
    def channels(self) -> int:
        return len(self._scales)

    @cached_property
    def scale(self) -> Float64:
        """gamma / sqrt(variance + epsilon), rounded once; read-only."""
        return _read_only(rounded_numbers(self._scales))

    @cached_property
    def shift(self) -> Float64:
        """beta - mean * scale, rounded once; read-only."""
        return _read_only(rounded_numbers(self._shifts))

    def _has_no_scale(self) -> NDArray[np.bool_]:
        return np.array([scale.terms[0][0] == 0 for scale in self._scales])

    def _scale_in_two(self) -> tuple[Float64, Float64]:
        """The scale as a float64, and what is left of it."""
        scale = self.scale
        pairs = zip(self._scales, scale.tolist(), strict=True)
        return scale, np.array([(exact + rational(-rounded)).rounded(_float64_format) for exact, rounded in pairs])

    @property
    def preimage_of_zero(self) -> Float64:
        """The x of each channel that is normalized to 0, rounded once.

        Raises ValueError where a scale is 0 and the shift is not: there is none.
        """
        return rounded_numbers([self._zero_of(channel) for channel in range(self.channels)])

    def _zero_of(self, channel: int) -> Surds:
        (scale, square), *_ = self._scales[channel].terms
        if scale == 0:
            if self._shifts[channel].rounded(_float64_format) != 0:
                raise ValueError(f"gamma: is 0 in channel {channel}; expected another number, as no x is normalized to 0")
            return rational(0)
        # 1 / (q / sqrt(s)) is (s / q) / sqrt(s).
        return self._shifts[channel] * Surds(((-square / scale, square),))

    def then(self, following: Normalization) -> Normalization:
        """This one, and another one of its output."""
        if following.channels != self.channels:
            raise ValueError(f"following: has {following.channels} channels; expected {self.channels}")
        pairs = zip(self._scales, self._shifts, following._scales, following._shifts, strict=True)
        scales, shifts = [], []
        for scale, shift, following_scale, following_shift in pairs:
            scales.append(scale * following_scale)
            shifts.append(shift * following_scale + following_shift)
        return self._of(scales, shifts)

    def repeated(self, times: int) -> Normalization:
        """Each channel so many times in a row: behind a flattening of (N, C, ...), `times` being the elements of a channel."""
        if times < 1:
            raise ValueError(f"times: is {times}; expected at least 1")
        return self._of(
            [scale for scale in self._scales for _ in range(times)], [shift for shift in self._shifts for _ in range(times)]
        )

    def __getitem__(self, channels: slice) -> Normalization:
        """Of some channels, as of a part of a concatenation."""
        return self._of(self._scales[channels], self._shifts[channels])

    def without_shift(self) -> Normalization:
        """The scale alone: of all terms of a sum but one."""
        return self._of(self._scales, [rational(0)] * self.channels)

    @staticmethod
    def joined(parts: Sequence[Normalization]) -> Normalization:
        """Of a concatenation."""
        return Normalization._of([s for part in parts for s in part._scales], [s for part in parts for s in part._shifts])

    @cached_property
    def _sizes_of_shifts(self) -> Float64:
        """Of the terms that shifts are sums of: what rounding errors are relative to."""
        return np.array([
            sum(abs(Surds((term,)).rounded(_float64_format)) for term in shift.terms) for shift in self._shifts
        ])  # fmt: skip


def chained(norms: Iterable[Normalization]) -> Normalization | None:
    """One after the other; None of none."""
    whole = None
    for norm in norms:
        whole = norm if whole is None else whole.then(norm)
    return whole


def _read_only(values: Float64) -> Float64:
    values.flags.writeable = False
    return values


def finite(name: str, values: Float64) -> Float64:
    if not np.isfinite(values).all():
        place = ", ".join(str(int(axis[0])) for axis in np.nonzero(~np.isfinite(values))) if values.ndim else ""
        raise ValueError(f"{name}: is not finite{f' at ({place})' if place else ''}; expected finite numbers")
    return values


def rounded_numbers(numbers: list[Surds], to: Format = _float64_format) -> Float64:
    values = np.array([number.rounded(to) for number in numbers])
    if not np.isfinite(values).all():
        channel = int(np.nonzero(~np.isfinite(values))[0][0])
        raise ValueError(f"gamma: makes coefficients of channel {channel} that are beyond {to.name}'s range")
    return values

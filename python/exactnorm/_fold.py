"""Batch normalization with given statistics as part of the layer before or behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exactnorm._arrays import ArrayLike, Parameter, as_array, as_parameter, channel_values, is_floating, number
from exactnorm._surds import FORMATS, Float64, Format, Surds, rational, round_once, two_product

Layer = Literal["conv", "conv_transpose", "linear"]
_layers = ("conv", "conv_transpose", "linear")
# More than the few roundings of quick values make, which begin from coefficients that are float64's nearest, or two float64s.
_quick_error = 2.0**-50
_double_quick_error = 2.0**-98
_quick_least = 2.0**-1070
# Beyond these, what a product's rounding has lost may be no float64.
_least_double, _largest_double = 2.0**-900, 2.0**900
# Roundings in an evaluation of normalization itself: of a reciprocal root, two products, a sum and what is made before.
_roundings_of_normalization = 8
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
        plus = Fraction(float(_finite("epsilon", np.array(number("epsilon", epsilon)))))
        columns = [
            _finite(name, channel_values(name, value, channels)).tolist()
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

    @property
    def scale(self) -> Float64:
        """gamma / sqrt(variance + epsilon), rounded once."""
        return _rounded(self._scales)

    @property
    def shift(self) -> Float64:
        """beta - mean * scale, rounded once."""
        return _rounded(self._shifts)

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
        return _rounded([self._zero_of(channel) for channel in range(self.channels)])

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

    def _sizes_of_shifts(self) -> Float64:
        """Of the terms that shifts are sums of: what rounding errors are relative to."""
        return np.array([
            sum(abs(Surds((term,)).rounded(_float64_format)) for term in shift.terms) for shift in self._shifts
        ])  # fmt: skip


@dataclass(frozen=True)
class FoldedLayer:
    """What `fold` returns.

    weight, bias
        Of the folded layer; each element is the exact coefficient, rounded once.
    pad_values
        Where `pads` was asked for, one value per input channel, by which the folded layer's input is to be padded in place of 0.
    """

    weight: NDArray[Any]
    bias: NDArray[Any]
    pad_values: NDArray[Any] | None
    _problem: _Problem

    def coefficient_bound(self, limits: ArrayLike | float) -> Float64:
        """How far the outputs of the folded layer are from those of the layers before at most, per output channel, if both are
        evaluated without rounding: what is left is the rounding of weight and bias.

        limits
            What |x| is at most: a number, or one for each input channel.
        """
        return self._problem.coefficient_bound(self, limits)

    def bound(self, limits: ArrayLike | float) -> Float64:
        """The same, if both are evaluated in the weight's dtype, with sums in any order, in float32 or better: the rounding of
        both evaluations is added, by Higham (2002), Accuracy and Stability of Numerical Algorithms, section 3.1."""
        return self._problem.bound(self, limits)


def fold(
    weight: ArrayLike,
    bias: ArrayLike | None = None,
    *,
    before: Normalization | None = None,
    after: Normalization | None = None,
    layer: Layer = "conv",
    groups: int = 1,
    pads: bool = False,
) -> FoldedLayer:
    """A layer that does what a normalization, a layer and another normalization do.

    weight
        float32, float64, float16 or bfloat16. "conv": (outputs, inputs/groups, ...), any number of spatial axes, depthwise ones
        included; "conv_transpose": (inputs, outputs/groups, ...); "linear": (outputs, inputs).
    bias
        One number per output channel, or none; the folded bias has its dtype, or the weight's.
    before, after
        The normalization of the layer's input, and of its output.
    pads
        Whether the layer pads the output of `before` with zeros. The folded layer is to pad its input by `pad_values` then; a
        transposed convolution cannot.

    Coefficients are exact numbers, rounded once: W[o, i] a[i] A[o] and A[o] (bias[o] + sum of W[o, i] b[i]) + B[o], with scales a and A
    and shifts b and B.

    Raises ValueError for shapes that do not fit, numbers that are not finite, and coefficients beyond the dtype's range.

    >>> import numpy as np
    >>> folded = fold(np.ones((2, 3, 1, 1), np.float32), after=Normalization([1.0, 2.0], [0.25, 1.0], epsilon=0))
    >>> folded.weight[:, 0, 0, 0].tolist(), folded.bias.tolist()
    ([2.0, 1.0], [-2.0, -2.0])
    """
    problem = _Problem(weight, bias, before, after, layer, groups, pads)
    return problem.folded()


class _Problem:
    def __init__(
        self,
        weight: ArrayLike,
        bias: ArrayLike | None,
        before: Normalization | None,
        after: Normalization | None,
        layer: str,
        groups: int,
        pads: bool,
    ) -> None:
        if layer not in _layers:
            raise ValueError(f"layer: is {layer!r}; expected one of {', '.join(map(repr, _layers))}")
        array = _floating("weight", weight)
        self.dtype = array.dtype
        self.format: Format = FORMATS[array.dtype.name]
        self.weight = _finite("weight", array.astype(np.float64))
        least = 2
        if array.ndim < least or (layer == "linear" and array.ndim != least):
            expected = "(outputs, inputs)" if layer == "linear" else "at least two axes"
            raise ValueError(f"weight: has shape {array.shape}; expected {expected}")
        if array.size == 0:
            raise ValueError(f"weight: has shape {array.shape}; expected at least one element")
        first, second = array.shape[:2]
        if groups < 1 or first % groups or (layer == "linear" and groups != 1):
            raise ValueError(f"groups: is {groups}; expected 1, or for convolutions a divisor of {first}")
        # Each of weight's first two axes' places: which output it is of, and which input.
        row, column = np.indices((first, second))
        other = row // (first // groups) * second + column
        places: tuple[NDArray[Any], NDArray[Any]] = (other, row) if layer == "conv_transpose" else (row, other)
        self.outputs, self.inputs = places
        self.output_count, self.input_count = int(self.outputs.max()) + 1, int(self.inputs.max()) + 1
        self.before, self.after = before, after
        for name, norm, count, what in (
            ("before", before, self.input_count, "inputs"),
            ("after", after, self.output_count, "outputs"),
        ):
            if norm is not None and norm.channels != count:
                raise ValueError(f"{name}: has {norm.channels} channels; expected {count}, as the layer has {what}")
        self.pads = pads and before is not None
        if self.pads and layer != "conv":
            raise ValueError(f"pads: is True, with a layer {layer!r}; expected a convolution, whose input can be padded")
        given = np.zeros(self.output_count, self.dtype) if bias is None else _floating("bias", bias)
        if given.shape != (self.output_count,):
            raise ValueError(f"bias: has shape {given.shape}; expected ({self.output_count},)")
        self.bias_dtype = given.dtype
        self.bias = _finite("bias", given.astype(np.float64))

    def folded(self) -> FoldedLayer:
        weight = self._checked("weight", self._weight(), self.dtype)
        bias = self._checked("bias", self._bias(), self.bias_dtype)
        pad_values = None
        if self.pads:
            assert self.before is not None
            zeros = [self.before._zero_of(channel) for channel in range(self.input_count)]
            pad_values = self._checked("pad_values", _rounded(zeros, self.format), self.dtype)
        return FoldedLayer(weight, bias, pad_values, self)

    @staticmethod
    def _checked(name: str, values: Float64, dtype: np.dtype[Any]) -> NDArray[Any]:
        if not np.isfinite(values).all():
            place = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(values)))
            raise ValueError(f"{name}: would be beyond {dtype.name}'s range at {place}; expected parameters that keep it within")
        # float64s of this format: nothing is rounded here, though ml_dtypes goes by float32.
        return values.astype(np.float32).astype(dtype) if dtype.name != "float64" else values

    def _of_places(self, values: Float64, places: NDArray[Any]) -> Float64:
        """Of channels, at each place of the weight."""
        spread: Float64 = values[places].reshape(*places.shape, *(1,) * (self.weight.ndim - 2))
        return spread

    def _weight(self) -> Float64:
        sides = [
            (norm, places)
            for norm, places in ((self.after, self.outputs), (self.before, self.inputs))
            if norm is not None
        ]
        quick, rest = self.weight, np.zeros_like(self.weight)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.format is _float64_format:
                fits = np.ones(quick.shape, np.bool_)
                for norm, places in sides:
                    high, low = (self._of_places(part, places) for part in norm._scale_in_two())
                    product, lost = two_product(quick, high)
                    lost = lost + (quick * low + rest * high)
                    quick, rest = product + lost, lost - ((product + lost) - product)
                    fits &= _is_in_middle(quick) & _is_in_middle(high)
                error = np.where(fits, np.abs(quick) * _double_quick_error, np.inf)
            else:
                for norm, places in sides:
                    quick = quick * self._of_places(norm.scale, places)
                error = np.abs(quick) * _quick_error + _quick_least
        error[self.weight == 0] = 0

        def exact(index: tuple[int, ...]) -> Surds:
            place = index[:2]
            value = rational(float(self.weight[index]))
            if self.after is not None:
                value = value * self.after._scales[self.outputs[place]]
            if self.before is not None:
                value = value * self.before._scales[self.inputs[place]]
            return value

        return round_once(quick, rest, error, self.format, exact)

    def _bias(self) -> Float64:
        quick, size = self.bias.copy(), np.abs(self.bias)
        if self.before is not None:
            sums, sizes = self.weight, np.abs(self.weight)
            axes = tuple(range(2, self.weight.ndim))
            shifts = self.before.shift
            np.add.at(quick, self.outputs, sums.sum(axes) * shifts[self.inputs])
            np.add.at(size, self.outputs, sizes.sum(axes) * np.abs(shifts)[self.inputs])
        terms = self.weight.size // self.output_count + 2
        if self.after is not None:
            scale, shift = self.after.scale, self.after.shift
            quick, size = quick * scale + shift, size * np.abs(scale) + np.abs(shift)
        error = size * (terms * 2.0**-52 + _quick_error) + _quick_least

        def exact(index: tuple[int, ...]) -> Surds:
            (output,) = index
            value = rational(float(self.bias[output]))
            if self.before is not None:
                for place in zip(*np.nonzero(self.outputs == output), strict=True):
                    total = sum(map(Fraction, self.weight[place].ravel().tolist()), Fraction())
                    value += self.before._shifts[self.inputs[place]].times(total)
            if self.after is not None:
                value = value * self.after._scales[output] + self.after._shifts[output]
            return value

        return round_once(quick, 0.0, error, FORMATS[self.bias_dtype.name], exact)

    def _sums(self, weight: Float64, inputs: Float64, start: Float64) -> Float64:
        """Per output: |weight| times what belongs to the inputs, and a start."""
        sums = start.copy()
        np.add.at(sums, self.outputs, np.abs(weight).sum(tuple(range(2, weight.ndim))) * inputs[self.inputs])
        return sums

    def _limits(self, folded: FoldedLayer, limits: ArrayLike | float) -> Float64:
        given = np.abs(channel_values("limits", limits, self.input_count))
        if folded.pad_values is None:
            return given
        return np.maximum(given, np.abs(folded.pad_values.astype(np.float64)))

    def coefficient_bound(self, folded: FoldedLayer, limits: ArrayLike | float) -> Float64:
        sizes = self._limits(folded, limits)
        of_weight, of_bias = self.format, FORMATS[self.bias_dtype.name]
        weight, bias = folded.weight.astype(np.float64), np.abs(folded.bias.astype(np.float64))
        bound = self._sums(weight, sizes, np.zeros(self.output_count)) * of_weight.unit_roundoff
        bound += self._sums(np.full_like(weight, of_weight.half_of_least), sizes, np.zeros(self.output_count))
        bound += bias * of_bias.unit_roundoff + of_bias.half_of_least
        if folded.pad_values is not None:
            # A pad value is rounded, too.
            bound += self._sums(weight, sizes * of_weight.unit_roundoff + of_weight.half_of_least, np.zeros(self.output_count))
        # Of this evaluation itself, in float64.
        return bound * (1 + 2.0**-30)

    def magnitude(self, limits: ArrayLike | float) -> Float64:
        """Per output, the sum of the sizes of all terms of the layers before: what rounding errors are relative to."""
        sizes = np.abs(channel_values("limits", limits, self.input_count))
        if self.before is not None:
            sizes = sizes * np.abs(self.before.scale) + self.before._sizes_of_shifts()
        sums = self._sums(self.weight, sizes, np.abs(self.bias))
        return sums if self.after is None else sums * np.abs(self.after.scale) + self.after._sizes_of_shifts()

    def bound(self, folded: FoldedLayer, limits: ArrayLike | float) -> Float64:
        sizes = self._limits(folded, limits)
        weight, bias = folded.weight.astype(np.float64), np.abs(folded.bias.astype(np.float64))
        accumulated = max(self.format.significant_bits, FORMATS["float32"].significant_bits)
        unit = 2.0**-accumulated
        terms = self.weight.size // self.output_count + 2
        of_sum = terms * unit / (1 - terms * unit)
        of_norm = _roundings_of_normalization * unit
        # What is stored between the layers is rounded to the dtype.
        stored = self.format.unit_roundoff if accumulated != self.format.significant_bits else 0.0
        new = self._sums(weight, sizes, bias) * (of_sum + stored)
        normalized, error = sizes, np.zeros(self.input_count)
        if self.before is not None:
            normalized = sizes * np.abs(self.before.scale) + self.before._sizes_of_shifts()
            error = normalized * (of_norm + stored)
        old = self._sums(self.weight, normalized, np.abs(self.bias)) * (of_sum + stored)
        old += self._sums(self.weight, error, np.zeros(self.output_count)) * (1 + of_sum)
        if self.after is not None:
            scale = np.abs(self.after.scale)
            output = self._sums(self.weight, normalized + error, np.abs(self.bias))
            old = old * scale + (output * scale + self.after._sizes_of_shifts()) * (of_norm + stored)
        return self.coefficient_bound(folded, limits) + (new + old) * (1 + 2 * of_norm + stored)


def _floating(name: str, value: ArrayLike) -> NDArray[Any]:
    array = as_array(name, value)
    if not is_floating(array.dtype):
        raise TypeError(f"{name}: has dtype {array.dtype}; expected float32, float64, bfloat16 or float16")
    return array


def _is_in_middle(values: Float64) -> NDArray[np.bool_]:
    size = np.abs(values)
    return (size > _least_double) & (size < _largest_double)


def _finite(name: str, values: Float64) -> Float64:
    if not np.isfinite(values).all():
        place = ", ".join(str(int(axis[0])) for axis in np.nonzero(~np.isfinite(values)))
        raise ValueError(f"{name}: is not finite{f' at ({place})' if place else ''}; expected finite numbers")
    return values


def _rounded(numbers: list[Surds], to: Format = _float64_format) -> Float64:
    values = np.array([number.rounded(to) for number in numbers])
    if not np.isfinite(values).all():
        channel = int(np.nonzero(~np.isfinite(values))[0][0])
        raise ValueError(f"gamma: makes coefficients of channel {channel} that are beyond {to.name}'s range")
    return values

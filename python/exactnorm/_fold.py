"""Batch normalization with given statistics as part of the layer before or behind it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from exactnorm._arrays import ArrayLike, as_array, channel_values, is_floating
from exactnorm._normalization import Normalization, finite, rounded_numbers
from exactnorm._surds import FORMATS, Float64, Format, Surds, rational, round_once, two_product

Layer = Literal["conv", "conv_transpose", "linear"]
_layers = ("conv", "conv_transpose", "linear")
# More than the few roundings of quick values make, which begin from coefficients that are float64's nearest, or two float64s.
_quick_error = 2.0**-50
_double_quick_error = 2.0**-98
_quick_least = 2.0**-1070
# Beyond these, a float64 may have fewer digits than others, or what a product's rounding has lost may be none.
_least_double, _largest_double = 2.0**-900, 2.0**900
# Roundings in an evaluation of normalization itself: of a reciprocal root, two products, a sum and what is made before.
_roundings_of_normalization = 8
_float64_format = FORMATS["float64"]


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

    def checked(self, x: Float64, found: Float64, expected: Float64) -> tuple[float, float]:
        """Of outputs for x, in float64, of the folded layer and of the layers before: the bound of the coefficients, and the
        difference, the largest of all channels, which are on axis 1.

        Raises ValueError where a difference is beyond its bound.
        """
        limits = np.abs(x).max(tuple(axis for axis in range(x.ndim) if axis != 1))
        bound = self.coefficient_bound(limits)
        # float64 has a rounding error of its own.
        allowed = bound + 2.0**-40 * self._problem.magnitude(limits)
        difference = np.abs(found - expected).max(tuple(axis for axis in range(found.ndim) if axis != 1))
        if not (difference <= allowed).all():
            worst = int(np.argmax(difference - allowed))
            raise ValueError(
                f"its output differs by {difference[worst]:.3g} in channel {worst}; expected at most {allowed[worst]:.3g}"
            )
        return float(bound.max()), float(difference.max())


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
        self.weight = finite("weight", array.astype(np.float64))
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
        self.bias = finite("bias", given.astype(np.float64))

    def folded(self) -> FoldedLayer:
        weight = self._checked("weight", self._weight(), self.dtype)
        bias = self._checked("bias", self._bias(), self.bias_dtype)
        pad_values = None
        if self.pads:
            assert self.before is not None
            zeros = [self.before._zero_of(channel) for channel in range(self.input_count)]
            pad_values = self._checked("pad_values", rounded_numbers(zeros, self.format), self.dtype)
        return FoldedLayer(weight, bias, pad_values, self)

    @staticmethod
    def _checked(name: str, values: Float64, dtype: np.dtype[Any]) -> NDArray[Any]:
        if not np.isfinite(values).all():
            place = tuple(int(axis[0]) for axis in np.nonzero(~np.isfinite(values)))
            raise ValueError(f"{name}: would be beyond {dtype.name}'s range at {place}; expected parameters that keep it within")
        # float64s of this format: nothing is rounded here, though ml_dtypes goes by float32.
        return values.astype(np.float32).astype(dtype) if dtype.name != "float64" else values

    def _of_places(self, values: NDArray[Any], places: NDArray[Any]) -> NDArray[Any]:
        """Of channels, at each place of the weight."""
        spread: NDArray[Any] = values[places].reshape(*places.shape, *(1,) * (self.weight.ndim - 2))
        return spread

    def _weight(self) -> Float64:
        sides = [
            (norm, places)
            for norm, places in ((self.after, self.outputs), (self.before, self.inputs))
            if norm is not None
        ]
        quick, rest = self.weight, np.zeros_like(self.weight)
        fits, is_zero = np.ones(quick.shape, np.bool_), self.weight == 0
        with np.errstate(over="ignore", invalid="ignore"):
            for norm, places in sides:
                if self.format is _float64_format:
                    high, low = (self._of_places(part, places) for part in norm._scale_in_two())
                    product, lost = two_product(quick, high)
                    lost = lost + (quick * low + rest * high)
                    quick, rest = product + lost, lost - ((product + lost) - product)
                else:
                    high = self._of_places(norm.scale, places)
                    quick = quick * high
                fits &= _is_in_middle(quick) & _is_in_middle(high)
                is_zero |= self._of_places(norm._has_no_scale(), places)
            relative = _double_quick_error if self.format is _float64_format else _quick_error
            error = np.where(fits, np.abs(quick) * relative, np.inf)
        quick, rest, error = (np.where(is_zero, 0.0, values) for values in (quick, rest, error))

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
        fits = np.ones(quick.shape, np.bool_)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.before is not None:
                sums, sizes = self.weight, np.abs(self.weight)
                axes = tuple(range(2, self.weight.ndim))
                shifts = self.before.shift
                np.add.at(quick, self.outputs, sums.sum(axes) * shifts[self.inputs])
                np.add.at(size, self.outputs, sizes.sum(axes) * np.abs(shifts)[self.inputs])
                fits &= (_is_in_middle(shifts) | (shifts == 0)).all()
            terms = self.weight.size // self.output_count + 2
            if self.after is not None:
                scale, shift = self.after.scale, self.after.shift
                quick, size = quick * scale + shift, size * np.abs(scale) + np.abs(shift)
                fits &= _is_in_middle(scale) | self.after._has_no_scale()
            error = np.where(fits, size * (terms * 2.0**-52 + _quick_error) + _quick_least, np.inf)

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
            sizes = sizes * np.abs(self.before.scale) + self.before._sizes_of_shifts
        sums = self._sums(self.weight, sizes, np.abs(self.bias))
        return sums if self.after is None else sums * np.abs(self.after.scale) + self.after._sizes_of_shifts

    def bound(self, folded: FoldedLayer, limits: ArrayLike | float) -> Float64:
        sizes = self._limits(folded, limits)
        weight, bias = folded.weight.astype(np.float64), np.abs(folded.bias.astype(np.float64))
        accumulating = max(self.format, FORMATS["float32"], key=lambda format: format.significant_bits)
        unit, terms = accumulating.unit_roundoff, self.weight.size // self.output_count + 2
        if terms * unit >= 1:
            return np.full(self.output_count, np.inf)
        of_sum = terms * unit / (1 - terms * unit)
        of_norm = _roundings_of_normalization * unit
        # What is stored between the layers is rounded to the dtype; near 0, its distance of numbers is what counts.
        stored = self.format.unit_roundoff if accumulating is not self.format else 0.0
        least = self.format.half_of_least + terms * accumulating.half_of_least
        new = self._sums(weight, sizes, bias) * (of_sum + stored) + least
        normalized, error = sizes, np.zeros(self.input_count)
        if self.before is not None:
            normalized = sizes * np.abs(self.before.scale) + self.before._sizes_of_shifts
            error = normalized * (of_norm + stored) + least
        old = self._sums(self.weight, normalized, np.abs(self.bias)) * (of_sum + stored) + least
        old += self._sums(self.weight, error, np.zeros(self.output_count)) * (1 + of_sum)
        if self.after is not None:
            scale = np.abs(self.after.scale)
            output = self._sums(self.weight, normalized + error, np.abs(self.bias)) + least
            old = old * scale + (output * scale + self.after._sizes_of_shifts) * (of_norm + stored) + least
        return self.coefficient_bound(folded, limits) + (new + old) * (1 + 2 * of_norm + stored)


def _floating(name: str, value: ArrayLike) -> NDArray[Any]:
    array = as_array(name, value)
    if not is_floating(array.dtype):
        raise TypeError(f"{name}: has dtype {array.dtype}; expected float32, float64, bfloat16 or float16")
    return array


def _is_in_middle(values: Float64) -> NDArray[np.bool_]:
    size = np.abs(values)
    return (size > _least_double) & (size < _largest_double)

"""Exact numbers of the form q1/sqrt(s1) + q2/sqrt(s2) + ... with rational q and s, and their rounding to a format, once.

A folded layer's coefficients are such numbers: gamma/sqrt(variance + epsilon), its products with weights, and sums of these.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

# The first attempt's bits beyond the format's; all later ones have twice as many.
_first_bits = 64
# A sum whose distance from the middle between two numbers of a format is less than this part of it lies in the middle.
_last_bits = 1 << 13


@dataclass(frozen=True)
class Format:
    """A binary format of floating-point numbers; those of a smaller one than float64 are float64s as well."""

    name: str
    significant_bits: int
    least_exponent: int  # of normal numbers
    largest: float

    @property
    def unit_roundoff(self) -> float:
        return 2.0**-self.significant_bits

    @property
    def half_of_least(self) -> float:
        """Half the distance of numbers next to 0: what rounding changes there at most."""
        return math.ldexp(1, self.least_exponent - self.significant_bits)


FORMATS = {
    "float64": Format("float64", 53, -1022, float(np.finfo(np.float64).max)),
    "float32": Format("float32", 24, -126, float(np.finfo(np.float32).max)),
    "float16": Format("float16", 11, -14, 65504.0),
    "bfloat16": Format("bfloat16", 8, -126, math.ldexp(255, 120)),
}


@dataclass(frozen=True)
class Surds:
    """The sum of q/sqrt(s) over pairs (q, s), s > 0."""

    terms: tuple[tuple[Fraction, Fraction], ...]

    def __add__(self, other: Surds) -> Surds:
        return Surds(self.terms + other.terms)

    def __mul__(self, other: Surds) -> Surds:
        return Surds(tuple((q * p, s * t) for q, s in self.terms for p, t in other.terms))

    def times(self, factor: Fraction) -> Surds:
        return Surds(tuple((q * factor, s) for q, s in self.terms))

    def interval(self, bits: int) -> tuple[int, int]:
        """Integers around the number's product with 2^bits; the same one where it is that integer."""
        low = high = 0
        for q, s in self.terms:
            square = q * q / s
            scaled = square.numerator << 2 * bits if bits >= 0 else square.numerator
            divisor = square.denominator if bits >= 0 else square.denominator << -2 * bits
            whole, rest = divmod(scaled, divisor)
            root = math.isqrt(whole)
            next_root = root + (rest != 0 or root * root != whole)
            low, high = (low + root, high + next_root) if q >= 0 else (low - next_root, high - root)
        return low, high

    def rounded(self, to: Format) -> float:
        """To the nearest number of the format, the even one of two; an infinity beyond its range."""
        bits = _first_bits
        while True:
            low, high = self.interval(bits)
            size = max(abs(low), abs(high)).bit_length()
            # Enough of them in front of the point for the format's digits and the first attempt's more.
            if low != high and size < to.significant_bits + _first_bits and bits < _last_bits:
                bits += to.significant_bits + 2 * _first_bits - size
                continue
            below, above = _nearest(low, bits, to), _nearest(high, bits, to)
            if below == above or low == high:
                return below
            if bits >= _last_bits:
                return below if _is_even(below, to) else above
            bits *= 2


def rational(value: Fraction | float) -> Surds:
    return Surds(((Fraction(value), Fraction(1)),))


def _quantum(exponent: int, to: Format) -> int:
    """The exponent of the distance between numbers of a format, at a number whose exponent this is."""
    return max(exponent, to.least_exponent) - (to.significant_bits - 1)


def _nearest(number: int, bits: int, to: Format) -> float:
    """The number of the format that is nearest to number/2^bits."""
    magnitude = abs(number)
    quantum = _quantum(magnitude.bit_length() - 1 - bits, to)
    shift = quantum + bits
    if shift <= 0:
        count = magnitude << -shift
    else:
        count, rest = divmod(magnitude, 1 << shift)
        half = 1 << (shift - 1)
        count += rest > half or (rest == half and count & 1)
    if count.bit_length() + quantum > math.frexp(to.largest)[1]:
        return -math.inf if number < 0 else math.inf
    return math.ldexp(-count if number < 0 else count, quantum)


def _is_even(value: float, to: Format) -> bool:
    if not math.isfinite(value):
        return True
    return math.ldexp(value, -_quantum(math.frexp(value)[1] - 1, to)) % 2 == 0


def nearest_in(values: Float64, to: Format) -> Float64:
    """The numbers of a format that are nearest to float64s."""
    if to.name == "float64":
        return values
    exponents = np.maximum(np.frexp(values)[1] - 1, to.least_exponent) - (to.significant_bits - 1)
    with np.errstate(over="ignore"):
        rounded = np.ldexp(np.rint(np.ldexp(values, -exponents)), exponents)
    within: Float64 = np.where(np.abs(rounded) > to.largest, np.copysign(np.inf, rounded), rounded)
    return within


def round_once(
    quick: Float64, rest: Float64 | float, error: Float64, to: Format, exact: Callable[[tuple[int, ...]], Surds]
) -> Float64:
    """Numbers that lie within `error` of quick + rest, rounded to a format: by this interval's ends where they decide, else
    exactly. No zero is negative."""
    rounded = nearest_in(quick + (rest - error), to)
    undecided = ~(rounded == nearest_in(quick + (rest + error), to))
    for place in zip(*np.nonzero(undecided), strict=True):
        index = tuple(map(int, place))
        rounded[index] = exact(index).rounded(to)
    return rounded + 0.0


def two_product(one: Float64, other: Float64) -> tuple[Float64, Float64]:
    """A product, and what its rounding has lost: Dekker (1971), A floating-point technique for extending the available precision."""
    product = one * other
    (high, low), (other_high, other_low) = _split(one), _split(other)
    lost = ((high * other_high - product) + high * other_low + low * other_high) + low * other_low
    return product, lost


def _split(values: Float64) -> tuple[Float64, Float64]:
    """Two halves of 26 bits: Veltkamp's."""
    scaled = values * 134217729.0
    high = scaled - (scaled - values)
    return high, values - high

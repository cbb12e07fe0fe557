"""Counts of values in bins that depend on the values alone, whatever the order in which they come."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

_most_bins = 64
# Digits of the largest value that the least width resolves.
_least_bits = 24
# Values of an array that are widened at a time.
_chunk = 1 << 20
# That of the least positive number.
_least_exponent = -1073


class Histogram:
    """Counts of the finite values of any number of arrays. Bins are `width` wide, a power of two, and start at multiples of it;
    the width is the least one for which 64 bins hold all values.

    >>> histogram = Histogram()
    >>> histogram.add(np.array([0.0, 0.5, 100.0]))
    >>> histogram.width, histogram.edges[:2].tolist(), histogram.counts[:2].tolist(), histogram.counts.sum().item()
    (2.0, [0.0, 2.0], [2, 0], 3)
    """

    def __init__(self) -> None:
        self._exponent = 0
        self._first = 0
        self._counts: NDArray[np.int64] = np.zeros(0, np.int64)
        self.not_finite = 0  # how many values were left out
        self._low = math.inf
        self._high = -math.inf

    def add(self, values: NDArray[Any]) -> None:
        """Values that are not finite are left out."""
        flat = np.asarray(values).ravel()
        for start in range(0, flat.size, _chunk):
            self._add(flat[start : start + _chunk].astype(np.float64))

    def _add(self, flat: NDArray[np.float64]) -> None:
        self.not_finite += int(flat.size - np.count_nonzero(np.isfinite(flat)))
        flat = flat[np.isfinite(flat)]
        if flat.size == 0:
            return
        self._low, self._high = min(self._low, float(flat.min())), max(self._high, float(flat.max()))
        exponent = self._exponent_for_all()
        if self._counts.size == 0:
            self._exponent = exponent
        # In two steps, as the power of two may be beyond float64's range.
        places = np.floor(np.ldexp(np.ldexp(flat, -(exponent // 2)), -(exponent - exponent // 2))).astype(np.int64)
        places[(flat < 0) & (places == 0)] = -1  # of what is 0 when it is scaled
        self._coarsen(exponent)
        first, last = int(places.min()), int(places.max())
        if self._counts.size:
            first, last = min(first, self._first), max(last, self._first + self._counts.size - 1)
        counts = np.bincount(places - first, minlength=last - first + 1).astype(np.int64)
        counts[self._first - first : self._first - first + self._counts.size] += self._counts
        self._first, self._counts = first, counts

    def _exponent_for_all(self) -> int:
        largest = max(abs(self._low), abs(self._high))
        exponent = (math.frexp(largest)[1] if largest > 0 else _least_exponent) - _least_bits
        while _place(self._high, exponent) - _place(self._low, exponent) >= _most_bins:
            exponent += 1
        return exponent

    def _coarsen(self, exponent: int) -> None:
        by = exponent - self._exponent
        self._exponent = exponent
        if by == 0 or self._counts.size == 0:
            return
        places = (self._first + np.arange(self._counts.size)) >> min(by, 62)
        first = int(places[0])
        self._counts = np.bincount(places - first, weights=self._counts).astype(np.int64)
        self._first = first

    @property
    def width(self) -> float:
        """0 where all values are 0."""
        return math.ldexp(1.0, self._exponent)

    @property
    def counts(self) -> NDArray[np.int64]:
        return self._counts

    @property
    def edges(self) -> NDArray[np.float64]:
        """One more than there are bins; the outer ones may be beyond float64's range."""
        with np.errstate(over="ignore"):
            return np.ldexp((self._first + np.arange(self._counts.size + 1)).astype(np.float64), self._exponent)

    @property
    def low(self) -> float:
        """The least value; infinity of none."""
        return self._low

    @property
    def high(self) -> float:
        """The largest value; -infinity of none."""
        return self._high


def _place(value: float, exponent: int) -> int:
    fraction, own = math.frexp(value)
    # An integer of 53 bits, shifted: exact for all of float64.
    shift = own - 53 - exponent
    whole = int(math.ldexp(fraction, 53))
    return whole << shift if shift >= 0 else whole >> min(-shift, 64)

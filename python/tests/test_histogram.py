"""Histograms of inspections against exact rationals, in any order."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from exactnorm._histogram import Histogram
from hypothesis import given
from hypothesis import strategies as st

finite = st.floats(allow_nan=False, allow_infinity=False)


def histogram_of(*parts):
    histogram = Histogram()
    for part in parts:
        histogram.add(np.array(part, np.float64))
    return histogram


def bins(values, width):
    """By definition: how many values lie in [k * width, (k + 1) * width)."""
    counted = {}
    for value in values:
        place = math.floor(Fraction(value) / width)
        counted[place] = counted.get(place, 0) + 1
    return counted


def check(histogram, values):
    values = [value for value in values if math.isfinite(value)]
    if not any(values):
        assert histogram.counts.tolist() == [len(values)] * bool(values)
        return
    width = Fraction(2) ** histogram._exponent
    expected = bins(values, width)
    found = {histogram._first + place: int(count) for place, count in enumerate(histogram.counts) if count}
    assert found == expected
    assert max(expected) - min(expected) < 64
    # The least width: bins of half of it do not hold all values, or are finer than 24 bits of the largest.
    halves = bins(values, width / 2)
    is_finest = width <= Fraction(2) ** (math.frexp(max(map(abs, values)))[1] - 24)
    assert is_finest or max(halves) - min(halves) >= 64


@given(st.lists(st.lists(finite, max_size=8), min_size=1, max_size=5))
def test_bins_are_exact_whatever_the_order(parts):
    values = [value for part in parts for value in part]
    forwards, backwards, whole = histogram_of(*parts), histogram_of(*parts[::-1]), histogram_of(values)
    check(forwards, values)
    for other in (backwards, whole):
        assert other.counts.tolist() == forwards.counts.tolist()
        assert other.edges.tolist() == forwards.edges.tolist()


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 0.0],
        [0.0, 5e-324],
        [-5e-324, 1e308],
        [1e308, -1e308, 1.0],
        [1e6, 1e6 + 1e-3],
        [math.nan, 1.0, math.inf, -math.inf],
        [math.nan],
        [],
    ],
)
def test_extremes(values):
    check(histogram_of(values), values)
    check(histogram_of(*([value] for value in values)), values)


def test_what_a_histogram_says_of_itself():
    histogram = histogram_of([0.0, 0.5, 100.0])
    assert (histogram.width, histogram.low, histogram.high) == (2.0, 0.0, 100.0)
    assert histogram.edges.tolist() == [2.0 * place for place in range(52)]
    assert histogram.counts[0] == 2 and histogram.counts[-1] == 1 and histogram.counts.sum() == 3

"""Which differences between a model and its fold are errors."""

from __future__ import annotations

import numpy as np
import pytest
from exactnorm._comparison import judged

ONES = np.ones(4)


def unknown():
    raise NotImplementedError


def test_each_output_has_the_limit_of_its_own_dtype():
    expected = [("float16", ONES), ("float32", ONES)]
    assert judged([("float16", ONES * 1.01), ("float32", ONES)], expected, {"float32"}, unknown, "x: give") == (pytest.approx(0.01), None)
    with pytest.raises(ValueError, match="x: give outputs that differ by 0.01 of the largest when the model is folded; expected at most 1e-03"):
        judged([("float16", ONES), ("float32", ONES * 1.01)], expected, {"float32"}, unknown, "x: give")


def test_float64_decides():
    given, folded = [("float32", ONES * 1.01)], [("float32", ONES)]
    difference, errors = judged(folded, given, {"float32"}, lambda: [("float64", ONES)], "x: give")
    assert difference == pytest.approx(0.01 / 1.01) and errors == (pytest.approx(0.01), 0)
    with pytest.raises(ValueError, match="x: give outputs"):
        judged(given, folded, {"float32"}, lambda: [("float64", ONES)], "x: give")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_only_values_of_the_given_model_count(value):
    other = np.array([1.0, value, 1.0, 1.0])
    assert judged([("float32", ONES)], [("float32", other)], {"float32"}, unknown, "x: give") == (0, None)
    with pytest.raises(ValueError, match="x: give outputs"):
        judged([("float32", other)], [("float32", ONES)], {"float32"}, unknown, "x: give")
    assert judged([], [], {"float32"}, unknown, "x: give") == (None, None)

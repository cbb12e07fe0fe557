"""Outputs of a folded model beside those of the given one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from exactnorm._surds import Float64

# By an output's dtype: what rounding in many layers makes of a right fold, and less than a wrong one makes.
TOLERANCE = {"float64": 1e-9, "float32": 1e-3, "float16": 5e-2, "bfloat16": 0.2}

# Their dtypes, and their values in float64.
Outputs = Sequence[tuple[str, Float64]]


def judged(
    found: Outputs, expected: Outputs, dtypes: set[str], exact: Callable[[], Outputs], subject: str
) -> tuple[float | None, tuple[float, float] | None]:
    """The largest difference of outputs by the largest output, None without any, of models with parameters of such dtypes; and, where
    that is more than rounding explains, the errors of `expected` and `found` by the given model in float64.

    exact
        Computes the given model's outputs in float64; may raise anything where that cannot be.
    subject
        Of the error: "inputs: give", for example.

    Raises ValueError where the folded model's error is more than rounding explains, and the larger one.
    """
    difference, exceeded = _difference(found, expected, dtypes)
    if exceeded is None:
        return difference, None
    errors = _errors(found, expected, exact)
    if errors is None or not errors[1] <= max(exceeded, errors[0]):
        raise ValueError(
            f"{subject} outputs that differ by {difference:.2g} of the largest when the model is folded; expected at most {exceeded:.0e}"
        )
    return difference, errors


def _difference(found: Outputs, expected: Outputs, dtypes: set[str]) -> tuple[float | None, float | None]:
    """And the limit that an output exceeds, which is its own; None where none does."""
    differences, exceeded = [], None
    for (dtype, one), (_, other) in zip(found, expected, strict=True):
        # Elsewhere, the given model has no values to compare with.
        is_finite = np.isfinite(other)
        if not is_finite.any():
            continue
        difference = float(np.abs(one - other)[is_finite].max()) / (float(np.abs(other[is_finite]).max()) or 1.0)
        limit = max(TOLERANCE.get(name, 0.0) for name in (*dtypes, dtype))
        if not difference <= limit:
            exceeded = limit if exceeded is None else min(exceeded, limit)
        differences.append(difference)
    return (float(np.max(differences)) if differences else None), exceeded


def _errors(found: Outputs, expected: Outputs, exact: Callable[[], Outputs]) -> tuple[float, float] | None:
    try:
        values = exact()
        of_given, of_found = (_difference(outputs, values, set())[0] for outputs in (expected, found))
    except Exception:  # noqa: BLE001 - of models with another dtype inside, or with steps that nobody knows in float64
        return None
    return None if of_given is None or of_found is None else (of_given, of_found)

"""Tables as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exactnorm._surds import Float64


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells, in columns."""
    # A name may hold anything.
    rows = [["".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def text_of_largest(values: Float64 | None) -> str:
    """Of the absolute values that are finite; a dash of none."""
    finite = _finite(values)
    return "-" if finite.size == 0 else f"{np.abs(finite).max():.3g}"


def text_of_range(values: Float64 | None) -> str:
    finite = _finite(values)
    return "-" if finite.size == 0 else f"{finite.min():.3g} to {finite.max():.3g}"


def _finite(values: Float64 | None) -> Float64:
    return np.zeros(0) if values is None else values[np.isfinite(values)]

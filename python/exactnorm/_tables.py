"""Tables as text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from exactnorm._surds import Float64


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def text_of_largest(values: Float64 | None) -> str:
    """Of the absolute values; a dash of none."""
    return "-" if values is None or values.size == 0 else f"{np.abs(values).max():.3g}"


def text_of_range(values: Float64 | None) -> str:
    return "-" if values is None or values.size == 0 else f"{values.min():.3g} to {values.max():.3g}"

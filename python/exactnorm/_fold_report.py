"""What `fold` says of each batch normalization of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from exactnorm._tables import aligned


@dataclass(frozen=True)
class FoldedNorm:
    """A normalization that is part of a layer now."""

    name: str
    layer: str
    position: Literal["before", "after"]  # where it stood
    largest_scale: float  # of |gamma| / sqrt(variance + epsilon): by how much a channel's weights have grown
    bound: float  # of the difference that the rounding of the layer's coefficients makes
    difference: float  # that was found, in float64


@dataclass(frozen=True)
class RefusedNorm:
    """A normalization that is left as it is."""

    name: str
    reason: str


@dataclass
class FoldReport:
    """All of a model's batch normalizations; `print` shows a table.

    difference
        The largest difference of the models' outputs by the largest output; None without example inputs.
    errors
        Where that is more than usual: how far the given model's outputs are from what they are in float64, and the folded one's.
    """

    folded: list[FoldedNorm] = field(default_factory=list)
    refused: list[RefusedNorm] = field(default_factory=list)
    difference: float | None = None
    errors: tuple[float, float] | None = None

    def sort(self, names: Sequence[str]) -> None:
        places = {name: place for place, name in enumerate(names)}
        self.folded.sort(key=lambda norm: places.get(norm.name, len(places)))
        self.refused.sort(key=lambda norm: places.get(norm.name, len(places)))

    def __str__(self) -> str:
        count = len(self.folded) + len(self.refused)
        lines = [f"{len(self.folded)} of {count} batch normalizations folded"]
        if self.difference is not None:
            lines[0] += f"; outputs differ by {self.difference:.2g} of the largest"
        if self.errors is not None:
            lines[0] += f"; by float64 the given model's are off by {self.errors[0]:.2g}, and these by {self.errors[1]:.2g}"
        if self.folded:
            rows = [("normalization", "stood", "layer", "scale at most", "bound", "difference")]
            rows += [
                (norm.name, norm.position, norm.layer, f"{norm.largest_scale:.3g}", f"{norm.bound:.2g}", f"{norm.difference:.2g}")
                for norm in self.folded
            ]  # fmt: skip
            lines += ["", *aligned(rows)]
        if self.refused:
            lines += ["", "left as they are:", *(f"  {norm.name}: {norm.reason}" for norm in self.refused)]
        return "\n".join(lines)

"""What `inspect` says of each batch normalization of a model."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from exactnorm._drift import deviation_ratio, drift
from exactnorm._fold_report import FoldedNorm, FoldReport, RefusedNorm
from exactnorm._histogram import Histogram
from exactnorm._inspection_page import page_of
from exactnorm._moments import Moments
from exactnorm._surds import Float64
from exactnorm._tables import aligned, text_of_largest, text_of_range

# From which on findings are named.
notable_drift = 0.5
notable_ratio = 2.0
notable_offset = 100.0
notable_scale = 8.0
exploding_factor = 10.0


@dataclass(frozen=True)
class Finding:
    """Something that a layer's owner should know."""

    kind: str  # as docs/models.md lists them: "dead" or "drift", for example
    channels: list[int]
    text: str


@dataclass(eq=False)
class InspectedNorm:
    """A normalization, by its parameters, and by the values that have reached it.

    moments
        Of the values before it; None where there was no data.
    inputs, outputs
        The values of all channels, before and after it (with its activation, where it has one).
    least, largest
        Of each channel's outputs.
    fold
        What `fold` would make of it; None where nobody asked.
    """

    name: str
    kind: str
    epsilon: float
    gamma: Float64
    beta: Float64
    mean: Float64 | None  # the running ones
    variance: Float64 | None
    moments: Moments | None = None
    inputs: Histogram = field(default_factory=Histogram)
    outputs: Histogram = field(default_factory=Histogram)
    least: Float64 | None = None
    largest: Float64 | None = None
    fold: FoldedNorm | RefusedNorm | None = None

    def add(self, before: Any, after: Any) -> None:
        """Values before and after the normalization, channels on axis 1."""
        if self.moments is None:
            self.moments = Moments(len(self.gamma))
        if before.size == 0:
            return
        self.moments.add(before)
        self.inputs.add(before)
        self.outputs.add(after)
        axes = (0, *range(2, after.ndim))
        least, largest = after.min(axis=axes).astype(np.float64), after.max(axis=axes).astype(np.float64)
        self.least = least if self.least is None else np.minimum(self.least, least)
        self.largest = largest if self.largest is None else np.maximum(self.largest, largest)

    def forget(self) -> None:
        """The values so far."""
        self.moments, self.least, self.largest = None, None, None
        self.inputs, self.outputs = Histogram(), Histogram()

    @property
    def channels(self) -> int:
        return len(self.gamma)

    @property
    def count(self) -> int:
        """Values per channel that have reached it."""
        return 0 if self.moments is None else self.moments.count

    @cached_property
    def _pooled(self) -> tuple[Float64, Float64] | None:
        if self.moments is None or self.moments.count < 2:
            return None
        statistics = self.moments.statistics()
        return np.asarray(statistics.mean), np.asarray(statistics.variance) * (self.count / (self.count - 1))

    @property
    def pooled_mean(self) -> Float64 | None:
        """Of all values before it, exact and rounded once; None of fewer than 2 in a channel."""
        return None if self._pooled is None else self._pooled[0]

    @property
    def pooled_variance(self) -> Float64 | None:
        """With n - 1, as PyTorch's running one."""
        return None if self._pooled is None else self._pooled[1]

    @cached_property
    def scale(self) -> Float64 | None:
        """gamma / sqrt(variance + epsilon): by which a fold multiplies a channel's weights. By the running variance, or, where there is none,
        the pooled one."""
        variance = self.pooled_variance if self.variance is None else self.variance
        if variance is None:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.gamma / np.sqrt(variance + self.epsilon))

    @property
    def drift(self) -> Float64 | None:
        """From the running mean to the pooled one, in running deviations."""
        if self.mean is None or self.variance is None or self.pooled_mean is None:
            return None
        return drift(self.pooled_mean, self.mean, self.variance, self.epsilon)

    @property
    def deviation_ratio(self) -> Float64 | None:
        """The pooled deviation by the running one."""
        if self.variance is None or self.pooled_variance is None:
            return None
        return deviation_ratio(self.pooled_variance, self.variance, self.epsilon)

    @cached_property
    def findings(self) -> list[Finding]:
        return [finding for finding in self._found() if finding is not None]

    def _found(self) -> list[Finding | None]:
        with np.errstate(divide="ignore", invalid="ignore"):
            return [*self._found_in_outputs(), *self._found_by_drift(), *self._found_in_parameters()]

    def _found_in_outputs(self) -> list[Finding | None]:
        bad = np.zeros(self.channels, bool)
        if self.moments is not None:
            bad = np.array([self.moments.nonfinite_count(channel) > 0 for channel in range(self.channels)], bool)
        given = (self.gamma, self.beta, self.mean, self.variance)
        unusable = ~np.all([np.isfinite(values) for values in given if values is not None], axis=0)
        if self.variance is not None:
            unusable |= self.variance + self.epsilon < 0
        overflowing = np.zeros(self.channels, bool)
        if self.least is not None and self.largest is not None:
            overflowing = ~(np.isfinite(self.least) & np.isfinite(self.largest)) & ~bad & ~unusable
        dead = (self.gamma == 0) & ~unusable & ~bad
        never_positive = np.zeros(self.channels, bool)
        if self.least is not None and self.largest is not None and self.count > 1:
            dead = dead | ((self.least == self.largest) & np.isfinite(self.least) & ~unusable)
            never_positive = (self.largest <= 0) & ~dead
        exploding = np.zeros(self.channels, bool)
        variance = self.variance if self.pooled_variance is None else self.pooled_variance
        if self.scale is not None and variance is not None:
            sizes = np.abs(self.scale) * np.sqrt(variance)
            usual = float(np.median(sizes[np.isfinite(sizes)])) if np.isfinite(sizes).any() else 0.0
            exploding = (sizes > exploding_factor * usual) & (usual > 0) & ~bad
        return [
            _finding("unusable", unusable, "gamma, beta or running statistics are not finite, or variance + epsilon is negative"),
            _finding("not finite", bad, "NaN or infinity among the values before it"),
            _finding("overflowing", overflowing, "NaN or infinity among the outputs, of finite values"),
            _finding("dead", dead, "the output is always the same: gamma is 0, the values before it are, or an activation makes them so"),
            _finding("never positive", never_positive, "the output is never above 0: an ReLU behind it would make 0 of it"),
            _finding("exploding", exploding, f"the output's deviation is more than {exploding_factor:g} times the usual one of this layer"),
        ]

    def _found_by_drift(self) -> list[Finding | None]:
        found: list[Finding | None] = []
        if self.drift is not None:
            text = f"the mean is more than {notable_drift:g} deviations from the running one; the farthest: {{:.3g}}"
            found.append(_finding("drift", np.abs(self.drift) > notable_drift, text, np.abs(self.drift), self.drift))
        if self.deviation_ratio is not None:
            is_far = (self.deviation_ratio > notable_ratio) | (self.deviation_ratio < 1 / notable_ratio)
            text = f"the deviation is not within {notable_ratio:g} times the running one; the farthest: {{:.3g}} times"
            found.append(_finding("deviation", is_far, text, np.abs(np.log(self.deviation_ratio)), self.deviation_ratio))
        return found

    def _found_in_parameters(self) -> list[Finding | None]:
        variance = self.pooled_variance if self.variance is None else self.variance
        mean = self.pooled_mean if self.mean is None else self.mean
        found: list[Finding | None] = []
        if variance is not None and mean is not None:
            text = f"the variance is below epsilon, {self.epsilon:.3g}, which decides on the scale; the least: {{:.3g}}"
            found.append(_finding("variance", variance < self.epsilon, text, -variance, variance))
            offset = mean / np.sqrt(variance + self.epsilon)
            text = "the mean is many deviations from 0, so that the layer before it loses digits, which a fold brings back: {:.3g}"
            found.append(_finding("offset", np.abs(offset) > notable_offset, text, np.abs(offset), offset))
        if self.scale is not None:
            sizes = np.abs(self.scale)
            usual = float(np.median(sizes[np.isfinite(sizes)])) if np.isfinite(sizes).any() else 0.0
            text = (
                f"|gamma| / deviation is more than {notable_scale:g} times the usual one: weights folded with it, and quantized with one step "
                "for all channels, lose up to {:.1f} bits"
            )
            lost = np.log2(sizes / (usual or 1.0))
            found.append(_finding("scale", (sizes > notable_scale * usual) & (usual > 0), text, lost))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Numbers and lists, as `Inspection.to_json` has them."""
        fold: dict[str, Any] | None = None
        if isinstance(self.fold, FoldedNorm):
            fold = {"layer": self.fold.layer, "bound": _number(self.fold.bound), "difference": _number(self.fold.difference)}
        elif self.fold is not None:
            fold = {"reason": self.fold.reason}
        return {
            "name": self.name,
            "kind": self.kind,
            "channels": self.channels,
            "values_per_channel": self.count,
            "epsilon": self.epsilon,
            **{
                name: _numbers(getattr(self, name))
                for name in (
                    "gamma", "beta", "mean", "variance", "pooled_mean", "pooled_variance", "scale", "drift",
                    "deviation_ratio", "least", "largest",
                )
            },
            "inputs": _bins(self.inputs),
            "outputs": _bins(self.outputs),
            "findings": [{"kind": found.kind, "channels": found.channels, "text": found.text} for found in self.findings],
            "fold": fold,
        }  # fmt: skip


def _finding(
    kind: str, channels: Any, text: str, sizes: Float64 | None = None, shown: Float64 | None = None
) -> Finding | None:
    """Of channels for which something is true; the text has the number of the one whose size is largest."""
    (places,) = np.nonzero(channels)
    if places.size == 0:
        return None
    if sizes is not None:
        farthest = places[int(np.argmax(sizes[places]))]
        text = f"{text.format(float((sizes if shown is None else shown)[farthest]))} (channel {farthest})"
    return Finding(kind, [int(place) for place in places], text)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _numbers(values: Float64 | None) -> list[float | None] | None:
    return None if values is None else [_number(value) for value in values]


def _bins(histogram: Histogram) -> dict[str, Any] | None:
    if histogram.counts.size == 0:
        return None if histogram.not_finite == 0 else {"first_edge": None, "width": None, "counts": [], "not_finite": histogram.not_finite}
    return {"first_edge": _number(histogram.edges[0]), "width": histogram.width, "counts": histogram.counts.tolist(), "not_finite": histogram.not_finite}


def checked_path(argument: str, path: str | os.PathLike[str]) -> Path:
    """Of a report that is to be written."""
    path = Path(path)
    if path.suffix not in (".html", ".json"):
        raise ValueError(f"{argument}: is {path}; expected a name that ends in .html or .json")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{argument}: {path.parent} is no folder")
    return path


@dataclass(eq=False)
class Inspection:
    """All of a model's batch normalizations by name, in the order in which they are called; `print` shows a table, `write` makes a page.

    title
        What the model is.
    batches
        That were looked at.
    untouched
        Normalizations without values, or without parameters, and why.
    folds
        What `fold` says of the model; None where nobody asked.
    """

    title: str
    norms: dict[str, InspectedNorm]
    batches: int = 0
    untouched: dict[str, str] = field(default_factory=dict)
    folds: FoldReport | None = None

    def set_folds(self, report: FoldReport) -> None:
        self.folds = report
        entries: list[FoldedNorm | RefusedNorm] = [*report.folded, *report.refused]
        for entry in entries:
            if entry.name in self.norms:
                self.norms[entry.name].fold = entry

    def to_json(self) -> str:
        """All of it; numbers that are not finite are null."""
        return json.dumps(
            {
                "title": self.title,
                "batches": self.batches,
                "norms": [norm.to_dict() for norm in self.norms.values()],
                "untouched": self.untouched,
                "output_difference_when_folded": None if self.folds is None else self.folds.difference,
            },
            indent=1,
            allow_nan=False,
        )

    def to_html(self) -> str:
        """One page, without scripts and without anything from elsewhere."""
        return page_of(self)

    def write(self, path: str | os.PathLike[str]) -> None:
        """To a file, as its name ends: .html or .json. It appears when it is whole."""
        path = checked_path("path", path)
        text = self.to_html() if path.suffix == ".html" else self.to_json()
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            new = Path(folder, path.name)
            new.write_text(text, encoding="utf-8")
            os.replace(new, path)

    def _repr_html_(self) -> str:
        """In a notebook, in a frame, as the page's style is its own."""
        from html import escape

        return f'<iframe srcdoc="{escape(self.to_html())}" style="width:100%;height:40rem;border:0"></iframe>'

    def __str__(self) -> str:
        rows = [("normalization", "channels", "values", "drift at most", "deviation by running", "scale at most", "findings")]
        for norm in self.norms.values():
            kinds = ", ".join(f"{len(found.channels)} {found.kind}" for found in norm.findings)
            rows.append((
                norm.name, str(norm.channels), str(norm.count), text_of_largest(norm.drift), text_of_range(norm.deviation_ratio),
                text_of_largest(norm.scale), kinds,
            ))  # fmt: skip
        lines = aligned(rows)
        if self.untouched:
            lines += ["", *(f"{name}: {reason}" for name, reason in self.untouched.items())]
        return "\n".join(lines)

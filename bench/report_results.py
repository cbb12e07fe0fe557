"""All rows of a report, and how they are picked and averaged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]

LARGE_BYTES = 64 * 2**20
# What tells peers of one name and version apart.
TELLING_VARIANTS = ["torch.compile", "kernels alone", "mean and var", "mean and var, dtype=float64"]


@dataclass(frozen=True)
class Results:
    """What was measured: runs of the programs, each with the header and the rows that it printed."""

    date: str
    runs: list[dict[str, Any]]

    @classmethod
    def load(cls, path: Path) -> Results:
        content = json.loads(path.read_text())
        return cls(content["date"], content["runs"])

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"date": self.date, "runs": self.runs}, indent=1) + "\n")

    def rows(self, subject: str, matches: Callable[[Row], bool] = lambda row: True, **wanted: Any) -> list[Row]:
        """Rows of all runs about a subject, whose fields have the wanted values: one, or a list to choose from."""
        return [
            row
            for run in self.runs
            if run["subject"] == subject
            for row in run["rows"]
            if all(_has(row[field], values) for field, values in wanted.items()) and matches(row)
        ]

    def peer_rows(self, subject: str, **wanted: Any) -> list[Row]:
        """Those with a peer: it may have been unable to do what some rows are about."""
        return self.rows(subject, lambda row: row["ratio_to_peer"] is not None, **wanted)

    def headers(self, program: str) -> list[dict[str, Any]]:
        return [run["header"] for run in self.runs if run["program"] == program]

    @property
    def instruction_set(self) -> str:
        """The one that Exactnorm uses by itself here, as processors' makers call it."""
        targets = [run["header"].get("target") for run in self.runs if not run["environment"]]
        return instruction_set(next((target for target in targets if target), "unknown"))

    @property
    def all_threads(self) -> int:
        return max((row["threads"] for run in self.runs for row in run["rows"]), default=0)


def instruction_set(target: str) -> str:
    """Of a target's name in Highway."""
    return "AVX-512" if target.startswith(("AVX3", "AVX10")) else target


def _has(value: Any, wanted: Any) -> bool:
    return value in wanted if isinstance(wanted, list) else value == wanted


def geometric_mean(values: Iterable[float]) -> float:
    logarithms = [math.log(value) for value in values]
    return math.exp(sum(logarithms) / len(logarithms))


def ratios(rows: Iterable[Row], field: str = "ratio_to_peer") -> list[float]:
    return [row[field] for row in rows]


def is_large(row: Row) -> bool:
    return row["bytes_per_tensor"] > LARGE_BYTES


def is_in_cache(row: Row) -> bool:
    """True where all that the operation moves fits in the last level of cache."""
    return row["bytes_moved"] <= row["cache_bytes"]


Key = tuple[str, str, tuple[int, ...], bool]


def key_of(row: Row) -> Key:
    """What a row is about, whoever the peer is."""
    return row["op"], row["layout"], tuple(row["shape"]), row.get("cold", False)


def beside_fastest(rows: Iterable[Row]) -> list[Row]:
    """Of rows about the same, the one whose peer is fastest."""
    fastest: dict[Key, Row] = {}
    for row in rows:
        key = key_of(row)
        if key not in fastest or row["ratio_to_peer"] < fastest[key]["ratio_to_peer"]:
            fastest[key] = row
    return list(fastest.values())


def shape_text(shape: list[int]) -> str:
    return f"({', '.join(map(str, shape))})"


def is_onednn(row: Row) -> bool:
    return row["peer"]["name"].lower().startswith("onednn")


def peer_text(row: Row) -> str:
    """Name and version, and what else tells it from its like."""
    peer = row["peer"]
    if is_onednn(row):
        return f"oneDNN {peer['version']} ({peer['runtime']})"
    variant = f" ({peer['variant']})" if peer.get("variant") in TELLING_VARIANTS else ""
    return f"{peer['name']} {peer['version']}{variant}"


def peer_allocates(row: Row) -> bool:
    """True where the peer returns new arrays, so that the ratio with ours allocating as well is of interest."""
    return bool(row["peer"].get("returns_new_arrays"))


def number(value: float) -> str:
    """Three significant digits, and no exponent."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:#.3g}"


def ratio_text(value: float) -> str:
    if value >= 100:
        return f"{value:.0f}x"
    return f"{value:.1f}x" if value >= 10 else f"{value:.2f}x"


def bytes_text(count: int) -> str:
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.0f} GB"

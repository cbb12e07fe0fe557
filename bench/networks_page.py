#!/usr/bin/env python3
"""Writes docs/networks.md, with its pictures, from the rows of bench/networks.py.

Usage: .venv-bench/bin/python bench/networks_page.py build/bench/networks.json
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from networks import HEADS, NAMES, cells_of, share_of_time
from report_plots import STYLE, legend_below, save
from report_results import instruction_set, number, ratio_text
from report_tables import table

ROOT = Path(__file__).resolve().parents[1]
Row = dict[str, Any]
# In the order of the bars.
COLORS = {"both": "#0072B2", "fused": "#56B4E9", "converted": "#009E73", "enabled": "#E69F00", "again": "#999999"}
PARTS = {
    "normalization": "#0072B2",
    "activations": "#56B4E9",
    "additions": "#009E73",
    "convolutions": "#bbbbbb",
    "other": "#e4e4e4",
}


def select(rows: Iterable[Row], **wanted: Any) -> list[Row]:
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def eager(rows: Iterable[Row], dtype: str = "float32", step: str = "training") -> list[Row]:
    return select(rows, compiled=None, dtype=dtype, step=step)


def of_network(rows: Iterable[Row], *names: str) -> list[Row]:
    return [row for row in rows if row["network"] in names]


def label(row: Row) -> str:
    return row["network"] if row["format"] == "-" else f"{row['network']}, {row['format']}"


def network_table(rows: list[Row]) -> str:
    """The lines of bench/networks.py without what is the same in all of them."""
    lines = list(map(cells_of, rows))
    used = [
        index
        for index, head in enumerate(HEADS)
        if head not in ("dtype", "step") and any(cells[index] for cells in lines)
    ]
    return table([HEADS[index] for index in used], ([cells[index] for index in used] for cells in lines))


def compiled_table(rows: list[Row]) -> str:
    heads = ["network", "format", "PyTorch, ms", "fast: converted", "converted and fused", "exact: converted", "fused, too"]
    lines = []
    for fast in select(rows, compiled="fast"):
        exact = select(rows, compiled="exact", network=fast["network"], format=fast["format"])
        ratios = [ratio_text(row["ratio"][way]) for row in (fast, *exact[:1]) for way in ("converted", "both")]
        lines.append([fast["network"], fast["format"], number(fast["milliseconds"]["pytorch"]), *ratios])
    return table(heads, lines)


def _listed(found: list[tuple[str, float]], text: Callable[[float], str]) -> str:
    return ", ".join(f"{name} {text(value)}" for name, value in found)


def goals(rows: list[Row]) -> str:
    training = eager(rows)

    def line(what: str, goal: str, found: list[tuple[str, float]], is_met: Callable[[float], bool], text: Any) -> list[str]:
        met = sum(is_met(value) for _, value in found)
        verdict = "met" if met == len(found) else "missed" if met == 0 else f"met in {met} of {len(found)} rows"
        return [what, goal, _listed(found, text), verdict]

    def steps(of: list[Row], way: str) -> list[tuple[str, float]]:
        return [(label(row), row["ratio"][way]) for row in of]

    slowest = min(
        ((f"{label(row)}, {row['dtype']}, {row['compiled'] or 'eager'}, {NAMES[way]}", row["ratio"][way])
         for row in select(rows, step="training") if row["compiled"] != "exact" for way in ("enabled", "converted") if way in row["ratio"]),
        key=lambda pair: pair[1],
    )  # fmt: skip
    peaks = [
        (label(row), 1 - row["peak"]["both"] / row["peak"]["pytorch"]) for row in of_network(training, "MobileNetV2")
    ]
    shares = [(label(row), share_of_time(row, "both")) for row in training]
    ratio = ratio_text
    return table(
        ["work", "goal", "measured", ""],
        [
            line("normalization, activations and additions, converted and fused, by PyTorch's time", "at most 0.6", shares,
                 lambda value: value <= 0.6, lambda value: f"{value:.2f}"),
            line("step of MobileNetV2, converted and fused", "1.15x", steps(of_network(training, "MobileNetV2"), "both"),
                 lambda value: value >= 1.15, ratio),
            line("step of DenseNet-121 and ResNet-50, converted and fused", "1.05x",
                 steps(of_network(training, "DenseNet-121", "ResNet-50"), "both"), lambda value: value >= 1.05, ratio),
            line("any network, eager or compiled, enabled or converted: the slowest", "0.99x", [slowest],
                 lambda value: value >= 0.99, ratio),
            line("step of the MLP at batch 64, fused", "more than 1x", steps(of_network(training, "MLP, 64"), "fused"),
                 lambda value: value > 1, ratio),
            line("peak memory of a step of MobileNetV2, converted and fused", "20% less", peaks,
                 lambda value: value >= 0.2, lambda value: f"{value:.0%} less"),
        ],
    )  # fmt: skip


def machine(header: dict[str, Any]) -> str:
    facts = {
        "measured on": header["date"],
        "processor": header["processor"],
        "threads": header["threads"],
        "instruction set": f"{instruction_set(header['target'])} (Highway's {header['target']})",
        "PyTorch": header["torch"],
        "Exactnorm": header["exactnorm"],
    }
    return "\n".join(f"- {name}: {value}" for name, value in facts.items())


def _network_axes(rows: list[Row], inches: float, text: str) -> tuple[Any, Any]:
    """Of horizontal bars, so high for each network and format."""
    figure, axes = pyplot.subplots(figsize=(8, inches * len(rows) + 0.9), layout="constrained")
    axes.set_yticks(range(len(rows)), list(map(label, rows)))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(text)
    return figure, axes


def draw_steps(rows: list[Row]) -> Any:
    """A group of bars for each network and format."""
    figure, axes = _network_axes(rows, 0.42, "training step, times as fast as PyTorch")
    height = 0.8 / len(COLORS)
    for index, (way, color) in enumerate(COLORS.items()):
        places = [place + (index - (len(COLORS) - 1) / 2) * height for place in range(len(rows))]
        name = f"{NAMES[way]} (noise)" if way == "again" else NAMES[way]
        axes.barh(places, [row["ratio"][way] - 1 for row in rows], height, left=1, color=color, label=name)
    axes.axvline(1, color="#444444", linewidth=0.8)
    legend_below(figure, [axes], columns=len(COLORS))
    return figure


def draw_parts(rows: list[Row]) -> Any:
    """Two bars for each network and format: PyTorch above, converted and fused below, both by PyTorch's whole step."""
    figure, axes = _network_axes(
        rows, 0.55, "time of a training step by PyTorch's; above PyTorch, below converted and fused"
    )
    for place, row in enumerate(rows):
        whole = row["parts"]["pytorch"]["all"]
        for way, shift in (("pytorch", -0.19), ("both", 0.19)):
            left = 0.0
            for part, color in PARTS.items():
                width = row["parts"][way][part] / whole
                axes.barh(place + shift, width, 0.34, left=left, color=color, label=part)
                left += width
    legend_below(figure, [axes], columns=len(PARTS))
    return figure


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("rows", type=Path, help="what bench/networks.py --add-to wrote")
    parser.add_argument("--output", type=Path, default=ROOT / "docs", help="the folder of networks.md (default: docs)")
    arguments = parser.parse_args()
    found = json.loads(arguments.rows.read_text())
    rows: list[Row] = found["rows"]
    makers: dict[str, Callable[[], str]] = {
        "machine": lambda: machine(found["header"]),
        "goals": lambda: goals(rows),
        "table:training": lambda: network_table(eager(rows)),
        "table:bfloat16": lambda: network_table(eager(rows, "bfloat16")),
        "table:evaluation": lambda: network_table(eager(rows, step="evaluation")),
        "table:compiled": lambda: compiled_table(rows),
    }
    template = (ROOT / "bench/networks_template.md").read_text()
    folder = arguments.output / "networks"
    folder.mkdir(parents=True, exist_ok=True)
    with pyplot.rc_context(STYLE):
        save(draw_steps(eager(rows)), folder / "steps.svg")
        save(draw_parts(eager(rows)), folder / "parts.svg")
    (arguments.output / "networks.md").write_text(re.sub(r"\{\{([^{}]+)\}\}", lambda name: makers[name[1]](), template))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The plots of docs/performance.md: SVG, the same bytes from the same results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from report_goals import onednn_rows
from report_results import Results, Row, bytes_text, is_onednn, peer_allocates, peer_text, ratios, shape_text
from report_tables import nanoseconds_per_element

# Okabe and Ito's colours, which do not depend on telling red from green.
OPERATION_COLOURS = {"training": "#0072B2", "inference": "#009E73", "backward": "#D55E00"}
PEER_MARKS = [("#0072B2", "o"), ("#D55E00", "s"), ("#CC79A7", "^"), ("#009E73", "D")]
LAYOUT_STYLES = {"nchw": "-", "nhwc": "--"}

STYLE: dict[Any, Any] = {
    "svg.hashsalt": "exactnorm",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


def draw_all(results: Results, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with pyplot.rc_context(STYLE):
        save(_limit(results), folder / "limit.svg")
        save(_peers(results), folder / "peers.svg")
        save(_growth(results), folder / "growth.svg")
        save(_networks(results), folder / "networks.svg")


def save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None, "Creator": None}, facecolor="white")
    pyplot.close(figure)


def _plain_ticks(axis: Any, text: Any) -> None:
    """Numbers as one writes them instead of powers, and no minor ticks."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_locator(NullLocator())


def _bytes_axis(axes: Any, rows: list[Row]) -> None:
    axes.set_xscale("log", base=2)
    sizes = [row["bytes_per_tensor"] for row in rows]
    if sizes:
        lowest = min(sizes).bit_length() - 1
        axes.set_xticks([2**power for power in range(lowest, max(sizes).bit_length() + 1, 4)])
    _plain_ticks(axes.xaxis, lambda value: bytes_text(int(value)))
    axes.set_xlabel("bytes of one tensor")


def _logarithmic_ticks(axis: Any, values: list[float], unit: str) -> None:
    """As many as there is room for, however many powers of ten the values span."""
    span = max(values, default=1) / min(values, default=1)
    axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if span < 10 else (1, 2, 5) if span < 300 else (1,)))
    _plain_ticks(axis, lambda value: f"{value:g}{unit}")


def legend_below(figure: Any, panels: Any, columns: int) -> None:
    """Each label once, though it may be missing in some of the panels."""
    by_label: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            by_label.setdefault(label, handle)
    figure.legend(by_label.values(), by_label.keys(), loc="outside lower center", ncols=columns)


def _by_size(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row["bytes_per_tensor"])


def _limit(results: Results) -> Any:
    """How far from the least that the memory needs for it, by size, all threads."""
    threads = results.all_threads
    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3.5), sharey=True, layout="constrained")
    for axes, layout in zip(panels, LAYOUT_STYLES, strict=True):
        rows = results.rows("sizes", layout=layout, threads=threads)
        for operation, colour in OPERATION_COLOURS.items():
            line = _by_size([row for row in rows if row["op"] == operation])
            sizes = [row["bytes_per_tensor"] for row in line]
            axes.plot(sizes, [row["ratio_to_limit"] for row in line], "o-", color=colour, markersize=3, label=operation)
        axes.axhline(1, color="black", linewidth=0.8)
        axes.set_title(f"{layout}, {threads} threads")
        _bytes_axis(axes, rows)
    panels[0].set_yscale("log")
    _logarithmic_ticks(panels[0].yaxis, ratios(results.rows("sizes", threads=threads), "ratio_to_limit"), "x")
    panels[0].set_ylabel("time / time of the limit")
    legend_below(figure, panels, columns=3)
    return figure


def _peer_panels(results: Results) -> dict[tuple[str, str], list[Row]]:
    """Rows of the ResNet-50 shapes beside each peer. PyTorch's backward comes with its forward pass."""
    panels: dict[tuple[str, str], list[Row]] = {}
    for layout in ("nchw", "nhwc"):
        for operations in (["training"], ["inference"], ["backward", "training+backward"]):
            panels[layout, operations[0]] = onednn_rows(results, "onednn", layout=layout, op=operations) + [
                row
                for subject in ("pytorch", "compile", "onnxruntime")
                for row in results.peer_rows(subject, layout=layout, op=operations)
            ]
    return panels


def _series_names(rows: list[Row]) -> dict[str, str]:
    """The builds of oneDNN are one series: each row has the fastest of them."""
    names = {peer_text(row): peer_text(row) for row in rows if not is_onednn(row)}
    builds = sorted({peer_text(row) for row in rows if is_onednn(row)})
    together = builds[0] if len(builds) == 1 else "oneDNN, the fastest build"
    return {build: together for build in builds} | names


def _ratio_axes(grid: Any, rows: list[Row], shapes: list[tuple[int, ...]]) -> None:
    """Axes of panels of ratios to peers, in two rows of panels: the ratio to the right, a line for each shape."""
    for axes in grid.flat:
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        _logarithmic_ticks(axes.xaxis, ratios(rows), "x")
        axes.set_yticks(range(len(shapes)), [shape_text(list(shape)) for shape in shapes])
    if shapes:
        grid[0, 0].set_ylim(len(shapes) - 0.5, -0.5)
    for axes in grid[1]:
        axes.set_xlabel("peer's time / Exactnorm's time")


def _peers(results: Results) -> Any:
    panels = _peer_panels(results)
    all_rows = [row for rows in panels.values() for row in rows]
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in all_rows))
    names = _series_names(all_rows)
    series = list(dict.fromkeys(names.values()))
    figure, grid = pyplot.subplots(2, 3, figsize=(10, 6.4), sharex=True, sharey=True, layout="constrained")
    for axes, ((layout, operation), rows) in zip(grid.flat, panels.items(), strict=True):
        for index, (name, (colour, marker)) in enumerate(zip(series, PEER_MARKS, strict=False)):
            mine = [row for row in rows if names[peer_text(row)] == name]
            # Side by side, so that none hides another.
            offset = 0.15 * (index - (len(series) - 1) / 2)
            heights = [shapes.index(tuple(row["shape"])) + offset for row in mine]
            axes.plot(ratios(mine), heights, marker, color=colour, markersize=4.5, label=name)
            if all(map(peer_allocates, mine)):
                allocating = ratios(mine, "ratio_to_peer_allocating")
                axes.plot(allocating, heights, marker, color=colour, markerfacecolor="none", markersize=4.5)
        title = "backward (PyTorch: with forward)" if operation == "backward" else operation
        axes.set_title(f"{layout}: {title}", fontsize=9)
    _ratio_axes(grid, all_rows, shapes)
    legend_below(figure, grid.flat, columns=len(PEER_MARKS))
    figure.suptitle(
        f"float32, {results.all_threads} threads; right of 1x Exactnorm is faster; "
        "hollow: Exactnorm allocates its outputs, as PyTorch does",
        fontsize=9,
    )
    return figure


def _networks(results: Results) -> Any:
    """Layers of networks, warm and cold, beside the peers that are measured in both states."""
    states = {"warm": "full", "cold": "none"}
    rows = {
        state: onednn_rows(results, f"networks_{state}") + results.peer_rows(f"kernels_{state}") for state in states
    }
    all_rows = [row for of_state in rows.values() for row in of_state if row["layout"] in LAYOUT_STYLES]
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in all_rows))
    names = _series_names(all_rows)
    series = list(dict.fromkeys(names.values()))
    figure, grid = pyplot.subplots(2, 3, figsize=(10, 7), sharex=True, sharey=True, layout="constrained")
    panels = [(layout, operation) for layout in LAYOUT_STYLES for operation in OPERATION_COLOURS]
    for axes, (layout, operation) in zip(grid.flat, panels, strict=True):
        for index, (name, (colour, marker)) in enumerate(zip(series, PEER_MARKS, strict=False)):
            offset = 0.2 * (index - (len(series) - 1) / 2)
            for state, fill in states.items():
                mine = [
                    row
                    for row in rows[state]
                    if (row["layout"], row["op"]) == (layout, operation) and names[peer_text(row)] == name
                ]
                heights = [shapes.index(tuple(row["shape"])) + offset for row in mine]
                label = f"{name}, {state}"
                axes.plot(ratios(mine), heights, marker, color=colour, fillstyle=fill, markersize=4.5, label=label)
        axes.set_title(f"{layout}: {operation}", fontsize=9)
    _ratio_axes(grid, all_rows, shapes)
    legend_below(figure, grid.flat, columns=len(states))
    return figure


def _growth(results: Results) -> Any:
    """Time per element as the work grows, one thread and all."""
    figure, panels = pyplot.subplots(1, 2, figsize=(8, 3.6), sharey=True, layout="constrained")
    for axes, threads in zip(panels, (1, results.all_threads), strict=True):
        rows = results.rows("sizes", threads=threads)
        for operation, colour in OPERATION_COLOURS.items():
            for layout, style in LAYOUT_STYLES.items():
                line = _by_size([row for row in rows if (row["op"], row["layout"]) == (operation, layout)])
                sizes = [row["bytes_per_tensor"] for row in line]
                times = [nanoseconds_per_element(row) for row in line]
                axes.plot(sizes, times, style, color=colour, marker="o", markersize=3, label=f"{operation}, {layout}")
        axes.set_title("1 thread" if threads == 1 else f"{threads} threads")
        _bytes_axis(axes, rows)
    panels[0].set_yscale("log")
    _logarithmic_ticks(panels[0].yaxis, [nanoseconds_per_element(row) for row in results.rows("sizes")], "")
    panels[0].set_ylabel("nanoseconds per element")
    legend_below(figure, panels, columns=3)
    return figure

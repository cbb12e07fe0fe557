#!/usr/bin/env python3
"""Whole networks in PyTorch: a training step, and an evaluation, with exactnorm.torch and without.

Usage: .venv-bench/bin/python bench/networks.py --network MobileNetV2 --format nchw,nhwc

A training step is forward, the mean of the output's squares as the loss, and backward. The competitors are one model: in
PyTorch as it is; with exactnorm.torch.enable(); converted; fused; converted and fused. They are one object in one process, which
becomes one after the other, as equal models differ by where their memory lies. Their losses are compared with the first one's; a
row with another loss is not printed, and the exit code is 1. Then they take turns; a ratio is the median over rounds of PyTorch's
time by theirs. PyTorch takes part twice: the second one's ratio is noise.

The share is the time of normalization, activations and additions in a step by PyTorch's profiler, in steps of their own: the median of
rounds in which the competitors take turns.
"Kept" is the memory of all tensors that the forward pass keeps for the backward pass; "peak" the highest resident memory of a
process that takes two steps in this way alone, less what it had before there was a model.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from network_models import NETWORKS
from network_worker import COMPILED_WAYS, WAYS, Worker
from python_peers import list_of, processor
from report_tables import table
from turns import median_ratio, shuffled, time_turns

import exactnorm

# Ways into a model beside PyTorch, and what readers know them by.
NAMES = {
    "again": "PyTorch again",
    "enabled": "enabled",
    "converted": "converted",
    "fused": "fused",
    "both": "converted and fused",
}
HEADS = ["network", "format", "dtype", "step", "PyTorch, ms", "share", *NAMES.values(), "MB kept", "MB peak"]
# At least.
PROFILED_ROUNDS, PROFILED_SECONDS = 5, 10
REPORTED_MEMORY = ("pytorch", "both")
# Of the loss, which sums up what rounding made of many layers.
TOLERANCE = {"float32": 2e-2, "bfloat16": 2e-1}
# What a fused layer does in one pass.
FUSED_PARTS = ("normalization", "activations", "additions")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="may be repeated (default: all)")
    parser.add_argument("--format", type=list_of(["nchw", "nhwc"]), default=["nchw", "nhwc"], help="of nchw, nhwc")
    parser.add_argument("--dtype", type=list_of(list(TOLERANCE)), default=["float32"], help="of float32, bfloat16 (autocast)")
    parser.add_argument("--step", type=list_of(["training", "evaluation"]), default=["training"])
    parser.add_argument(
        "--compiled", choices=["fast", "exact"], help="through torch.compile; how converted modules are compiled"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=11, help="at least (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=15, help="at least, for each row (default: %(default)s)")
    parser.add_argument("--no-profile", action="store_true", help="leave the shares out")
    parser.add_argument("--add-to", type=Path, metavar="FILE", help="JSON, whose rows of the same kind these replace")
    return parser.parse_args()


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


Key = tuple[str, str, str, str]  # network, format, dtype, step


class WrongLoss(Exception):
    pass


def measure(key: Key, arguments: argparse.Namespace) -> dict[str, Any]:
    name, memory_format, dtype, step = key
    network, is_eager = NETWORKS[name], arguments.compiled is None
    ways = WAYS if is_eager else COMPILED_WAYS
    of_network = (*key, arguments.compiled, arguments.threads)
    with Worker(*of_network) as worker:
        losses = {way: worker.call("first_loss", way) for way in ways}
        for way, loss in losses.items():
            expected = losses["pytorch"]
            if not abs(loss - expected) <= TOLERANCE[dtype] * abs(expected):
                raise WrongLoss(f"{', '.join(key)}: the loss is {loss} {way}; expected {expected}")
        turns = {way: partial(worker.call, "turn", way) for way in ways}
        times = time_turns(turns, arguments.rounds, arguments.seconds)
        row: dict[str, Any] = {
            "network": name,
            "shape": list(network.shape),
            "format": memory_format if network.has_formats else "-",
            "dtype": dtype,
            "step": step,
            "compiled": arguments.compiled,
            "threads": arguments.threads,
            "target": exactnorm.active_target(),
            "rounds": len(times["pytorch"].milliseconds),
            "milliseconds": {way: of.median for way, of in times.items()},
            "ratio": {way: median_ratio(times["pytorch"], of) for way, of in times.items()},
        }
        if step == "training" and is_eager:
            row["kept"] = {way: worker.call("kept_bytes", way) for way in REPORTED_MEMORY}
        if not arguments.no_profile and is_eager:
            rounds, end = [], time.perf_counter() + PROFILED_SECONDS
            while len(rounds) < PROFILED_ROUNDS or time.perf_counter() < end:
                rounds.append({way: worker.call("parts", way) for way in shuffled(WAYS)})
            row["parts"] = {way: medians([of_round[way] for of_round in rounds]) for way in WAYS}
    if step == "training" and is_eager:
        row["peak"] = {}
        for way in REPORTED_MEMORY:
            with Worker(*of_network) as worker:
                row["peak"][way] = worker.call("peak_bytes", way)
    return row


def rows_of(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows, and what is wrong with others."""
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    names = arguments.network or list(NETWORKS)
    for key in product(names, arguments.format, arguments.dtype, arguments.step):
        if NETWORKS[key[0]].has_formats or key[1] == arguments.format[0]:
            print(*key, sep=", ", file=sys.stderr, flush=True)
            try:
                rows.append(measure(key, arguments))
            except WrongLoss as error:
                problems.append(str(error))
    return rows, problems


def share_of_time(row: dict[str, Any], way: str) -> float:
    """The time of normalization, activations and additions by PyTorch's."""
    ours, theirs = (sum(row["parts"][who][part] for part in FUSED_PARTS) for who in (way, "pytorch"))
    return ours / theirs


def share_of_step(row: dict[str, Any]) -> float:
    parts = row["parts"]["pytorch"]
    return sum(parts[part] for part in FUSED_PARTS) / parts["all"]


def megabytes(row: dict[str, Any], what: str) -> str:
    if what not in row:
        return ""
    return " / ".join(f"{row[what][way] / 1e6:.3g}" for way in REPORTED_MEMORY)


def cells_of(row: dict[str, Any]) -> list[str]:
    """Of the table's line."""

    def of_way(way: str) -> str:
        if way not in row["ratio"]:
            return ""
        share = f", {share_of_time(row, way):.2f}" if "parts" in row else ""
        return f"{row['ratio'][way]:.2f}x{share}"

    return [
        row["network"], row["format"], row["dtype"], row["step"], f"{row['milliseconds']['pytorch']:.3g}",
        f"{share_of_step(row):.0%}" if "parts" in row else "", *map(of_way, NAMES),
        megabytes(row, "kept"), megabytes(row, "peak"),
    ]  # fmt: skip


def kind_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("network", "format", "dtype", "step", "compiled", "threads"))


def main() -> int:
    arguments = parse_arguments()
    header = {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "exactnorm": exactnorm.__version__,
        "target": exactnorm.active_target(),
        "processor": processor(),
        "threads": arguments.threads,
    }
    rows, problems = rows_of(arguments)
    for problem in problems:
        print(problem, file=sys.stderr)
    if arguments.add_to is not None:
        before = json.loads(arguments.add_to.read_text())["rows"] if arguments.add_to.exists() else []
        kinds = set(map(kind_of, rows))
        kept = [row for row in before if kind_of(row) not in kinds]
        arguments.add_to.parent.mkdir(parents=True, exist_ok=True)
        arguments.add_to.write_text(json.dumps({"header": header, "rows": kept + rows}, indent=1) + "\n")
    print(", ".join(f"{name} {value}" for name, value in header.items()))
    print("\n" + table(HEADS, map(cells_of, rows)))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

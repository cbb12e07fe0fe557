#!/usr/bin/env python3
"""Whole networks in PyTorch: a training step, and an evaluation, with exactnorm.torch and without.

Usage: .venv-bench/bin/python bench/networks.py --network MobileNetV2 --format nchw,nhwc

A training step is forward, the mean of the output's squares as the loss, and backward. The competitors are copies of one
model: PyTorch as it is; PyTorch with exactnorm.torch.enable(); the model converted; fused; converted and fused. Each one's
loss is compared with the first one's; a row with another loss is not printed, and the exit code is 1. Then they take
turns; a ratio is the median over rounds of PyTorch's time by theirs. PyTorch as it is and the fused model come first:
converting and enabling replace PyTorch's kernels for good. What does that takes turns with the fused model, whose ratio to
PyTorch is known by then.

The share is the time of normalization, activations and additions in a step by PyTorch's profiler, in a run of its own. It is
not told of converted modules, which go another way while a profiler looks. "Kept" is the memory of all tensors that the
forward pass keeps for the backward pass.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from itertools import product
from typing import Any

import torch
from network_models import NETWORKS
from python_peers import list_of, processor
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from turns import Call, median_ratio, time_in_turn

import exactnorm
import exactnorm.torch

# With PyTorch's kernels in their place, and without; the first one of a list is what others' losses are compared with.
BEFORE = ["pytorch", "fused"]
AFTER = ["fused", "enabled", "converted", "both"]
SHOWN = ["enabled", "converted", "fused", "both"]
HEADS = ["enabled", "converted", "fused", "converted and fused"]
# Of the loss, which sums up what rounding made of many layers.
TOLERANCE = {"float32": 2e-2, "bfloat16": 2e-1}
# In the profiler's names, without aten::.
PARTS = ("normalization", "activations", "additions")
NORMALIZATION = ("batch_norm", "_Activated", "_Training", "_Inference", "exactnorm")
ACTIVATIONS = ("relu", "hardtanh", "clamp", "threshold", "silu", "hardswish", "leaky")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="may be repeated (default: all)")
    parser.add_argument("--format", type=list_of(["nchw", "nhwc"]), default=["nchw", "nhwc"], help="of nchw, nhwc")
    parser.add_argument("--dtype", type=list_of(list(TOLERANCE)), default=["float32"], help="of float32, bfloat16 (autocast)")
    parser.add_argument("--step", type=list_of(["training", "evaluation"]), default=["training"])
    parser.add_argument("--compiled", action="store_true", help="each competitor through torch.compile")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=7, help="at least (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=5, help="at least, for each row (default: %(default)s)")
    parser.add_argument("--no-profile", action="store_true", help="leave the shares out")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


class Competitor:
    """A copy of a model, prepared in one of the ways, and its step."""

    def __init__(self, name: str, model: nn.Module, x: Tensor, dtype: str, is_training: bool, is_compiled: bool) -> None:
        self.name, self.x, self.dtype, self.is_training = name, x, dtype, is_training
        model = copy.deepcopy(model).train(is_training)
        if name in ("converted", "both"):
            exactnorm.torch.convert(model)
        if name in ("fused", "both"):
            exactnorm.torch.fuse(model)
        self.model = model
        self.call = torch.compile(model) if is_compiled else model

    def loss(self) -> Tensor:
        context: AbstractContextManager[Any] = (
            torch.autocast("cpu", torch.bfloat16) if self.dtype == "bfloat16" else nullcontext()
        )
        with context:
            return self.call(self.x).float().square().mean()

    def step(self) -> float:
        with exactnorm.torch.enable() if self.name == "enabled" else nullcontext():
            return self._step()

    def _step(self) -> float:
        if not self.is_training:
            with torch.no_grad():
                return float(self.loss())
        self.model.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        return float(loss.detach())

    def shares(self) -> dict[str, float]:
        """Milliseconds of a step in normalization, activations and additions, and in all."""
        self.step()
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            self.step()
        found = {"normalization": 0.0, "activations": 0.0, "additions": 0.0, "all": 0.0}
        for event in profiler.key_averages():
            time = event.self_cpu_time_total / 1000
            found["all"] += time
            if any(name in event.key for name in NORMALIZATION):
                found["normalization"] += time
            elif any(name in event.key for name in ACTIVATIONS):
                found["activations"] += time
            elif event.key in ("aten::add", "aten::add_"):
                found["additions"] += time
        return found

    def kept_bytes(self) -> int:
        storages: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        owned = {parameter.untyped_storage().data_ptr() for parameter in self.model.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = self.loss()
        del loss
        return sum(size for address, size in storages.items() if address not in owned)


Key = tuple[str, str, str, str]  # network, format, dtype, step


class WrongLoss(Exception):
    pass


def players_of(key: Key, names: list[str], is_compiled: bool) -> dict[str, Competitor]:
    """Competitors whose losses are the first one's."""
    name, memory_format, dtype, step = key
    torch.manual_seed(2015)
    model, x = NETWORKS[name].make(), torch.randn(NETWORKS[name].shape)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0  # each competitor would draw other numbers
    if memory_format == "nhwc":
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    players = {player: Competitor(player, model, x, dtype, step == "training", is_compiled) for player in names}
    losses = {player: competitor.step() for player, competitor in players.items()}
    expected = losses[names[0]]
    for player, loss in losses.items():
        if not abs(loss - expected) <= TOLERANCE[dtype] * abs(expected):
            raise WrongLoss(f"{', '.join(key)}: the loss is {loss} {player}; expected {expected}")
    return players


def measure(key: Key, arguments: argparse.Namespace) -> dict[str, Any]:
    """A row of those that leave PyTorch's kernels in their place."""
    name, memory_format, dtype, step = key
    network, is_training = NETWORKS[name], step == "training"
    players = players_of(key, BEFORE, arguments.compiled)
    calls: dict[str, Call] = {player: competitor.step for player, competitor in players.items()}
    times = time_in_turn(calls, arguments.rounds, arguments.seconds)
    row: dict[str, Any] = {
        "key": key,
        "network": name,
        "shape": list(network.shape),
        "format": memory_format if network.has_formats else "-",
        "dtype": dtype,
        "step": step,
        "compiled": arguments.compiled,
        "threads": arguments.threads,
        "target": exactnorm.active_target(),
        "rounds": len(times["pytorch"].milliseconds),
        "milliseconds": {player: of.median for player, of in times.items()},
        "ratio": {player: median_ratio(times["pytorch"], of) for player, of in times.items()},
    }
    if is_training and not arguments.compiled:
        row["kept"] = {player: players[player].kept_bytes() for player in ("pytorch", "fused")}
    if not arguments.no_profile and not arguments.compiled:
        row["shares"] = {player: competitor.shares() for player, competitor in players.items()}
    return row


def add_others(row: dict[str, Any], arguments: argparse.Namespace) -> None:
    players = players_of(row["key"], AFTER, arguments.compiled)
    calls: dict[str, Call] = {player: competitor.step for player, competitor in players.items()}
    times = time_in_turn(calls, arguments.rounds, arguments.seconds)
    for player in AFTER[1:]:
        row["milliseconds"][player] = times[player].median
        row["ratio"][player] = row["ratio"]["fused"] * median_ratio(times["fused"], times[player])
    if "shares" in row:
        row["shares"]["enabled"] = players["enabled"].shares()


def rows_of(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows, and what is wrong with others."""
    names = arguments.network or list(NETWORKS)
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for key in product(names, arguments.format, arguments.dtype, arguments.step):
        if NETWORKS[key[0]].has_formats or key[1] == arguments.format[0]:
            try:
                rows.append(measure(key, arguments))
            except WrongLoss as error:
                problems.append(str(error))
    for row in list(rows):
        try:
            add_others(row, arguments)
        except WrongLoss as error:
            problems.append(str(error))
            rows.remove(row)
    return rows, problems


def share_text(row: dict[str, Any], player: str) -> str:
    """The time of normalization, activations and additions by PyTorch's."""
    if player not in row.get("shares", {}):
        return ""
    ours, theirs = (sum(row["shares"][who][part] for part in PARTS) for who in (player, "pytorch"))
    return f", {ours / theirs:.2f}"


def print_row(row: dict[str, Any]) -> None:
    shares = row.get("shares", {}).get("pytorch")
    share = f"{sum(shares[part] for part in PARTS) / shares['all']:.0%}" if shares else ""
    kept = row.get("kept")
    memory = f"{kept['pytorch'] / 1e6:.0f} / {kept['fused'] / 1e6:.0f}" if kept else ""
    cells = [
        row["network"], row["format"], row["dtype"], row["step"], f"{row['milliseconds']['pytorch']:.1f}", share,
        *(f"{row['ratio'][player]:.2f}x{share_text(row, player)}" for player in SHOWN), memory,
    ]  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> int:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    header = {
        "torch": torch.__version__,
        "exactnorm": exactnorm.__version__,
        "target": exactnorm.active_target(),
        "processor": processor(),
        "threads": arguments.threads,
    }
    rows, problems = rows_of(arguments)
    for problem in problems:
        print(problem, file=sys.stderr)
    if arguments.json:
        print(json.dumps({"header": header, "rows": rows}, indent=1))
    else:
        print(", ".join(f"{name} {value}" for name, value in header.items()))
        heads = ["network", "format", "dtype", "step", "PyTorch, ms", "share", *HEADS, "MB kept"]
        print("\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
        for row in rows:
            print_row(row)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""What synchronized batch normalization costs, measured over MPI on this machine and modelled beyond it.

Usage: make bench-distributed

Prints the tables of docs/distributed.md and draws docs/distributed/cost.svg. Measured: messages and ResNet-50's layers over 1
to 8 ranks (exactnorm_bench_ranks, under mpirun), and a training step of ResNet-50 in PyTorch, for proportion. Modelled: the
all-reduce of exact sums beside the all-gather that torch.nn.SyncBatchNorm does, from 1 to 4,096 ranks, by formula and by
playing the algorithms through, message by message.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ROOT / "build/release/exactnorm_bench_ranks"
PICTURE = ROOT / "docs/distributed/cost.svg"
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_mpi_yield_when_idle": "1",
}
MEASURED_RANKS = [1, 2, 3, 4, 8]
MODELLED_RANKS = [1, 2, 8, 32, 128, 512, 1024, 4096]
BATCH = 16


def ours(channels: int) -> int:
    """Bytes of a message: 17 int64 of agreement, 2 of the count, 36 a channel."""
    return 8 * (17 + 2 + 36 * channels)


def theirs_forward(channels: int) -> int:
    """Bytes that a rank of torch.nn.SyncBatchNorm gives: float32 mean and invstd of each channel, and a count."""
    return 4 * (2 * channels + 1)


def theirs_backward(channels: int) -> int:
    """Its all-reduce in the backward pass: two float32 a channel."""
    return 8 * channels


@dataclass(frozen=True)
class Network:
    """A message of n bytes between two ranks takes alpha + n * beta seconds."""

    name: str
    alpha: float
    beta: float


# Typical of what is for sale: latency of a message between programs, and its bandwidth.
NETWORKS = [
    Network("Ethernet, 10 Gbit/s", 30e-6, 8 / 10e9),
    Network("InfiniBand, 100 Gbit/s", 2e-6, 8 / 100e9),
]


def all_reduce(network: Network, ranks: int, size: int) -> float:
    """Thakur, Rabenseifner and Gropp (2005): recursive doubling for short messages; halving and doubling for long ones."""
    if ranks == 1:
        return 0.0
    rounds = math.ceil(math.log2(ranks))
    doubling = rounds * (network.alpha + size * network.beta)
    halving = 2 * rounds * network.alpha + 2 * (ranks - 1) / ranks * size * network.beta
    return min(doubling, halving)


def all_gather(network: Network, ranks: int, size: int) -> float:
    """The same authors: recursive doubling, at whose end each rank has received what all others gave."""
    if ranks == 1:
        return 0.0
    return math.ceil(math.log2(ranks)) * network.alpha + (ranks - 1) * size * network.beta


class Players:
    """Ranks that exchange messages in pairs: what each holds, and when it has it. Ranks are a power of two."""

    def __init__(self, network: Network, ranks: int) -> None:
        self.network = network
        self.ranks = ranks
        self.clock = [0.0] * ranks

    def exchange(self, distance: int, size: float) -> None:
        """Each rank sends `size` bytes to the one whose number differs in one bit, and waits for as many from it."""
        took = self.network.alpha + size * self.network.beta
        before = list(self.clock)
        for rank in range(self.ranks):
            self.clock[rank] = max(before[rank], before[rank ^ distance]) + took


def played_all_reduce(network: Network, ranks: int, size: int) -> float:
    """The faster of both algorithms, with numbers: each rank's is checked to be the sum at the end."""
    doubling = Players(network, ranks)
    values = list(range(ranks))
    distance = 1
    while distance < ranks:
        doubling.exchange(distance, size)
        values = [values[rank] + values[rank ^ distance] for rank in range(ranks)]
        distance *= 2
    assert all(value == ranks * (ranks - 1) // 2 for value in values)

    halving = Players(network, ranks)
    # Which part of the message a rank is responsible for, as a range, and how many ranks' numbers are in it.
    parts = [(0.0, 1.0, 1)] * ranks
    distance = ranks // 2
    while distance:
        first, last, _ = parts[0]
        halving.exchange(distance, size * (last - first) / 2)
        parts = [
            (low, (low + high) / 2, 2 * count) if not rank & distance else ((low + high) / 2, high, 2 * count)
            for rank, (low, high, count) in enumerate(parts)
        ]
        distance //= 2
    assert all(count == ranks for _, _, count in parts)
    distance = 1
    while distance < ranks:
        first, last, _ = parts[0]
        halving.exchange(distance, size * (last - first))
        parts = [
            (min(low, parts[rank ^ distance][0]), max(high, parts[rank ^ distance][1]), count)
            for rank, (low, high, count) in enumerate(parts)
        ]
        distance *= 2
    assert all((low, high) == (0.0, 1.0) for low, high, _ in parts)
    return min(max(doubling.clock), max(halving.clock))


def played_all_gather(network: Network, ranks: int, size: int) -> float:
    players = Players(network, ranks)
    held = [{rank} for rank in range(ranks)]
    distance = 1
    while distance < ranks:
        players.exchange(distance, size * len(held[0]))
        held = [held[rank] | held[rank ^ distance] for rank in range(ranks)]
        distance *= 2
    assert all(len(ranks_held) == ranks for ranks_held in held)
    return max(players.clock)


def measured(ranks: int, batch: int) -> dict[str, Any]:
    command = ["mpirun", "-n", str(ranks), str(PROGRAM), str(batch)]
    output = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=True).stdout
    result: dict[str, Any] = json.loads(output)
    return result


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, middle: int, stride: int) -> None:
        super().__init__()

        def step(a: int, b: int, size: int, stride: int = 1) -> list[nn.Module]:
            return [nn.Conv2d(a, b, size, stride, size // 2, bias=False), nn.BatchNorm2d(b)]

        self.body = nn.Sequential(
            *step(inputs, middle, 1), nn.ReLU(), *step(middle, middle, 3, stride), nn.ReLU(), *step(middle, 4 * middle, 1)
        )
        changes = stride > 1 or inputs != 4 * middle
        self.shortcut = nn.Sequential(*step(inputs, 4 * middle, 1, stride)) if changes else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet_50() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    inputs = 64
    for middle, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            stride = 2 if block == 0 and middle > 64 else 1
            layers.append(Bottleneck(inputs, middle, stride))
            inputs = 4 * middle
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def step_seconds(batch: int) -> float:
    torch.set_num_threads(1)
    model = resnet_50()
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    x, labels = torch.randn(batch, 3, 224, 224), torch.randint(0, 1000, (batch,))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        nn.functional.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[1]


def microseconds(seconds: float) -> str:
    value = seconds * 1e6
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def print_layers(result: dict[str, Any], step: float) -> None:
    print("| layer (N, C, H, W), on each rank | in ResNet-50 | bytes of a message | alone, us | both ranks, us | a message, us |")
    print("|---|---|---|---|---|---|")
    totals = dict.fromkeys(("alone", "together", "message"), 0.0)
    size = 0
    for layer in result["layers"]:
        shape = f"({result['batch']}, {layer['channels']}, {layer['size']}, {layer['size']})"
        assert layer["bytes"] == ours(layer["channels"])
        times = " | ".join(microseconds(layer[name]) for name in totals)
        print(f"| {shape} | {layer['repeats']}x | {layer['bytes']:,} | {times} |")
        for name in totals:
            totals[name] += layer["repeats"] * layer[name]
        size += layer["repeats"] * layer["bytes"]
    times = " | ".join(microseconds(total) for total in totals.values())
    print(f"| all 53 | | {size:,} | {times} |\n")
    print(
        f"A step of ResNet-50 in PyTorch {torch.__version__}, the same batch of {result['batch']}, one thread: {step:.2f} s. "
        f"Of this, the normalizations' messages would be {2 * totals['message'] / step:.2%}, and all that synchronization adds "
        f"{(totals['together'] - totals['alone']) / step:.2%}.\n"
    )


def fitted(result: dict[str, Any]) -> Network:
    """alpha and beta from two ranks, whose all-reduce is one exchange: the shortest message, and the longest."""
    (_, alpha), *_, (size, longest) = result["messages"]["all_reduce"]
    return Network("this machine", alpha, (longest - alpha) / size)


def print_check(results: dict[int, dict[str, Any]]) -> None:
    network = fitted(results[2])
    cores = len(os.sched_getaffinity(0))
    print(f"alpha {network.alpha * 1e6:.2f} us, beta {network.beta * 1e9:.3f} ns a byte, from two ranks; {cores} processors.\n")
    print("| ranks | all-reduce of 8 bytes: measured, model | of 32 KiB | of 512 KiB | all-gather of 32 KiB |")
    print("|---|---|---|---|---|")
    for ranks, result in results.items():
        # Ranks take turns on the processors, and with them their messages.
        turns = max(1, math.ceil(ranks / cores))
        cells = []
        for kind, size, model in [
            ("all_reduce", 8, all_reduce),
            ("all_reduce", 32768, all_reduce),
            ("all_reduce", 524288, all_reduce),
            ("all_gather", 32768, all_gather),
        ]:
            took = dict(map(tuple, result["messages"][kind]))[size]
            cells.append(f"{microseconds(took)}, {microseconds(turns * model(network, ranks, size))}")
        print(f"| {ranks} | {' | '.join(cells)} |")
    print()


def resnet_channels(result: dict[str, Any]) -> list[int]:
    return [layer["channels"] for layer in result["layers"] for _ in range(layer["repeats"])]


def totals(network: Network, ranks: int, channels: list[int]) -> tuple[float, float, float]:
    """Seconds a step: exact sums; PyTorch's; exact sums where all layers' messages could be one."""
    exact = sum(2 * all_reduce(network, ranks, ours(c)) for c in channels)
    gathered = sum(
        all_gather(network, ranks, theirs_forward(c)) + all_reduce(network, ranks, theirs_backward(c)) for c in channels
    )
    return exact, gathered, 2 * all_reduce(network, ranks, sum(map(ours, channels)))


def print_model(channels: list[int]) -> None:
    for network in NETWORKS:
        print(f"{network.name}: alpha {network.alpha * 1e6:.0f} us, beta {network.beta * 1e9:.2f} ns a byte\n")
        print("| ranks | exact sums, ms a step | torch.nn.SyncBatchNorm, ms | bytes a rank receives, forward: exact, PyTorch |")
        print("|---|---|---|---|")
        for ranks in MODELLED_RANKS:
            exact, gathered, _ = totals(network, ranks, channels)
            for c in {64, 2048} if ranks & (ranks - 1) == 0 else ():
                for played, formula, size in [
                    (played_all_reduce, all_reduce, ours(c)),
                    (played_all_gather, all_gather, theirs_forward(c)),
                ]:
                    assert math.isclose(played(network, ranks, size), formula(network, ranks, size), rel_tol=1e-9)
            share = 0 if ranks == 1 else 2 * (ranks - 1) / ranks
            received = f"{share * sum(map(ours, channels)):,.0f}, {(ranks - 1) * sum(map(theirs_forward, channels)):,}"
            print(f"| {ranks:,} | {exact * 1e3:.2f} | {gathered * 1e3:.2f} | {received} |")
        print()


def draw(channels: list[int]) -> None:
    plt.rcParams.update({"svg.hashsalt": "exactnorm", "svg.fonttype": "none", "font.size": 9})
    ranks = [2**i for i in range(1, 13)]
    figure, axes = plt.subplots(1, len(NETWORKS), figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, network in zip(axes, NETWORKS, strict=True):
        lines = list(zip(*(totals(network, r, channels) for r in ranks), strict=True))
        axis.plot(ranks, [1e3 * t for t in lines[1]], "s--", color="#D55E00", label="torch.nn.SyncBatchNorm: all-gather")
        axis.plot(ranks, [1e3 * t for t in lines[0]], "o-", color="#0072B2", label="exact sums: all-reduce")
        axis.set(xscale="log", yscale="log", title=network.name, xlabel="ranks")
        axis.set_xticks([2, 8, 64, 512, 4096], labels=["2", "8", "64", "512", "4096"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("ms a step of ResNet-50")
    axes[0].legend()
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None, "Creator": None}, facecolor="white")


def main() -> None:
    results = {ranks: measured(ranks, BATCH if ranks == 2 else 0) for ranks in MEASURED_RANKS}
    two = results[2]
    print(f"{two['mpi']}, {two['target']}, one thread a rank\n")
    print_layers(two, step_seconds(BATCH))
    print_check(results)
    channels = resnet_channels(two)
    print_model(channels)
    draw(channels)
    print(f"wrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

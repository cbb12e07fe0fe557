#!/usr/bin/env python3
"""What one call of a module costs where there is next to nothing to compute: exactnorm.torch beside torch.nn.

Usage: .venv/bin/python bench/torch_overhead.py

Microseconds per call of BatchNorm1d on float32 (64, 64), one thread: medians over rounds in which the two take
turns. The two answers are compared first.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import exactnorm.torch
import torch

ROUNDS = 40
CALLS = 300


def time_of(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    for _ in range(CALLS):
        call()
    return (time.perf_counter() - start) / CALLS * 1e6


def measure(name: str, theirs: Callable[[], object], ours: Callable[[], object]) -> None:
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for call, into in zip((theirs, ours), times, strict=True):
            time_of(call)
            into.append(time_of(call))
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    print(f"| {name} | {statistics.median(times[0]):.1f} | {statistics.median(times[1]):.1f} | {ratio:.2f}x |")


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(64, 64)
    leaf = x.clone().requires_grad_()
    dy = torch.randn(64, 64)
    modules = (torch.nn.BatchNorm1d(64), exactnorm.torch.BatchNorm1d(64))
    torch.testing.assert_close(modules[0](x), modules[1](x))

    def step(module: torch.nn.Module) -> Callable[[], object]:
        return lambda: module(leaf).backward(dy)

    def forward(module: torch.nn.Module) -> Callable[[], object]:
        return lambda: module(x)

    print(f"PyTorch {torch.__version__}, exactnorm {exactnorm.__version__} ({exactnorm.active_target()}), one thread\n")
    print("| (64, 64), microseconds | torch.nn | exactnorm.torch | times as fast |")
    print("|---|---|---|---|")
    measure("training, forward", *map(forward, modules))
    measure("training, forward and backward", *map(step, modules))
    with torch.no_grad():
        measure("training, forward, no_grad", *map(forward, modules))
        for module in modules:
            module.eval()
        measure("evaluation, no_grad", *map(forward, modules))


if __name__ == "__main__":
    main()

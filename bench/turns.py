"""Times competitors in turn, round after round, so that a busy machine slows all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

Call = Callable[[], object]

# Shorter than this, the clock itself and the return from a timer would be a part of the result.
LEAST_NANOSECONDS = 100_000


@dataclass(frozen=True)
class Times:
    """Milliseconds a call of one competitor, one value per round."""

    milliseconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.milliseconds)

    @property
    def quartiles(self) -> list[float]:
        if len(self.milliseconds) == 1:
            return self.milliseconds * 2
        first, _, third = statistics.quantiles(self.milliseconds, n=4, method="inclusive")
        return [first, third]


def median_ratio(numerator: Times, denominator: Times) -> float:
    """The median over rounds of the ratio within a round: what the machine did in that round cancels."""
    pairs = zip(numerator.milliseconds, denominator.milliseconds, strict=True)
    return statistics.median(above / below for above, below in pairs)


def _turn(call: Call) -> float:
    """Milliseconds a call. The first call is not timed: while it runs, workers of another competitor's
    thread pool, which spin for a while after their last task, go to sleep, and caches fill."""
    call()
    calls = 0
    nanoseconds = 0
    batch = 1
    while nanoseconds < LEAST_NANOSECONDS:
        start = time.perf_counter_ns()
        for _ in range(batch):
            call()
        nanoseconds += time.perf_counter_ns() - start
        calls += batch
        batch *= 2
    return nanoseconds / calls / 1e6


def time_in_turn(competitors: dict[str, Call], least_rounds: int, least_seconds: float) -> dict[str, Times]:
    """At least so many rounds, and at least so long; a round is one turn of each competitor."""
    milliseconds: dict[str, list[float]] = {name: [] for name in competitors}
    collects_garbage = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + least_seconds
        rounds = 0
        while rounds < least_rounds or time.perf_counter() < end:
            for name, call in competitors.items():
                milliseconds[name].append(_turn(call))
            rounds += 1
    finally:
        if collects_garbage:
            gc.enable()
    return {name: Times(values) for name, values in milliseconds.items()}

"""Times competitors in turn, round after round, so that a busy machine slows all of them alike."""

from __future__ import annotations

import functools
import gc
import random
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Call = Callable[[], object]

_random = random.Random(0)

# Shorter than this, the clock itself and the return from a timer would be a part of the result.
LEAST_NANOSECONDS = 100_000


# A turn with cold tensors: one call that is disturbed does not matter then, and the turn does not last long.
COLD_CALLS = 3
COLD_SETTLING_SECONDS = 0.005


@dataclass(frozen=True)
class ColdCompetitor:
    """One of those that are timed with cold tensors."""

    call: Call
    # Another layer's call by the same competitor.
    layer_before: Call


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


def turn(call: Call) -> float:
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


def _cold_turn(
    competitor: ColdCompetitor, prepare: Callable[[], None], read: Callable[[object], None]
) -> tuple[float, float]:
    """Milliseconds of a call, and of what reads its output: those of the median sum."""
    # As above, until others' threads sleep.
    end = time.perf_counter() + COLD_SETTLING_SECONDS
    while time.perf_counter() < end:
        competitor.call()
    samples = []
    for _ in range(COLD_CALLS):
        prepare()
        competitor.layer_before()
        start = time.perf_counter_ns()
        returned = competitor.call()
        middle = time.perf_counter_ns()
        read(returned)
        samples.append(((middle - start) / 1e6, (time.perf_counter_ns() - middle) / 1e6))
        # Or its memory could not be the next call's.
        del returned
    return sorted(samples, key=sum)[COLD_CALLS // 2]


def time_cold_in_turn(
    competitors: dict[str, ColdCompetitor],
    prepare: Callable[[], None],
    read: Callable[[object], None],
    least_rounds: int,
    least_seconds: float,
) -> tuple[dict[str, Times], dict[str, Times]]:
    """As `time_in_turn`; `prepare` comes before each timed call, and `read` gets what it returned. First the times of
    calls and readings together, then those of the readings."""
    together: dict[str, list[float]] = {name: [] for name in competitors}
    readings: dict[str, list[float]] = {name: [] for name in competitors}

    def round_of_turns() -> None:
        for name, competitor in competitors.items():
            call, reading = _cold_turn(competitor, prepare, read)
            together[name].append(call + reading)
            readings[name].append(reading)

    _repeat(round_of_turns, least_rounds, least_seconds)
    return _times(together), _times(readings)


def shuffled(names: Iterable[str]) -> list[str]:
    order = list(names)
    _random.shuffle(order)
    return order


def time_in_turn(competitors: dict[str, Call], least_rounds: int, least_seconds: float) -> dict[str, Times]:
    """At least so many rounds, and at least so long; a round is one turn of each competitor."""
    return time_turns(
        {name: functools.partial(turn, call) for name, call in competitors.items()}, least_rounds, least_seconds
    )


def time_turns(turns: dict[str, Callable[[], float]], least_rounds: int, least_seconds: float) -> dict[str, Times]:
    """As `time_in_turn`, of competitors that time their turns themselves, in other processes for example.

    Each round has an order of its own: what a competitor leaves behind, in caches and in the heap, is not always the same
    one's."""
    milliseconds: dict[str, list[float]] = {name: [] for name in turns}

    def round_of_turns() -> None:
        for name in shuffled(turns):
            milliseconds[name].append(turns[name]())

    _repeat(round_of_turns, least_rounds, least_seconds)
    return _times(milliseconds)


def _times(milliseconds: dict[str, list[float]]) -> dict[str, Times]:
    return {name: Times(values) for name, values in milliseconds.items()}


def _repeat(round_of_turns: Callable[[], None], least_rounds: int, least_seconds: float) -> None:
    collects_garbage = gc.isenabled()
    gc.disable()
    try:
        end = time.perf_counter() + least_seconds
        rounds = 0
        while rounds < least_rounds or time.perf_counter() < end:
            round_of_turns()
            rounds += 1
    finally:
        if collects_garbage:
            gc.enable()

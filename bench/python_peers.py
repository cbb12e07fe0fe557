#!/usr/bin/env python3
"""Exactnorm beside batch normalization in Python: PyTorch, torch.compile, a notebook's NumPy, ONNX Runtime.

Usage: .venv-bench/bin/python bench/python_peers.py --set resnet50 --op training --peer pytorch

Both answers of every row are checked against a two-pass computation in float64 first; a row with a wrong
answer is not printed, and the exit code is 1. Then both are timed in turn over many rounds, on the same
input. Printed are medians; a ratio is the median over rounds of peer / exactnorm, so above 1 exactnorm is
faster. Exactnorm is called in the same process through its C interface, once into outputs that exist, and
once ("allocating") into a fresh array at each call from the peer's allocator, as PyTorch does it.

With --cold, all tensors are evicted from the caches before each call, and x, or dy of a backward pass, is written by
other processors; times hold a pass over the output.

training updates running statistics on both sides where the peer keeps any. training+backward of PyTorch is
y = module(x); y.backward(dy), then the gradients are dropped.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

from cold import ColdTensors, layer_before
from exactnorm_calls import OUTPUTS, ROOT, ExactnormCalls, Library, Tensors
from peers import PEERS, description
from problems import LAYOUTS, OPERATIONS, SETS, TOLERANCES, Case, Problem, largest_error
from turns import Call, ColdCompetitor, Times, median_ratio, time_cold_in_turn, time_in_turn


class WrongAnswer(Exception):
    pass


class Unavailable(Exception):
    """The peer does not run here."""


def parse_shape(text: str) -> tuple[int, ...]:
    shape = tuple(int(part) for part in text.split(","))
    if len(shape) not in (2, 4) or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text}; expected N,C,H,W or N,C")
    return shape


def list_of(choices: Iterable[str]) -> Callable[[str], list[str]]:
    """Values with commas between them."""

    def parse(text: str) -> list[str]:
        values = text.split(",")
        for value in values:
            if value not in choices:
                raise argparse.ArgumentTypeError(f"{value}; expected some of {', '.join(choices)}")
        return values

    return parse


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--set", choices=SETS, default="resnet50", help="shapes and layouts (default: %(default)s)")
    parser.add_argument("--shape", type=parse_shape, action="append", help="N,C,H,W or N,C, instead of a set")
    only: dict[str, Any] = {"action": "extend", "metavar": "NAME[,NAME...]"}
    parser.add_argument("--layout", type=list_of(LAYOUTS), help=f"only these of {', '.join(LAYOUTS)}", **only)
    parser.add_argument("--op", type=list_of(OPERATIONS), help=f"only these of {', '.join(OPERATIONS)}", **only)
    parser.add_argument("--dtype", choices=TOLERANCES, default="float32")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peer", type=list_of(PEERS), help=f"only these of {', '.join(PEERS)}", **only)
    parser.add_argument("--rounds", type=int, default=5, help="at least (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="at least, for each row (default: %(default)s)")
    parser.add_argument("--cold", action="store_true", help="tensors as they are met in a network")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--library", type=Path, default=ROOT / "build/release/exactnorm_driver.so")
    arguments = parser.parse_args()
    if arguments.rounds < 1 or arguments.threads < 1:
        parser.error("--rounds and --threads must be at least 1")
    if arguments.cold and "training+backward" in (arguments.op or OPERATIONS):
        parser.error("--cold: no single call is training+backward; expected --op training,inference,backward")
    return arguments


def chosen_cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """The operations of one problem come one after the other."""
    if arguments.shape:
        pairs = [(shape, layout) for shape in arguments.shape for layout in LAYOUTS if len(layout) == len(shape)]
    else:
        pairs = SETS[arguments.set]
        if arguments.layout:
            shapes = dict.fromkeys(shape for shape, _ in pairs)
            pairs = [(shape, layout) for shape in shapes for layout in LAYOUTS if len(layout) == len(shape)]
    for shape, layout in pairs:
        if arguments.layout and layout not in arguments.layout:
            continue
        for operation in arguments.op or OPERATIONS:
            yield Case(operation, layout, shape, arguments.dtype, arguments.threads)


def check(who: str, case: Case, answers: dict[str, Any], results: dict[str, Any]) -> float:
    error = largest_error(answers, results)
    tolerance = TOLERANCES[case.dtype]
    if not error <= tolerance:
        raise WrongAnswer(
            f"{who}: {case.operation} {case.layout} {case.shape} {case.dtype}: the largest error is {error:.2g} "
            f"of the largest value; expected at most {tolerance:.0e}"
        )
    return error


def prepare_peer(peer: Any, problem: Problem, tensors: Tensors) -> tuple[Any, dict[str, Any]]:
    try:
        prepared = peer.prepare(problem, tensors)
        return prepared, prepared.results()
    except Exception as exception:
        # A compiler that is missing, or an operator that refuses the input: there are many reasons.
        raise Unavailable(f"{type(exception).__name__}: {str(exception).splitlines()[0]}") from exception


class Competition:
    """Exactnorm and a peer, ready for one case."""

    def __init__(self, library: Library, peer: Any, problem: Problem) -> None:
        self.tensors = Tensors(problem, peer.memory)
        self._problem = problem
        self._peer = peer
        self._prepared, self._peer_results = prepare_peer(peer, problem, self.tensors)
        ours, ours_allocating = (
            ExactnormCalls(library, problem, self.tensors, peer.epsilon, peer.tracks_running_statistics)
            for _ in range(2)
        )
        self.calls: dict[str, Call] = {
            "exactnorm": ours.into_outputs(),
            "exactnorm_allocating": ours_allocating.into_fresh_outputs(),
            "peer": self._prepared.call,
        }

    def check(self) -> dict[str, float]:
        """The largest errors."""
        case = self._problem.case
        answers = self._problem.answers(case.operation, self._peer.epsilon)
        errors = {"peer": check(self._peer.name, case, answers, self._peer_results)}
        del self._peer_results
        self.calls["exactnorm"]()
        errors["exactnorm"] = check("Exactnorm", case, answers, self.tensors.results())
        fresh = map(self._peer.memory.as_array, cast(list[Any], self.calls["exactnorm_allocating"]()))
        check("Exactnorm into fresh outputs", case, answers, dict(zip(OUTPUTS[case.operation], fresh, strict=True)))
        return errors

    def times(self, rounds: int, seconds: float) -> dict[str, Times]:
        return time_in_turn(self.calls, rounds, seconds)

    def cold_times(
        self, before: Competition, module: Path, rounds: int, seconds: float
    ) -> tuple[dict[str, Times], dict[str, Times]]:
        cold = ColdTensors(module, self.tensors)
        competitors = {name: ColdCompetitor(call, before.calls[name]) for name, call in self.calls.items()}
        return time_cold_in_turn(competitors, cold.prepare, cold.read, rounds, seconds)


def measure(library: Library, peer: Any, problem: Problem, effort: tuple[int, float], is_cold: bool) -> dict[str, Any]:
    case = problem.case
    competition = Competition(library, peer, problem)
    errors = competition.check()
    readings: dict[str, Times] = {}
    if is_cold:
        layer = Competition(library, peer, Problem(layer_before(case)))
        times, readings = competition.cold_times(layer, library.cold_module, *effort)
    else:
        times = competition.times(*effort)
    return {
        "op": case.operation,
        "layout": case.layout,
        "shape": list(case.shape),
        "dtype": case.dtype,
        "bytes_per_tensor": case.bytes_per_tensor,
        "threads": case.threads,
        "cold": is_cold,
        "target": library.information["targets"]["active"],
        "exactnorm_version": library.information["version"],
        "rounds": len(times["peer"].milliseconds),
        "peer": description(peer),
        "milliseconds": {name: of.median for name, of in times.items()},
        "milliseconds_reading": {name: of.median for name, of in readings.items()},
        "quartiles": {name: of.quartiles for name, of in times.items()},
        "ratio_to_peer": median_ratio(times["peer"], times["exactnorm"]),
        "ratio_to_peer_allocating": median_ratio(times["peer"], times["exactnorm_allocating"]),
        "largest_error": errors,
    }


def processor() -> str:
    """What /proc/cpuinfo calls it; platform.processor() is empty on most Linux systems."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


class Benchmark:
    """All rows, and what happened on the way to them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._unavailable: dict[str, str] = {}
        self.found_wrong_answers = False
        # PyTorch comes first: what it was built with then serves the library's threads as well, so that there
        # is one pool of them.
        self._peers = self._load_peers(arguments.peer or list(PEERS))
        self._library = Library(arguments.library)

    def _load_peers(self, names: list[str]) -> dict[str, Any]:
        peers = {}
        for name in names:
            try:
                peers[name] = PEERS[name]()
            except ImportError as exception:
                self._unavailable[name] = str(exception)
        return peers

    def rows(self) -> Iterator[dict[str, Any]]:
        problem = None
        for case in chosen_cases(self._arguments):
            if problem is None or (problem.case.layout, problem.case.shape) != (case.layout, case.shape):
                problem = Problem(case)
            problem.case = case
            for name in list(self._peers):
                if self._peers[name].supports(case):
                    yield from self._row(name, problem)

    def header(self) -> dict[str, Any]:
        """Complete after the last row."""
        return {
            "program": "python_peers",
            "exactnorm_version": self._library.information["version"],
            "target": self._library.information["targets"]["active"],
            "cpu": processor(),
            "python": platform.python_version(),
            "threads": self._arguments.threads,
            "least_rounds": self._arguments.rounds,
            "least_seconds_per_row": self._arguments.seconds,
            "cold": self._arguments.cold,
            "peers": [description(peer) for peer in self._peers.values()],
            "unavailable": self._unavailable,
        }

    def _row(self, name: str, problem: Problem) -> Iterator[dict[str, Any]]:
        try:
            effort = (self._arguments.rounds, self._arguments.seconds)
            yield measure(self._library, self._peers[name], problem, effort, self._arguments.cold)
        except WrongAnswer as wrong:
            print(f"wrong answer: {wrong}", file=sys.stderr)
            self.found_wrong_answers = True
        except Unavailable as reason:
            print(f"{name} does not run here: {reason}", file=sys.stderr)
            self._unavailable[name] = str(reason)
            del self._peers[name]


def print_table(rows: Iterator[dict[str, Any]]) -> None:
    print(f"{'op':18} {'layout':7} {'shape':18} {'peer':34} {'ms':>9} {'alloc. ms':>9} {'peer ms':>9} {'ratio':>7} "
          f"{'alloc.':>7}")  # fmt: skip
    for row in rows:
        peer = row["peer"]
        times = row["milliseconds"]
        print(
            f"{row['op']:18} {row['layout']:7} {','.join(map(str, row['shape'])):18} "
            f"{peer['name'] + ' ' + peer['version'] + ' ' + peer['variant'].split(',')[0]:34.34} "
            f"{times['exactnorm']:9.4g} {times['exactnorm_allocating']:9.4g} {times['peer']:9.4g} "
            f"{row['ratio_to_peer']:7.2f} {row['ratio_to_peer_allocating']:7.2f}",
            flush=True,
        )


def report(benchmark: Any, as_json: bool, table: Callable[[Iterator[dict[str, Any]]], None]) -> int:
    """Runs a benchmark and prints its rows and its header; returns the exit status."""
    if as_json:
        rows = list(benchmark.rows())
        print(json.dumps({"header": benchmark.header(), "rows": rows}, indent=1))
    else:
        table(benchmark.rows())
        for name, value in benchmark.header().items():
            print(f"{name}: {value}")
    return 1 if benchmark.found_wrong_answers else 0


def main() -> int:
    arguments = parse_arguments()
    return report(Benchmark(arguments), arguments.json, print_table)


if __name__ == "__main__":
    sys.exit(main())

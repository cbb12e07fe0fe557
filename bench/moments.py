#!/usr/bin/env python3
"""The mean and variance of a mapped float32 file: exactnorm.Moments beside xsum, bitrep and NumPy, one thread.

Usage: .venv-bench/bin/python bench/moments.py --shape 2097152,1 --shape 32768,64

Shapes are (N, C), channels last in memory. The file has been read before: what is timed comes from the page cache.
Every answer is compared with exact rationals first: Moments has to give their values, rounded once, bit for bit; the
others are allowed what their sums round. A row with a wrong answer is not printed, and the exit code is 1. Then
Exactnorm and a peer are timed in turn; a ratio is the median over rounds of peer / exactnorm.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from moments_peers import PEERS, Exactnorm, Moments, exact_moments
from python_peers import WrongAnswer, list_of, parse_shape, processor, report
from turns import median_ratio, time_in_turn


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--shape", type=parse_shape, action="append", required=True, help="N,C; may be repeated")
    parser.add_argument("--peer", type=list_of(PEERS), default=list(PEERS), help=f"only these of {', '.join(PEERS)}")
    parser.add_argument("--rounds", type=int, default=5, help="at least (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=0.5, help="at least, for each row (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if any(len(shape) != 2 for shape in arguments.shape):
        parser.error("--shape: expected N,C")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    return arguments


def mapped_file(folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Normal numbers; no channel is like another."""
    random = np.random.default_rng(2015)
    values = random.standard_normal(shape, np.float32) + (np.arange(shape[1]) % 13 * 0.17).astype(np.float32)
    path = folder / f"{'_'.join(map(str, shape))}.npy"
    np.save(path, values)
    x = np.load(path, mmap_mode="r")
    # Reads every page, so that all of them are mapped.
    x.max()
    return x


def check(who: Any, right: Moments, found: Moments) -> float:
    """The largest error, of the largest right value."""
    pairs = zip(right, found, strict=True)
    error = float(max(np.max(np.abs(result - answer)) / np.max(np.abs(answer)) for answer, result in pairs))
    if not error <= who.tolerance:
        raise WrongAnswer(
            f"{who.name} {who.variant}: the largest error is {error:.2g} of the largest value; "
            f"expected at most {who.tolerance:.0e}"
        )
    return error


def description(peer: Any) -> dict[str, Any]:
    fields = {field: getattr(peer, field) for field in ("name", "version", "variant", "isa")}
    return fields | {"returns_new_arrays": False}


def measure(ours: Exactnorm, peer: Any, x: np.ndarray, right: Moments, effort: tuple[int, float]) -> dict[str, Any]:
    errors = {"exactnorm": check(ours, right, ours.moments(x)), "peer": check(peer, right, peer.moments(x))}
    times = time_in_turn({"exactnorm": lambda: ours.moments(x), "peer": lambda: peer.moments(x)}, *effort)
    milliseconds = {name: of.median for name, of in times.items()}
    return {
        "op": "moments",
        "layout": "nc",
        "shape": list(x.shape),
        "dtype": x.dtype.name,
        "bytes_per_tensor": x.nbytes,
        "threads": 1,
        "target": ours.isa,
        "exactnorm_version": ours.version,
        "rounds": len(times["peer"].milliseconds),
        "peer": description(peer),
        "milliseconds": milliseconds,
        "quartiles": {name: of.quartiles for name, of in times.items()},
        "gigabytes_per_second": {name: x.nbytes / of / 1e6 for name, of in milliseconds.items()},
        "ratio_to_peer": median_ratio(times["peer"], times["exactnorm"]),
        "largest_error": errors,
    }


class Benchmark:
    """All rows, and what happened on the way to them."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self.found_wrong_answers = False
        self._ours = Exactnorm()
        self._peers: list[Any] = []
        for name in arguments.peer:
            try:
                self._peers.append(PEERS[name]())
            except ImportError as exception:
                print(f"{name} does not run here: {exception}", file=sys.stderr)

    def header(self) -> dict[str, Any]:
        return {
            "program": "moments",
            "exactnorm_version": self._ours.version,
            "target": self._ours.isa,
            "cpu": processor(),
            "threads": 1,
            "peers": [description(peer) for peer in self._peers],
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        effort = (self._arguments.rounds, self._arguments.seconds)
        with tempfile.TemporaryDirectory() as folder:
            for shape in self._arguments.shape:
                x = mapped_file(Path(folder), shape)
                right = exact_moments(x)
                for peer in self._peers:
                    try:
                        yield measure(self._ours, peer, x, right, effort)
                    except WrongAnswer as wrong:
                        print(f"wrong answer: {wrong}", file=sys.stderr)
                        self.found_wrong_answers = True


def print_table(rows: Iterator[dict[str, Any]]) -> None:
    print(f"{'shape':14} {'peer':40} {'ms':>9} {'GB/s':>7} {'peer ms':>9} {'GB/s':>7} {'ratio':>7}")
    for row in rows:
        peer, times, speeds = row["peer"], row["milliseconds"], row["gigabytes_per_second"]
        print(
            f"{','.join(map(str, row['shape'])):14} "
            f"{peer['name'] + ' ' + peer['version'] + ' ' + peer['variant']:40.40} "
            f"{times['exactnorm']:9.4g} {speeds['exactnorm']:7.3g} {times['peer']:9.4g} {speeds['peer']:7.3g} "
            f"{row['ratio_to_peer']:7.2f}",
            flush=True,
        )


def main() -> int:
    arguments = parse_arguments()
    return report(Benchmark(arguments), arguments.json, print_table)


if __name__ == "__main__":
    sys.exit(main())

"""What the library wants to be, and whether the measured rows say that it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from report_plan import NETWORKS
from report_results import (
    Results,
    Row,
    beside_fastest,
    geometric_mean,
    is_in_cache,
    is_large,
    number,
    peer_text,
    ratio_text,
    ratios,
    shape_text,
)

TRAINING_STEP = ["training", "backward"]
# Microseconds.
SMALL_CALLS = {"training": 1.5, "inference": 0.5, "backward": 2.5}


@dataclass(frozen=True)
class Verdict:
    measured: str
    is_met: bool | None = None

    @property
    def text(self) -> str:
        return {True: "met", False: "missed", None: "-"}[self.is_met]


NOT_MEASURED = Verdict("not measured")


@dataclass(frozen=True)
class Goal:
    work: str
    against: str
    goal: str
    judge: Callable[[Results], Verdict]


def onednn_rows(results: Results, subject: str, **wanted: Any) -> list[Row]:
    """There are several builds of oneDNN; each row is beside the one that is fastest there."""
    return beside_fastest(results.peer_rows(subject, **wanted))


def blocked_rows(results: Results, subject: str = "blocked") -> list[Row]:
    """For each operation and shape the better of our plain layouts beside the peer's blocked one."""
    best: dict[tuple[str, tuple[int, ...]], Row] = {}
    for row in beside_fastest(results.peer_rows(subject)):
        key = (row["op"], tuple(row["shape"]))
        if key not in best or row["ratio_to_peer"] > best[key]["ratio_to_peer"]:
            best[key] = row
    return list(best.values())


def _all_of(parts: dict[str, Verdict]) -> Verdict:
    """Met if all are; where one was not measured, the others can only miss the goal."""
    verdicts = [verdict.is_met for verdict in parts.values()]
    text = "; ".join(f"{name} {verdict.measured}" for name, verdict in parts.items())
    return Verdict(text, False if False in verdicts else None if None in verdicts else True)


def _mean_at_least(rows: list[Row], least: float) -> Verdict:
    if not rows:
        return NOT_MEASURED
    mean = geometric_mean(ratios(rows))
    return Verdict(ratio_text(mean), mean >= least)


def _onednn_nchw(results: Results) -> Verdict:
    return _mean_at_least(onednn_rows(results, "onednn", op=TRAINING_STEP, layout="nchw"), 2.5)


def _is_of_densenet(row: Row) -> bool:
    return ",".join(map(str, row["shape"])) in NETWORKS["DenseNet-121"]


def _onednn_nhwc(operation: str, least: dict[str, float]) -> Callable[[Results], Verdict]:
    """What is wanted depends on the instruction set."""

    def judge(results: Results) -> Verdict:
        rows = onednn_rows(results, "onednn", op=operation, layout="nhwc")
        networks = onednn_rows(results, "networks_warm", op=operation, layout="nhwc")
        found = _mean_at_least([*rows, *filter(_is_of_densenet, networks)], least.get(results.instruction_set, 0))
        text = f"{found.measured} with {results.instruction_set}"
        return Verdict(text, found.is_met) if results.instruction_set in least else Verdict(text)

    return judge


def _onednn_nc(operation: str, least: float) -> Callable[[Results], Verdict]:
    def judge(results: Results) -> Verdict:
        subjects = ("dense", "networks_warm")
        rows = [row for subject in subjects for row in onednn_rows(results, subject, op=operation, layout="nc")]
        return _mean_at_least(beside_fastest(rows), least)

    return judge


def _kernels(results: Results) -> Verdict:
    return _all_of(
        {
            layout: _no_row_slower(results.peer_rows("kernels_warm", op=TRAINING_STEP, layout=layout), 1.3)
            for layout in ("nchw", "nhwc", "nc")
        }
    )


def _baseline(subject: str, least: float) -> Callable[[Results], Verdict]:
    return lambda results: _mean_at_least(results.peer_rows(subject), least)


def _copy_in_cache(results: Results) -> Verdict:
    return _at_most(results.rows("networks_warm", is_in_cache, op=TRAINING_STEP), 2.5)


def _blocked(results: Results) -> Verdict:
    return _mean_at_least(blocked_rows(results), 1.1)


def _no_row_slower(rows: list[Row], least_mean: float = 1) -> Verdict:
    if not rows:
        return NOT_MEASURED
    mean, slowest = geometric_mean(ratios(rows)), min(ratios(rows))
    return Verdict(f"{ratio_text(mean)}, slowest row {ratio_text(slowest)}", mean >= least_mean and slowest >= 1)


def _inference(results: Results) -> Verdict:
    subjects = {"nchw": "onednn", "nhwc": "onednn", "nc": "dense"}
    return _all_of(
        {
            layout: _no_row_slower(onednn_rows(results, subject, op="inference", layout=layout))
            for layout, subject in subjects.items()
        }
    )


def _beside_allocating_peer(rows: list[Row], least: float) -> Verdict:
    verdict = _mean_at_least(rows, least)
    if not rows:
        return verdict
    allocating = geometric_mean(ratios(rows, "ratio_to_peer_allocating"))
    return Verdict(f"{verdict.measured} ({ratio_text(allocating)} if ours allocates too)", verdict.is_met)


def _pytorch_training_step(results: Results) -> Verdict:
    return _all_of(
        {
            layout: _beside_allocating_peer(results.rows("pytorch", op="training+backward", layout=layout), least)
            for layout, least in [("nchw", 3), ("nhwc", 2)]
        }
    )


def _notebook(peer: str, least: float) -> Callable[[Results], Verdict]:
    def judge(results: Results) -> Verdict:
        rows = results.rows("notebook", lambda row: row["peer"]["name"] == peer)
        return _all_of(
            {
                name: _beside_allocating_peer([row for row in rows if row["layout"] == layout], least)
                for layout, name in [("hwcn", "`(h, w, c, m)`"), ("cn", "`(hidden, m)`")]
            }
        )

    return judge


def _at_most(rows: list[Row], most: float) -> Verdict:
    """Of the limit's time, by every row."""
    if not rows:
        return NOT_MEASURED
    worst = max(ratios(rows, "ratio_to_limit"))
    mean = geometric_mean(ratios(rows, "ratio_to_limit"))
    return Verdict(f"{ratio_text(worst)} at worst, {ratio_text(mean)} in the mean", worst <= most)


def _limit(operations: list[str], layouts: list[str], most: float) -> Callable[[Results], Verdict]:
    def judge(results: Results) -> Verdict:
        rows = [
            row
            for subject in ("onednn", "sizes")
            for row in results.rows(
                subject, is_large, op=operations, layout=layouts, threads=results.all_threads, dtype="float32"
            )
        ]
        return _at_most(rows, most)

    return judge


def rows_beside_best_peer(results: Results) -> list[Row]:
    """For each operation, layout and shape, warm or cold, the row of the peer that is fastest on that very memory."""
    subjects = (
        "onednn", "dense", "pytorch", "compile", "onnxruntime", "notebook", "dense_python",
        "networks_warm", "networks_cold", "kernels_warm", "kernels_cold",
    )  # fmt: skip
    return beside_fastest(row for subject in subjects for row in results.peer_rows(subject))


def _best_peer(results: Results) -> Verdict:
    rows = rows_beside_best_peer(results)
    if not rows:
        return NOT_MEASURED
    worst = min(rows, key=lambda row: row["ratio_to_peer"])
    slow = sum(row["ratio_to_peer"] < 1 for row in rows)
    state = ", cold" if worst.get("cold") else ""
    where = f"{worst['op']}, {worst['layout']}, {shape_text(worst['shape'])}{state}, {peer_text(worst)}"
    text = f"slowest {ratio_text(worst['ratio_to_peer'])} ({where}); {slow} of {len(rows)} below 1.0x"
    return Verdict(text, slow == 0)


def _moments(results: Results) -> Verdict:
    rows = results.rows("moments")
    if not rows:
        return NOT_MEASURED
    speed = min(row["gigabytes_per_second"]["exactnorm"] for row in rows)
    closest = min(rows, key=lambda row: row["ratio_to_peer"])
    ratio = closest["ratio_to_peer"]
    text = f"{number(speed)} GB/s; {ratio_text(ratio)} of the nearest, {peer_text(closest)}"
    return Verdict(text, speed >= 5 and ratio > 1)


def _layers(results: Results, op: str, **wanted: Any) -> list[Row]:
    return results.rows("layers", op=op, **wanted)


def _layer_beside_bn(op: str, most: float) -> Callable[[Results], Verdict]:
    def judge(results: Results) -> Verdict:
        rows = _layers(results, op, dtype="float32")
        if not rows:
            return NOT_MEASURED
        found = ratios(rows, "ratio_to_bn_alone")
        return Verdict(f"{max(found):.2f} at worst, {geometric_mean(found):.2f} in the mean", max(found) <= most)

    return judge


def _half_types_beside_float32(results: Results) -> Verdict:
    """On tensors of over 64 MB of float32."""
    rows = _layers(results, "bn")
    large = [row for row in rows if row["dtype"] == "float32" and row["bytes_per_tensor"] > 64e6]
    found = [
        single["milliseconds"]["exactnorm"] / row["milliseconds"]["exactnorm"]
        for single in large
        for row in rows
        if row["dtype"] != "float32" and (row["shape"], row["layout"]) == (single["shape"], single["layout"])
    ]
    if not found:
        return NOT_MEASURED
    return Verdict(f"{ratio_text(geometric_mean(found))}, slowest {ratio_text(min(found))}", min(found) >= 1.5)


def _small(results: Results) -> Verdict:
    rows = results.rows("small")
    if not rows:
        return NOT_MEASURED
    microseconds = {row["op"]: row["milliseconds"]["exactnorm"] * 1000 for row in rows}
    text = ", ".join(f"{operation} {number(value)}" for operation, value in microseconds.items())
    return Verdict(f"{text} microseconds", all(value <= SMALL_CALLS[name] for name, value in microseconds.items()))


GOALS = [
    Goal(
        "training and backward, layers of networks up to 8 MB, nchw, nhwc, nc", "PyTorch's kernels alone",
        "1.3x, and no row slower", _kernels,
    ),
    Goal("the same", "the build before", "1.8x", _baseline("baseline", 1.8)),
    Goal("the same", "a copy in cache", "at most 2.5x its time", _copy_in_cache),
    Goal(
        "training, nhwc, ResNet-50 and DenseNet-121", "oneDNN, nhwc", "2.3x with AVX2, 1.5x with AVX-512",
        _onednn_nhwc("training", {"AVX2": 2.3, "AVX-512": 1.5}),
    ),
    Goal(
        "backward, nhwc, ResNet-50 and DenseNet-121", "oneDNN, nhwc", "1.4x with AVX2, 1.2x with AVX-512",
        _onednn_nhwc("backward", {"AVX2": 1.4, "AVX-512": 1.2}),
    ),
    Goal("training and backward, nchw", "oneDNN, nchw", "2.5x", _onednn_nchw),
    Goal("training, nc", "oneDNN, nc", "1.5x", _onednn_nc("training", 1.5)),
    Goal("backward, nc", "oneDNN, nc", "1.2x", _onednn_nc("backward", 1.2)),
    Goal("training and backward, nchw or nhwc, the better", "oneDNN, its blocked layout", "1.1x", _blocked),
    Goal("inference, each layout", "oneDNN, the same layout", "1.0x, and no row slower", _inference),
    Goal(
        "training+backward as users call it", "PyTorch, contiguous and channels last", "3x and 2x",
        _pytorch_training_step,
    ),
    Goal("`(h, w, c, m)` and `(hidden, m)`", "PyTorch on that memory", "15x", _notebook("PyTorch", 15)),
    Goal("`(h, w, c, m)` and `(hidden, m)`", "the notebook's NumPy", "10x", _notebook("NumPy", 10)),
    Goal("training, nchw, over 64 MB", "a copy", "at most 1.4x its time", _limit(["training"], ["nchw"], 1.4)),
    Goal("training, nhwc, over 64 MB", "a copy", "at most 1.9x its time", _limit(["training"], ["nhwc"], 1.9)),
    Goal(
        "backward, nchw, over 64 MB", "two reads and a write", "at most 1.35x its time",
        _limit(["backward"], ["nchw"], 1.35),
    ),
    Goal(
        "inference, over 64 MB", "a copy", "at most 1.05x its time", _limit(["inference"], ["nchw", "nhwc"], 1.05)
    ),
    Goal("training and backward, over 64 MB", "the build before", "not slower", _baseline("baseline_large", 1)),
    Goal("every shape and layout below, warm and cold", "the fastest peer there", "no row slower", _best_peer),
    Goal(
        "bn of bfloat16 and float16, training step", "PyTorch's 16-bit functions", "no row slower",
        lambda results: _no_row_slower(_layers(results, "bn", dtype=["bfloat16", "float16"])),
    ),
    Goal("the same, over 64 MB of float32", "float32", "1.5x", _half_types_beside_float32),
    Goal(
        "bn+relu, bn+add+relu, training step", "PyTorch's functions", "2x",
        lambda results: _mean_at_least(results.rows("layers", op=["bn+relu", "bn+add+relu"], dtype="float32"), 2),
    ),
    Goal("bn+relu, training step", "bn alone", "at most 1.05x its time", _layer_beside_bn("bn+relu", 1.05)),
    Goal("bn+mask, half density", "bn alone", "at most 1.5x its time", _layer_beside_bn("bn+mask", 1.5)),
    Goal(
        "training+relu and backward+relu", "oneDNN, fused", "ahead",
        lambda results: _mean_at_least(onednn_rows(results, "fused_relu"), 1),
    ),
    Goal(
        "`Moments.add` of a mapped file in cache, one thread", "xsum, bitrep, NumPy", "5 GB/s, ahead of all", _moments
    ),
    Goal(
        "`(32, 64)`, nc, one thread", "the clock",
        "at most 1.5 (training), 0.5 (inference) and 2.5 (backward) microseconds a call", _small,
    ),
]  # fmt: skip

"""The tables of docs/performance.md, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from report_goals import GOALS, blocked_rows, onednn_rows
from report_results import (
    Results,
    Row,
    bytes_text,
    geometric_mean,
    is_in_cache,
    number,
    peer_allocates,
    peer_text,
    ratio_text,
    ratios,
    shape_text,
)

NOTHING = "Not measured."
PEER_SUBJECTS = [
    "onednn", "dense", "blocked", "libxsmm", "pytorch", "compile", "dense_python", "notebook", "onnxruntime",
    "networks_warm", "networks_cold", "kernels_warm", "kernels_cold", "moments",
]  # fmt: skip


def table(heads: list[str], lines: Iterable[list[str]]) -> str:
    lines = list(lines)
    if not lines:
        return NOTHING
    texts = ["| " + " | ".join(line) + " |" for line in [heads, *lines]]
    return "\n".join([texts[0], "|" + "---|" * len(heads), *texts[1:]])


ALL_ROWS: dict[str, Callable[[Row], bool]] = {"geometric mean": lambda row: True}
BY_CACHE: dict[str, Callable[[Row], bool]] = {
    "geometric mean in cache": is_in_cache,
    "geometric mean out of cache": lambda row: not is_in_cache(row),
}


def _by_shape(
    rows: list[Row],
    column: Callable[[Row], str],
    cell: Callable[[Row], str],
    field: str = "ratio_to_peer",
    means: dict[str, Callable[[Row], bool]] = ALL_ROWS,
) -> str:
    """A line for each shape, in the order of the rows, and the columns' geometric means below."""
    columns: dict[str, dict[tuple[int, ...], Row]] = {}
    for row in rows:
        columns.setdefault(column(row), {})[tuple(row["shape"])] = row
    shapes = list(dict.fromkeys(tuple(row["shape"]) for row in rows))
    lines = [
        [shape_text(list(shape)), *(cell(found[shape]) if shape in found else "" for found in columns.values())]
        for shape in shapes
    ]
    if len(shapes) > 1:
        for name, belongs in means.items():
            groups = [ratios(filter(belongs, found.values()), field) for found in columns.values()]
            if any(groups):
                lines.append([name, *(ratio_text(geometric_mean(group)) if group else "" for group in groups)])
    return table(["shape", *columns], lines)


def _warm_and_cold(warm: list[Row], cold: list[Row]) -> str:
    """A line for each shape, with the ratios of both states of its tensors."""
    states: list[dict[tuple[str, ...], Row]] = []
    for rows in (warm, cold):
        states.append({(shape_text(row["shape"]), _operation_and_layout(row)): row for row in rows})
    keys = list(dict.fromkeys([*states[0], *states[1]]))
    shapes, columns = (list(dict.fromkeys(key[part] for key in keys)) for part in (0, 1))

    def cell(shape: str, column: str) -> str:
        found = [state.get((shape, column)) for state in states]
        texts = [ratio_text(row["ratio_to_peer"]) if row else "-" for row in found]
        return " / ".join(texts) if any(found) else ""

    def mean(column: str) -> str:
        means = []
        for state in states:
            of_column = ratios(row for key, row in state.items() if key[1] == column)
            means.append(ratio_text(geometric_mean(of_column)) if of_column else "-")
        return " / ".join(means)

    lines = [[shape, *(cell(shape, column) for column in columns)] for shape in shapes]
    if lines:
        lines.append(["geometric mean", *map(mean, columns)])
    return table(["shape", *columns], lines)


def networks(results: Results) -> str:
    return _warm_and_cold(onednn_rows(results, "networks_warm"), onednn_rows(results, "networks_cold"))


def kernels(results: Results) -> str:
    return _warm_and_cold(results.peer_rows("kernels_warm"), results.peer_rows("kernels_cold"))


def baseline(results: Results) -> str:
    rows = results.peer_rows("baseline") + results.peer_rows("baseline_large")
    return _by_shape(rows, _operation_and_layout, _ratio_and_time)


def bytes_moved(results: Results) -> str:
    """Speeds in cache and out of it, which no mean should mix."""
    rows = [
        row
        for subject in ("onednn", "networks_warm", "sizes")
        for row in results.rows(subject, threads=results.all_threads, layout=["nchw", "nhwc"])
    ]

    def cells(rows: list[Row]) -> list[str]:
        if not rows:
            return ["", "", ""]
        means = [
            geometric_mean(row["bytes_moved"] / row["milliseconds"][who] / 1e6 for row in rows)
            for who in ("exactnorm", "limit")
        ]
        return [*map(number, means), ratio_text(geometric_mean(ratios(rows, "ratio_to_limit")))]

    lines = []
    for column in dict.fromkeys(map(_operation_and_layout, rows)):
        of_column = [row for row in rows if _operation_and_layout(row) == column]
        groups = ([row for row in of_column if is_in_cache(row) is inside] for inside in (True, False))
        lines.append([column, *(cell for group in groups for cell in cells(group))])
    heads = [
        f"{what}, {where} cache" for where in ("in", "out of") for what in ("GB/s", "limit's GB/s", "time / limit")
    ]
    return table(["", *heads], lines)


def _operation_and_layout(row: Row) -> str:
    return f"{row['op']}, {row['layout']}"


def _ratio_and_time(row: Row) -> str:
    return f"{ratio_text(row['ratio_to_peer'])}, {number(row['milliseconds']['exactnorm'])} ms"


def _two_ratios(row: Row) -> str:
    return f"{ratio_text(row['ratio_to_peer'])} ({ratio_text(row['ratio_to_peer_allocating'])})"


def goals(results: Results) -> str:
    verdicts = ((goal, goal.judge(results)) for goal in GOALS)
    return table(
        ["work", "against", "goal", "measured", ""],
        ([goal.work, goal.against, goal.goal, verdict.measured, verdict.text] for goal, verdict in verdicts),
    )


def onednn(results: Results) -> str:
    return _by_shape(onednn_rows(results, "onednn"), _operation_and_layout, _ratio_and_time)


def fused_relu(results: Results) -> str:
    return _by_shape(onednn_rows(results, "fused_relu"), _operation_and_layout, _ratio_and_time)


def dense(results: Results) -> str:
    return _by_shape(onednn_rows(results, "dense"), _operation_and_layout, _ratio_and_time)


def blocked(results: Results) -> str:
    return _beside_blocked(blocked_rows(results))


def libxsmm(results: Results) -> str:
    return _beside_blocked(blocked_rows(results, "libxsmm"))


def _beside_blocked(rows: list[Row]) -> str:
    return _by_shape(
        rows,
        lambda row: row["op"],
        lambda row: f"{ratio_text(row['ratio_to_peer'])}, {row['layout']}",
    )


def pytorch(results: Results) -> str:
    return _by_shape(results.peer_rows("pytorch"), _operation_and_layout, _two_ratios)


def compiled(results: Results) -> str:
    return _by_shape(results.peer_rows("compile"), _operation_and_layout, _two_ratios)


def dense_python(results: Results) -> str:
    return _by_shape(results.peer_rows("dense_python"), lambda row: row["op"], _two_ratios)


def notebook(results: Results) -> str:
    def column(row: Row) -> str:
        return f"{row['op']}, {row['layout']}, {row['peer']['name']}"

    return _by_shape(results.peer_rows("notebook"), column, _two_ratios)


def onnxruntime(results: Results) -> str:
    return _by_shape(results.peer_rows("onnxruntime"), _operation_and_layout, _ratio_and_time)


def moments(results: Results) -> str:
    def line(row: Row) -> list[str]:
        speeds = row["gigabytes_per_second"]
        cells = [number(speeds["exactnorm"]), number(speeds["peer"]), ratio_text(row["ratio_to_peer"])]
        return [shape_text(row["shape"]), peer_text(row), *cells]

    heads = ["file (N, C)", "peer", "Exactnorm, GB/s", "peer, GB/s", "ratio"]
    return table(heads, map(line, results.rows("moments")))


def layers(results: Results) -> str:
    """A line for each shape, layout and dtype, and a column for each layer."""
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in results.rows("layers"):
        key = (shape_text(row["shape"]), row["layout"], row["dtype"])
        time = number(row["milliseconds"]["exactnorm"])
        of_bn = "" if row["op"] == "bn" else f", {row['ratio_to_bn_alone']:.2f} of bn"
        lines.setdefault(key, {})[row["op"]] = f"{ratio_text(row['ratio_to_peer'])}, {time}{of_bn}"
    names = list(dict.fromkeys(row["op"] for row in results.rows("layers")))
    return table(
        ["shape", "layout", "dtype", *names],
        ([*key, *(cells.get(name, "") for name in names)] for key, cells in lines.items()),
    )


def _limits(rows: list[Row]) -> str:
    return _by_shape(
        rows, _operation_and_layout, lambda row: ratio_text(row["ratio_to_limit"]), "ratio_to_limit", BY_CACHE
    )


def limits(results: Results) -> str:
    return _limits(results.rows("onednn"))


def limits_of_other_layouts(results: Results) -> str:
    return _limits(results.rows("strided"))


def growth(results: Results) -> str:
    """A few of the sizes with all threads; the plot has the others."""
    rows = results.rows("sizes", threads=results.all_threads)
    sizes = sorted({row["bytes_per_tensor"] for row in rows})
    columns = list(dict.fromkeys((row["op"], row["layout"]) for row in rows))
    cells = {(row["bytes_per_tensor"], row["op"], row["layout"]): nanoseconds_per_element(row) for row in rows}
    lines = (
        [bytes_text(size), *(number(cells[size, *column]) if (size, *column) in cells else "" for column in columns)]
        for size in sizes[::3]
    )
    return table(["bytes of a tensor", *(", ".join(column) for column in columns)], lines)


def nanoseconds_per_element(row: Row) -> float:
    elements = row["bytes_per_tensor"] / {"float32": 4, "float64": 8}[row["dtype"]]
    return row["milliseconds"]["exactnorm"] * 1e6 / elements


def avx2(results: Results) -> str:
    return _by_shape(onednn_rows(results, "avx2"), _operation_and_layout, _ratio_and_time)


def data(results: Results) -> str:
    return _by_shape(
        onednn_rows(results, "relu") + onednn_rows(results, "wide"),
        lambda row: f"{row['data']}, {row['op']}, {row['layout']}",
        _ratio_and_time,
    )


def best_and_worst(results: Results) -> str:
    """One line for each peer; the blocked layout counts as a peer of its own."""
    by_peer: dict[str, list[Row]] = {}
    for subject in PEER_SUBJECTS:
        for row in results.peer_rows(subject):
            blocked_peer = ", blocked" if subject == "blocked" else ""
            by_peer.setdefault(peer_text(row) + blocked_peer, []).append(row)

    def extreme(row: Row) -> str:
        state = ", cold" if row.get("cold") else ""
        return f"{ratio_text(row['ratio_to_peer'])}: {row['op']}, {row['layout']}, {shape_text(row['shape'])}{state}"

    def line(peer: str, rows: list[Row]) -> list[str]:
        ordered = sorted(rows, key=lambda row: row["ratio_to_peer"])
        mean = ratio_text(geometric_mean(ratios(rows)))
        if all(map(peer_allocates, rows)):
            mean += f" ({ratio_text(geometric_mean(ratios(rows, 'ratio_to_peer_allocating')))})"
        return [peer, str(len(rows)), mean, extreme(ordered[-1]), extreme(ordered[0])]

    heads = ["peer", "rows", "geometric mean", "best", "worst"]
    return table(heads, (line(peer, rows) for peer, rows in by_peer.items()))


def versions(results: Results) -> str:
    """Whatever took part, and the instruction set that it says it uses."""
    found: dict[str, None] = {}
    for subject in PEER_SUBJECTS:
        for row in results.peer_rows(subject):
            isa = row["peer"]["isa"]
            found[peer_text(row) + (f": {isa}" if isa else "")] = None
    return "\n".join(f"- {text}" for text in found) or NOTHING


def remarks(results: Results) -> str:
    texts = dict.fromkeys(text for run in results.runs for text in run["remarks"])
    return "\n".join(f"- {text}" for text in texts) or "None."

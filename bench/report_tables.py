"""The tables of docs/performance.md, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from report_goals import GOALS, blocked_rows, onednn_rows
from report_results import (
    Results,
    Row,
    bytes_text,
    geometric_mean,
    number,
    peer_allocates,
    peer_text,
    ratio_text,
    ratios,
    shape_text,
)

NOTHING = "Not measured."
PEER_SUBJECTS = ["onednn", "dense", "blocked", "pytorch", "compile", "dense_python", "notebook", "onnxruntime"]


def table(heads: list[str], lines: Iterable[list[str]]) -> str:
    lines = list(lines)
    if not lines:
        return NOTHING
    texts = ["| " + " | ".join(line) + " |" for line in [heads, *lines]]
    return "\n".join([texts[0], "|" + "---|" * len(heads), *texts[1:]])


def _by_shape(
    rows: list[Row], column: Callable[[Row], str], cell: Callable[[Row], str], field: str = "ratio_to_peer"
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
        means = (geometric_mean(ratios(found.values(), field)) for found in columns.values())
        lines.append(["geometric mean", *map(ratio_text, means)])
    return table(["shape", *columns], lines)


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


def dense(results: Results) -> str:
    return _by_shape(onednn_rows(results, "dense"), _operation_and_layout, _ratio_and_time)


def blocked(results: Results) -> str:
    return _by_shape(
        blocked_rows(results),
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


def _limits(rows: list[Row]) -> str:
    return _by_shape(rows, _operation_and_layout, lambda row: ratio_text(row["ratio_to_limit"]), "ratio_to_limit")


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
            blocked_peer = ", nChw16c" if subject == "blocked" else ""
            by_peer.setdefault(peer_text(row) + blocked_peer, []).append(row)

    def extreme(row: Row) -> str:
        return f"{ratio_text(row['ratio_to_peer'])}: {row['op']}, {row['layout']}, {shape_text(row['shape'])}"

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

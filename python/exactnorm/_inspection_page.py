"""The page of an inspection: one HTML file with its style and pictures, for any width, dark and light."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from exactnorm._fold_report import FoldedNorm
from exactnorm._histogram import Histogram
from exactnorm._surds import Float64
from exactnorm._tables import text_of_largest, text_of_range

if TYPE_CHECKING:
    from exactnorm._inspection import InspectedNorm, Inspection

# Bars that a picture has at most; a bar of several channels shows the one that is farthest from the line.
_most_bars = 96
_bar_height = 60.0
# Between the bars of layers and channels, by their width.
_gap = 0.15

_style = """
:root { color-scheme: light dark; --ink: #1c2024; --dim: #5a636c; --paper: #ffffff; --card: #f5f7f9; --line: #d3d9df;
  --bar: #0072b2; --after: #00845f; --alert: #b3400a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --dim: #a0aab4; --paper: #14171a; --card: #1d2226; --line: #39414a;
  --bar: #56b4e9; --after: #35c79b; --alert: #ff9d5c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 100rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 1.6rem 0 .5rem; }
h3 { font: 600 1rem/1.3 ui-monospace, monospace; margin: 0; overflow-wrap: anywhere; }
p { margin: .3rem 0; max-width: 48rem; }
.dim, figcaption, .ends { color: var(--dim); font-size: .85rem; }
.alert { color: var(--alert); font-weight: 600; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .4rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; white-space: nowrap; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 9rem; max-width: 24rem; }
td:nth-child(2) { white-space: normal; min-width: 11rem; }
tr:last-child td { border-bottom: 0; }
thead th { background: var(--card); }
a { color: var(--bar); }
.cards { display: grid; align-items: start; gap: .8rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 23rem), 1fr)); }
article { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .7rem .8rem; min-width: 0; }
figure { margin: .6rem 0 0; }
figure svg { display: block; width: 100%; height: 3.4rem; border-bottom: 1px solid var(--line); }
.layers svg { height: 7rem; }
.ends { display: flex; justify-content: space-between; gap: .5rem; }
.zero { fill: none; stroke: var(--line); vector-effect: non-scaling-stroke; }
ul { margin: .5rem 0 0; padding-left: 1.1rem; font-size: .9rem; }
"""


def page_of(inspection: Inspection) -> str:
    norms = list(inspection.norms.values())
    title = escape(inspection.title)
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>Batch normalization of {title}</title>",
        f"<style>{_style}</style></head><body>",
        f"<h1>Batch normalization of {title}</h1>",
        *_summary(inspection, norms),
        *_overview(norms),
        "<h2>All layers</h2>",
        *_table(norms),
        "<h2>Layer by layer</h2>",
        '<p class="dim">Histograms count the values of all channels; heights are square roots of counts, so that few values are seen beside many. '
        "In the lower pictures each bar is a channel, or the farthest one of several.</p>",
        '<section class="cards">',
        *(_card(place, norm) for place, norm in enumerate(norms)),
        "</section>",
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _summary(inspection: Inspection, norms: list[InspectedNorm]) -> Iterable[str]:
    channels = sum(norm.channels for norm in norms)
    data = f"{_counted(inspection.batches, 'batch', 'batches')} of data" if inspection.batches else "no data: parameters alone"
    yield f'<p>{_counted(len(norms), "normalization")} with {_counted(channels, "channel")}; {data}.</p>'
    noted = [norm for norm in norms if norm.findings]
    if not norms:
        yield "<p>There is nothing to look at.</p>"
    elif noted:
        yield f'<p><span class="alert">{_counted(len(noted), "layer")}</span> with something to look at, named in the table.</p>'
    else:
        yield "<p>Nothing unusual was found.</p>"
    if inspection.folds is not None:
        report = inspection.folds
        text = f"{len(report.folded)} of {len(report.folded) + len(report.refused)} can be folded into the layers around them"
        if report.difference is not None:
            text += f"; the outputs differ by {report.difference:.2g} of the largest then"
        yield f"<p>{text}.</p>"
    if inspection.untouched:
        items = "".join(f"<li>{escape(name or '(the model)')}: {escape(reason)}</li>" for name, reason in inspection.untouched.items())
        yield f'<p class="alert">Not all is known:</p><ul>{items}</ul>'


def _overview(norms: list[InspectedNorm]) -> Iterable[str]:
    """The drift of each layer, in one picture."""
    drifts = [norm.drift for norm in norms]
    if not any(drift is not None and drift.size for drift in drifts):
        return
    known = [np.zeros(0) if drift is None else np.abs(drift[np.isfinite(drift)]) for drift in drifts]
    values = np.array([drift.max() if drift.size else 0.0 for drift in known])
    yield "<h2>Drift by layer</h2>"
    yield (
        "<p>The largest distance of a channel's mean over the data from its running mean, in running deviations; from the first layer "
        "to the last. Heights are square roots.</p>"
    )
    ends = (escape(norms[0].name), f"largest {values.max():.3g}", escape(norms[-1].name))
    yield f'<div class="layers">{_figure("", _bars(np.sqrt(values), "drift of each layer", "bar", _gap), ends)}</div>'


def _table(norms: list[InspectedNorm]) -> Iterable[str]:
    heads = ("Normalization", "Findings", "Channels", "Values", "Drift at most", "Deviation by running", "Scale at most", "Fold")
    yield '<div class="wide"><table><thead><tr>' + "".join(f"<th>{head}</th>" for head in heads) + "</tr></thead><tbody>"
    for place, norm in enumerate(norms):
        findings = "; ".join(f"{len(found.channels)} {found.kind}" for found in norm.findings)
        cells = (
            f'<a href="#layer{place}">{escape(norm.name or "(the model)")}</a>',
            f'<span class="alert">{findings}</span>' if findings else "",
            f"{norm.channels:,}",
            f"{norm.count:,}" if norm.count else "-",
            text_of_largest(norm.drift),
            text_of_range(norm.deviation_ratio),
            text_of_largest(norm.scale),
            _fold_cell(norm),
        )
        yield "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    yield "</tbody></table></div>"


def _fold_cell(norm: InspectedNorm) -> str:
    if norm.fold is None:
        return "-"
    return f"into {escape(norm.fold.layer)}" if isinstance(norm.fold, FoldedNorm) else "no"


def _card(place: int, norm: InspectedNorm) -> str:
    values = f", {norm.count:,} values each" if norm.count else ""
    parts = [
        f'<article id="layer{place}"><h3>{escape(norm.name or "(the model)")}</h3>',
        f'<p class="dim">{escape(norm.kind)}, {_counted(norm.channels, "channel")}{values}, epsilon {norm.epsilon:.3g}</p>',
    ]
    parts += [
        _histogram("before", norm.inputs, "bar"),
        _histogram("after", norm.outputs, "after"),
        _channels("drift, in running deviations", norm.drift, 1.0),
        _channels("scale, |gamma| / deviation", None if norm.scale is None else np.abs(norm.scale)),
        f'<p class="dim">gamma {text_of_range(norm.gamma)}; beta {text_of_range(norm.beta)}; '
        f"running deviation {text_of_range(None if norm.variance is None else np.sqrt(norm.variance))}; "
        f"pooled {text_of_range(None if norm.pooled_variance is None else np.sqrt(norm.pooled_variance))}</p>",
    ]
    if norm.findings:
        items = "".join(
            f'<li><span class="alert">{_counted(len(found.channels), "channel")} {escape(found.kind)}</span>: {escape(found.text)}</li>'
            for found in norm.findings
        )
        parts.append(f"<ul>{items}</ul>")
    if isinstance(norm.fold, FoldedNorm):
        parts.append(
            f'<p class="dim">folds into {escape(norm.fold.layer)}: bound {norm.fold.bound:.2g}, found {norm.fold.difference:.2g}</p>'
        )
    elif norm.fold is not None:
        parts.append(f'<p class="dim">does not fold: {escape(norm.fold.reason)}</p>')
    return "".join(parts) + "</article>"


def _counted(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or one + 's'}"


def _figure(caption: str, picture: str, ends: Iterable[str]) -> str:
    text = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure>{text}{picture}<div class="ends">{"".join(f"<span>{end}</span>" for end in ends)}</div></figure>'


def _histogram(caption: str, histogram: Histogram, color: str) -> str:
    counts = histogram.counts
    if histogram.not_finite:
        caption += f", without {_counted(histogram.not_finite, 'value')} not finite"
    if counts.size == 0:
        return f'<p class="dim">{caption}</p>' if histogram.not_finite else ""
    picture = _bars(np.sqrt(counts.astype(np.float64)), f"values {caption}", color)
    return _figure(caption, picture, (f"{histogram.low:.3g}", f"{histogram.high:.3g}"))


def _channels(caption: str, values: Float64 | None, least_height: float = 0.0) -> str:
    if values is None or values.size == 0:
        return ""
    finite = values[np.isfinite(values)]
    ends = ("channel 0", f"{finite.min():.3g} to {finite.max():.3g}" if finite.size else "not finite", str(values.size - 1))
    return _figure(caption, _bars(values, caption, "bar", _gap, least_height), ends)


def _bars(values: Float64, title: str, color: str, gap: float = 0.0, least_height: float = 0.0) -> str:
    """Bars from the line of 0, upwards and downwards; values that are not finite have none."""
    values = np.where(np.isfinite(values), values, 0.0)
    if values.size > _most_bars:
        groups = np.array_split(values, _most_bars)
        values = np.array([group[int(np.argmax(np.abs(group)))] for group in groups])
    high, low = max(float(values.max()), 0.0), min(float(values.min()), 0.0)
    if low < 0:
        high, low = max(high, least_height), min(low, -least_height)
    high = max(high, least_height)
    unit = _bar_height / ((high - low) or 1.0)
    zero, width = high * unit, 1 - gap
    paths = []
    for place, value in enumerate(values):
        height = abs(float(value)) * unit
        if height == 0:
            continue
        top = zero - height if value > 0 else zero
        paths.append(f"M{place} {top:.1f}h{width:g}v{max(height, 0.5):.1f}h-{width:g}z")
    line = f'<path class="zero" d="M0 {zero:.1f}h{values.size}"/>' if low < 0 else ""
    return (
        f'<svg viewBox="0 0 {values.size} {_bar_height:g}" preserveAspectRatio="none" role="img"><title>{escape(title)}</title>'
        f'<path fill="var(--{color})" d="{"".join(paths)}"/>{line}</svg>'
    )

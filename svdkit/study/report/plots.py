"""The report's plots: matplotlib's SVG, inlined, with its colours left to the page's style sheet.

Every plot is drawn in stand-in colours that no figure would choose, and those are replaced by CSS: text and axes
become `currentColor`, the grid `var(--grid)` and series i `var(--s<i>)`. So one drawing serves the dark page, the
light page and paper.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

COLOURS = 10  # after as many series, colours repeat with another dash
_TEXT, _GRID = "#010203", "#040506"
_MARKERS = "osD^vP*Xph<>"
_DASHES = ("-", "--", ":", "-.")
_RC = {
    "svg.fonttype": "none",
    "font.size": 9,
    "font.family": "sans-serif",
    "text.parse_math": False,  # a name with a $ in it is a name
    "text.color": _TEXT,
    "axes.labelcolor": _TEXT,
    "axes.edgecolor": _TEXT,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


class Point(NamedTuple):
    """A mean with its confidence interval: x, y, and the interval's two ends."""

    x: float
    y: float
    low: float
    high: float


class Mean(NamedTuple):
    """A treatment in a rank diagram: its label, mean rank (1 is best) and series (which gives its colour)."""

    label: str
    rank: float
    series: int


def curves(
    lines: Mapping[int, Sequence[Point]],
    *,
    title: str,
    xlabel: str,
    ylabel: str,
    xlimits: tuple[float, float],
    ylimits: tuple[float, float],
    log_y: bool,
) -> str:
    """SVG of quality over cost: one line a series, with its confidence band.

    Args:
        lines: the points of each series, by the series' number.
        title: what distinguishes this panel; also its accessible name, with the labels.
        xlimits: the x-axis' ends, which panels share so that they can be compared.
        ylimits: likewise.
        log_y: a logarithmic y-axis; x is always logarithmic (base 2).
    """
    from matplotlib.ticker import LogLocator

    with _figure(4.3, 3.1) as figure:
        axes = figure.subplots()
        for series, points in lines.items():
            points = sorted(points)
            x, y, low, high = zip(*points, strict=True)
            colour = _series(series)
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0, gid=f"s{series}-band")
            dash, marker = _DASHES[series // COLOURS % len(_DASHES)], _MARKERS[series % len(_MARKERS)]
            axes.plot(x, y, dash, color=colour, marker=marker, markersize=4, linewidth=1.4, gid=f"s{series}-line")
        axes.set(title=_short(title), xlabel=xlabel, ylabel=ylabel, ylim=ylimits)
        axes.set_xscale("log", base=2)
        axes.set_xlim(xlimits)
        if xlimits[1] < 8 * xlimits[0]:  # ticks between the powers, where there are few of those
            axes.xaxis.set_major_locator(LogLocator(2, (1, 1.5)))
        axes.xaxis.set_major_formatter(_plain)
        if log_y:
            axes.set_yscale("log")
            if ylimits[1] < 100 * ylimits[0]:
                axes.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
            axes.yaxis.set_major_formatter(_plain)
            axes.yaxis.set_minor_formatter("")
        return _svg(figure, f"{ylabel} against {xlabel}, {title}")


def ranks(means: Sequence[Mean], critical_difference: float, *, title: str) -> str:
    """SVG of mean ranks, each with a whisker of half the critical difference to either side.

    Two treatments differ significantly where their whiskers do not overlap (Demšar, JMLR 7, 2006, turned so that the
    names can be read). The shaded strip holds all that is not separated from the best.
    """
    means = sorted(means, key=lambda mean: mean.rank)
    with _figure(6.4, 0.75 + 0.23 * len(means)) as figure:
        axes = figure.subplots()
        best, half = means[0].rank, critical_difference / 2
        axes.axvspan(best, best + critical_difference, color=_GRID, alpha=0.6, linewidth=0)
        for row, mean in enumerate(means):
            axes.plot(
                [mean.rank - half, mean.rank + half], [row, row], color=_series(mean.series), linewidth=1.2, alpha=0.7
            )
            axes.plot(mean.rank, row, _MARKERS[mean.series % len(_MARKERS)], color=_series(mean.series), markersize=5)
        axes.set_yticks(range(len(means)), [_short(mean.label, 44) for mean in means])
        axes.set(title=_short(title), xlabel="mean rank (1 is best), ± half the critical difference")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set(ylim=(len(means) - 0.4, -0.6), xlim=(0.5, len(means) + 0.5))
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        named = "; ".join(f"{mean.label} {mean.rank:.2f}" for mean in means)
        return _svg(figure, f"Mean ranks, {title}, critical difference {critical_difference:.2f}: {named}")


def sigmas(lists: Mapping[str, Sequence[float]], *, title: str) -> str:
    """SVG of noise levels over the part of the steps, on a logarithmic axis, which leaves out the final 0."""
    with _figure(4.3, 3.1) as figure:
        axes = figure.subplots()
        for series, (name, values) in enumerate(lists.items()):
            steps = max(len(values) - 1, 1)
            positive = [(i / steps, sigma) for i, sigma in enumerate(values) if sigma > 0]
            x, y = zip(*positive, strict=True)
            dash, marker = _DASHES[series % len(_DASHES)], _MARKERS[series % len(_MARKERS)]
            colour = _series(series)
            axes.plot(x, y, dash, color=colour, marker=marker, markersize=3, linewidth=1.3, label=_short(name, 24))
        axes.set(yscale="log", title=_short(title), xlabel="part of the steps", ylabel="noise level sigma")
        axes.yaxis.set_major_formatter(_plain)
        axes.legend(frameon=False, fontsize=8)
        return _svg(figure, f"Noise levels of {', '.join(lists)}, {title}")


@contextmanager
def _figure(width: float, height: float) -> Iterator[Any]:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_RC):
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Any, name: str) -> str:
    import matplotlib

    written = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):  # ids that are the same each time, and differ between plots
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="s(\d+)-(band|line)"', r'<g class="series \2" data-series="\1"', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # they would be repeated in every plot of the page
    svg = svg.replace(_TEXT, "currentColor").replace(_GRID, "var(--grid)")
    svg = re.sub(r"#0a0a([0-9a-f]{2})", lambda match: f"var(--s{int(match[1], 16)})", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)  # the page's own font
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(name)}" ', 1).strip()


def _series(number: int) -> str:
    return f"#0a0a{number % COLOURS:02x}"


def dash_array(series: int) -> str:
    """A series' dashes as SVG's stroke-dasharray, "" for a solid line."""
    return ("", "6 3", "2 3", "6 3 2 3")[series // COLOURS % len(_DASHES)]


def _plain(value: float, _: int | None = None) -> str:
    return f"{value:g}"


def _short(text: str, most: int = 48) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

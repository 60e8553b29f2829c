"""The report's figures: which plots are drawn of a study's statistics, and their captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from .. import statistics
from ..table import MEASURES
from . import plots
from .answer import OTHERS, PRIMARY, short

COSTS = {"evaluations": "evaluations of the denoiser", "seconds": "seconds of denoising"}
"""What quality is drawn against: columns of `statistics.means`, and their names."""


def label(measure: str) -> str:
    """A measure's name with its unit."""
    known = MEASURES[measure]
    return f"{known.label} ({known.unit})" if known.unit else known.label


def _axis(measure: str) -> str:
    unit = MEASURES[measure].unit
    return f"{short(measure)} ({unit})" if unit else short(measure)


def curves(means: Any, measure: str, cost: str, schedulers: Sequence[str]) -> dict[str, Any]:
    """Quality over cost, a panel a schedule, with the same y-axis.

    Args:
        means: `statistics.means` of the measure.
        measure: the measure's column.
        cost: one of COSTS.
        schedulers: the order that gives each its colour.
    """
    means = means[means["mean"].map(math.isfinite) & (means[cost] > 0)].copy()
    for end in ("low", "high"):  # one block has no interval
        means[end] = means[end].where(means[end].map(math.isfinite), means["mean"])
    low, high = float(means["low"].min()), float(means["high"].max())
    log_y = low > 0 and high / low > 10
    space = 0.05 * (high - low or 1)
    xlimits = (float(means[cost].min()) / 1.15, float(means[cost].max()) * 1.15)
    ylimits = (low / 1.25, high * 1.25) if log_y else (low - space, high + space)
    panels = []
    for schedule, part in means.groupby("schedule", sort=False):
        lines = {
            schedulers.index(name): [plots.Point(*point) for point in rows[[cost, "mean", "low", "high"]].to_numpy()]
            for name, rows in part.groupby("scheduler", sort=False)
        }
        svg = plots.curves(
            lines,
            title=f"schedule {schedule}",
            xlabel=COSTS[cost],
            ylabel=_axis(measure),
            xlimits=xlimits,
            ylimits=ylimits,
            log_y=log_y,
        )
        panels.append(Markup(svg))
    fewest, most = int(means["blocks"].min()), int(means["blocks"].max())
    blocks = str(most) if fewest == most else f"{fewest} to {most}"
    caption = (
        f"Means over {blocks} blocks of image, seed and guidance, with 95 % bootstrap intervals, one panel a schedule; "
        f"{MEASURES[measure].better} is better. A point is a budget."
    )
    return {"measure": measure, "cost": cost, "panels": panels, "caption": caption}


def ranks(compared: Mapping[tuple[str, int], Any], budget: int, schedulers: Sequence[str]) -> dict[str, Any] | None:
    """Rank diagrams of one budget, one a measure; None where nothing can be ranked.

    Args:
        compared: `statistics.compare`, by measure and budget.
        budget: in evaluations.
        schedulers: the order that gives each its colour.
    """
    panels = []
    for measure in (PRIMARY, *OTHERS):
        comparison = compared.get((measure, budget))
        if comparison is None or math.isnan(comparison.critical_difference):
            continue
        means = [
            plots.Mean(statistics.method_name(method), rank, schedulers.index(method[0]))
            for method, rank in comparison.ranks.items()
        ]
        panels.append(Markup(plots.ranks(means, comparison.critical_difference, title=_axis(measure))))
    if not panels:
        return None
    caption = (
        f"Mean ranks at {budget} evaluations over {compared[PRIMARY, budget].blocks} blocks. Two methods whose "
        "whiskers overlap are not separated by the Nemenyi test at 5 %; the shaded strip is one critical difference "
        "wide and holds all that are not separated from the best. The answer above rests on paired Wilcoxon tests with "
        "Holm's correction, which may separate others."
    )
    return {"budget": budget, "panels": panels, "caption": caption}


def sigmas(done: Any) -> list[Markup]:
    """Noise levels of every schedule, a plot a budget: of the scheduler that takes the most steps."""
    drawn = []
    for budget, part in done.groupby("budget"):
        lists = {schedule: max(rows["sigmas"], key=len) for schedule, rows in part.groupby("schedule", sort=False)}
        lists = {schedule: levels for schedule, levels in lists.items() if max(levels, default=0) > 0}
        if lists:
            drawn.append(Markup(plots.sigmas(lists, title=f"{budget} evaluations")))
    return drawn

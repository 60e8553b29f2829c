"""The page: a template, and everything that it asks for, computed from a study's table and videos."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from ... import __version__
from .. import statistics
from ..table import COLUMNS, IDENTITY, MEASURES, as_parquet
from . import answer as words
from . import figures, plots, videos

_HERE = Path(__file__).parent
_HIDDEN = ("key", "sigmas")  # columns that only the CSV has


def render(table: Any, metadata: Mapping[str, Any], frames: videos.Frames, reference: videos.References) -> str:
    """Make the page.

    Args:
        table: the study's cells, as `read_table` gives them; at least one of them is done.
        metadata: what `study.json` holds.
        frames: gives a finished cell's frames by its key, uint8 (F, H, W, 3).
        reference: gives the reference's frames by image, seed and guidance; KeyError where there is none.
    """
    return fill(content(table, metadata, frames, reference))


def fill(found: Mapping[str, Any]) -> str:
    """The template with what `content` found, the style and the script.

    The page's policy allows that one script, by its hash, and pictures that are in the page: no request can leave it.
    """
    script = _read("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_read("page.html.j2"))
    parts = {"style": Markup(_read("style.css")), "script": Markup(script), "script_hash": Markup(f"sha256-{digest}")}
    return str(template.render(**found, **parts))


def content(
    table: Any, metadata: Mapping[str, Any], frames: videos.Frames, reference: videos.References
) -> dict[str, Any]:
    """The template's variables, from what `render` takes."""
    done = table[table["status"] == "done"]
    empty = [name for name in MEASURES if table[name].isna().all()]  # such as what was not asked for
    measures = [name for name, measure in MEASURES.items() if measure.better and done[name].map(math.isfinite).any()]
    schedulers = list(dict.fromkeys(table["scheduler"]))
    budgets = [int(budget) for budget in statistics.budgets(table)]
    means = {name: statistics.means(table, name) for name in measures}
    tested = [name for name in (words.PRIMARY, *words.OTHERS) if name in measures]
    compared = {(name, budget): statistics.compare(table, budget, name) for name in tested for budget in budgets}
    by_budget = {budget: _by_method(means[words.PRIMARY], budget) for budget in budgets}
    ranks = [figures.ranks(compared, budget, schedulers) for budget in budgets]
    wall = videos.wall(done.to_dict("records"), frames, reference)
    return {
        "title": f"Schedulers compared on {Path(str(metadata['model'])).name}",
        "subtitle": _subtitle(table, metadata),
        "version": __version__,
        "scope": words.SCOPE,
        "answers": [words.answer(compared, budget, by_budget[budget]) for budget in budgets],
        "cautions": words.cautions(table, metadata),
        "summary": _summary(by_budget, compared),
        "budgets": budgets,
        "labels": {name: figures.label(name) for name in measures},
        "primary": words.short(words.PRIMARY),
        "costs": figures.COSTS,
        "colours": plots.COLOURS,
        "legend": [{"name": name, "dash": plots.dash_array(i)} for i, name in enumerate(schedulers)],
        "curves": [figures.curves(means[name], name, cost, schedulers) for name in measures for cost in figures.COSTS],
        "ranks": [drawn for drawn in ranks if drawn is not None],
        "sigma_plots": figures.sigmas(done),
        "wall_note": wall.note,
        "failures": _failures(table),
        "command": metadata["command"],
        "provenance": _provenance(metadata),
        "data": _data(table, wall, metadata, (*_HIDDEN, *empty)),
    }


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _subtitle(table: Any, metadata: Mapping[str, Any]) -> str:
    numbers = {name: table[name].nunique() for name in IDENTITY if name != "guidance" or table[name].nunique() > 1}
    counts = [f"{number} {name if number == 1 else name + 's'}" for name, number in numbers.items()]
    done = int((table["status"] == "done").sum())
    cells = f"{done} cells" if done == len(table) else f"{done} of {len(table)} cells done"
    return f"{' × '.join(counts)}: {cells}, on {metadata['backend']} in {metadata['dtype']}."


def _by_method(means: Any, budget: int) -> dict[words.Method, Any]:
    return {(row.scheduler, row.schedule): row for row in means[means["budget"] == budget].itertuples()}


def _summary(by_budget: Mapping[int, Mapping[words.Method, Any]], compared: Mapping[tuple[str, int], Any]) -> list[Any]:
    """The table of means: a line a method, a cell a budget."""
    lines = []
    for method in dict.fromkeys(method for rows in by_budget.values() for method in rows):
        cells = []
        for budget, rows in by_budget.items():
            comparison = compared[words.PRIMARY, budget]
            some_beaten = len(comparison.tied) + 1 < len(comparison.ranks)
            cell = {"mean": "–", "interval": "", "best": some_beaten and method in (comparison.best, *comparison.tied)}
            if (row := rows.get(method)) is not None and not math.isnan(row.mean):
                cell |= {"mean": words.number(row.mean), "interval": words.interval(row.low, row.high)}
            cells.append(cell)
        lines.append({"scheduler": method[0], "schedule": method[1], "cells": cells})
    return lines


def _failures(table: Any) -> list[dict[str, str]]:
    counts = table[table["status"] == "failed"].groupby(["scheduler", "error"], sort=False).size()
    return [
        {"cells": f"{scheduler}, {count} {'cell' if count == 1 else 'cells'}", "error": str(error)}
        for (scheduler, error), count in counts.items()
    ]


def _provenance(metadata: Mapping[str, Any]) -> list[tuple[str, str]]:
    def told(value: Any, name: str = "") -> str:
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {told(part, name)}" for name, part in value.items())
        if name == "memory" and isinstance(value, int):
            return f"{value / 2**30:.3g} GiB"
        if isinstance(value, list | tuple):
            return ", ".join(told(part) for part in value)
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    size = f"{metadata['width']} × {metadata['height']}"
    shown = {name: metadata[name] for name in ("model", "fingerprint", "backend", "device", "dtype", "components")}
    shown["video"] = f"{metadata['num_frames']} frames of {size}, {metadata['fps']} a second"
    shown |= {name: metadata[name] for name in ("seeds", "reference", "machine", "versions", "study")}
    return [(name, told(value)) for name, value in shown.items() if value != {}]


def _data(table: Any, wall: videos.Wall, metadata: Mapping[str, Any], hidden: Sequence[str]) -> dict[str, Any]:
    """What the script reads: the table, with every list of noise levels once, and the videos."""
    levels: dict[str, int] = {}
    values: list[list[Any]] = []
    infinite: list[tuple[int, str, float]] = []
    for i, row in enumerate(table.to_dict("records")):
        row["sigmas"] = levels.setdefault(" ".join(f"{sigma:.9g}" for sigma in row["sigmas"]), len(levels))
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):  # JSON has neither
                row[name] = None
                infinite += [(i, name, math.copysign(1, value))] if math.isinf(value) else []
        values.append([row[name] for name in COLUMNS])
    return {
        "columns": list(COLUMNS),
        "shown": [name for name in COLUMNS if name not in hidden],
        "values": values,
        "infinite": infinite,
        "sigmas": list(levels),
        "labels": {name: words.short(name) for name in COLUMNS},
        "filters": list(IDENTITY),
        "primary": words.PRIMARY,
        "parquet": base64.b64encode(as_parquet(table)).decode(),
        "wall": wall._asdict() | {"fps": metadata["fps"], "first": _first(wall.tiles)},
    }


def _first(tiles: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The choice that the wall opens with: the first of everything, and from the middle of its budgets."""
    if not tiles:
        return {}
    first = {name: tiles[0][name] for name in ("schedule", "image", "seed", "guidance")}
    budgets = sorted({tile["budget"] for tile in tiles if first.items() <= tile.items()})
    return first | {"budget": budgets[(len(budgets) - 1) // 2]}

"""The report of a study: one HTML page that holds all it shows and works without a network."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import InputError, MissingDependencyError

__all__ = ["FILE", "write_report"]

FILE = "report.html"


def write_report(folder: str | os.PathLike[str]) -> Path:
    """Write a study's report into its folder, whatever of the study is finished.

    The page has the answer first (which scheduler for which budget, and whether that is separated from the others by
    the tests), quality against evaluations and against seconds with 95 % intervals, mean ranks with their critical
    difference, the sigma curves, a wall of videos on one clock with their difference from the reference, the table of
    all cells with its CSV, and what is needed to run the study again. Videos are embedded up to a bound, which
    `videos.MOST_BYTES` is and the page tells.

    Args:
        folder: of the study, with its `study.json` and `table.parquet`.

    Returns:
        The page's path, `report.html` in the folder; replaced once the new page is complete.

    Raises:
        InputError: there is no study in the folder, or no cell of it is finished.
        MissingDependencyError: jinja2, matplotlib or pandas is not installed.
        OutputError: the page cannot be written.
    """
    folder = Path(folder)
    try:
        from ..store import Store
        from ..table import read_table
        from .page import render
    except ImportError as error:
        raise MissingDependencyError(
            f"A study's report needs {error.name}. Install it with: pip install 'svdkit[study]'"
        ) from None
    table, store = read_table(folder), Store(folder)
    if not (table["status"] == "done").any():
        raise InputError(f"No cell of the study in {folder} is finished, so there is nothing to report yet.")
    store.write(FILE, render(table, store.metadata, store.frames, store.reference).encode())
    return folder / FILE

"""Running a study: references first, then the cells that its folder lacks, each kept as soon as it is done."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from .cells import Cell, Grid, expand
from .grid import Study
from .metadata import describe
from .progress import Progress
from .store import Result, Store
from .table import make_table, write_table
from .worker import Task, Worker, to_8_bits

if TYPE_CHECKING:
    import pandas as pd
    from filelock import FileLock

Execute = Callable[[Iterable[Task]], Iterator[tuple[Task, "Result | str"]]]
"""Computes tasks, and hands each back with its result or its error in a sentence, in any order."""

WAIT = 0.5
"""Seconds between looks at cells that another process is computing."""


def in_this_process(grid: Grid) -> Execute:
    """One after another, here."""
    worker = Worker(grid)

    def execute(tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | str]]:
        return ((task, worker.attempt(task)) for task in tasks)

    return execute


def run(
    study: Study,
    folder: Path,
    *,
    on: str | None = None,
    retry_failed: bool = False,
    command: str = "",
    progress: bool = True,
) -> pd.DataFrame:
    """Compute what is missing of a study, and write its table.

    Args:
        study: what to compare.
        folder: of the results. What is in it is not computed again, whatever grid it was computed for.
        on: None for this process; `"ray"`, or the address of a Ray cluster such as `"ray://host:10001"`.
        retry_failed: try cells again that have failed before.
        command: how to run it again, for the record.
        progress: whether to tell on stderr how far it is.

    Returns:
        the table; see `svdkit.study.table.make_table`.

    Raises:
        InputError: the study cannot be run as it is; nothing has been computed.
        CheckpointError: the model cannot be loaded.
        MissingDependencyError: something that it needs is not installed.
        OutputError: the folder cannot be written to.
    """
    grid, store = expand(study), Store(folder)
    if on is None:
        execute = in_this_process(grid)
    else:
        from .on_ray import on_ray

        execute = on_ray(grid, on)
    store.write("study.toml", study.absolute().as_toml().encode())
    _write_images(store, grid)
    command = command or f"svdkit study {folder / 'study.toml'} -o {folder}"

    def write_metadata() -> None:
        store.write("study.json", json.dumps(describe(grid, store, command), indent=1).encode())

    write_metadata()
    cells = {cell.key: cell for cell in (*grid.references, *grid.cells)}
    if retry_failed:
        for key in cells:
            store.forget_failure(key)
    with Progress(list(cells.values()), progress) as shown:
        for part in (grid.references, grid.cells):
            _drain(store, part, execute, shown)
            write_metadata()
    table = make_table(store, grid.cells)
    write_table(store, table)
    return table


def _drain(store: Store, cells: Sequence[Cell], execute: Execute, shown: Progress) -> None:
    """Every cell is done, or has failed, after this: by this process or by others on the same folder."""
    pending = {cell.key: cell for cell in cells}
    claims: dict[str, FileLock] = {}
    reference = lru_cache(maxsize=1)(lambda key: store.result(key, "references"))

    def finished(cell: Cell, found: bool = True) -> bool:
        done = store.has(cell.key, cell.kind)
        if not done and store.failure(cell.key) is None:
            return False
        shown.add(pending.pop(cell.key), store.record(cell.key, cell.kind) if done else None, found=found)
        return True

    def claimed() -> Iterator[Task]:
        for cell in list(pending.values()):
            if (claim := store.claim(cell.key)) is None:  # another process computes it
                continue
            claims[cell.key] = claim
            if finished(cell):  # another process has done so since
                claims.pop(cell.key).release()
            elif not cell.reference:
                yield Task(cell)
            elif store.has(cell.reference, "references"):
                yield Task(cell, reference(cell.reference))
            else:
                store.save_failure(cell.key, f"Its reference failed: {store.failure(cell.reference)}")
                finished(cell, found=False)
                claims.pop(cell.key).release()

    try:
        while True:
            for cell in list(pending.values()):
                finished(cell)
            if not pending:
                return
            for task, outcome in execute(claimed()):
                cell = task.cell
                if isinstance(outcome, Result):
                    store.save(cell.key, outcome, cell.kind)
                else:
                    store.save_failure(cell.key, outcome)
                finished(cell, found=False)
                claims.pop(cell.key).release()
            if pending:
                time.sleep(WAIT)
    finally:
        for claim in claims.values():
            claim.release()


def _write_images(store: Store, grid: Grid) -> None:
    from PIL import Image

    for name, picture in grid.pictures.items():
        file = io.BytesIO()
        Image.fromarray(to_8_bits(picture, *grid.size)).save(file, "png")
        store.write(f"images/{name}.png", file.getvalue())

"""How far a study is: a bar in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from tqdm import tqdm

from .cells import Cell

INTERVAL = 10.0
"""Seconds between lines where stderr is not a terminal."""


class Progress:
    """Cells done, time left, and the best method so far; time goes by function evaluations.

    Args:
        cells: all that are to be there in the end, each key once.
        shown: whether to tell.
    """

    def __init__(self, cells: Sequence[Cell], shown: bool = True) -> None:
        self.cells, self.failed, self.done = len(cells), 0, 0
        self._terminal, self._total = sys.stderr.isatty(), sum(map(_work, cells))
        self._shown, self._told = shown, 0.0
        self._errors: dict[tuple[int, str], list[float]] = defaultdict(list)
        self._bar = tqdm(
            total=self._total,
            disable=not (shown and self._terminal),
            bar_format="{percentage:3.0f}%|{bar:20}| {desc} [{elapsed}<{remaining}]",
        )
        self._start, self._worked, self._found = time.monotonic(), 0, 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tell(last=True)
        self._bar.close()

    def add(self, cell: Cell, record: Mapping[str, Any] | None, *, found: bool = False) -> None:
        """A cell more.

        Args:
            cell: which.
            record: its numbers; None if it failed.
            found: whether it was there already.
        """
        self.done += 1
        self.failed += record is None
        if record is not None and not cell.half:
            self._errors[cell.budget, f"{cell.label}, {cell.schedule}"].append(record["latent_error"])
        if found:
            self._found += _work(cell)
        else:
            self._worked += _work(cell)
        self._bar.set_description_str(self._text(), refresh=False)
        self._bar.update(_work(cell))
        self._tell()

    def _tell(self, last: bool = False) -> None:
        if self._shown and not self._terminal and (last or time.monotonic() - self._told > INTERVAL):
            self._told = time.monotonic()
            left = (self._total - self._found - self._worked) / (self._worked or 1) * (self._told - self._start)
            remaining = f", {tqdm.format_interval(left)} left" if self._worked and self.done < self.cells else ""
            print(f"{self._text()}{remaining}", file=sys.stderr, flush=True)

    def _text(self) -> str:
        failed = f" ({self.failed} failed)" if self.failed else ""
        return f"{self.done}/{self.cells} cells{failed}{self._best()}"

    def _best(self) -> str:
        if not self._errors:
            return ""
        budget = max(budget for budget, _ in self._errors)
        means = {name: sum(e) / len(e) for (at, name), e in self._errors.items() if at == budget}
        name = min(means, key=lambda name: means[name])
        return f", best so far at {budget} evaluations: {name} ({means[name]:.3g})"


def _work(cell: Cell) -> int:
    """Function evaluations, about."""
    return cell.budget + len(cell.half)

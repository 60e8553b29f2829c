"""Nothing is lost and nothing is computed twice: a study that is killed, and two processes on one folder.

Processes are forked from this one, which has the model in memory, so that they get to work at once.
"""

from __future__ import annotations

import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reference import picture

import svdkit
from svdkit import StableVideoDiffusionPipeline
from svdkit.study.store import Store
from svdkit.study.table import COSTS, read_table
from svdkit.study.worker import Worker

if "fork" not in multiprocessing.get_all_start_methods():
    pytest.skip("needs processes that are forked", allow_module_level=True)
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    """A study of two blocks."""
    picture(0).save(tmp_path / "image.png")
    return {
        "images": str(tmp_path / "image.png"),
        "schedulers": ["euler", "heun", "dpmpp_2m", "euler_ancestral"],
        "schedules": ["karras", "ays", "exponential"],
        "budgets": 3,
        "seeds": [0, 1],
        "model": "tiny-random",
        "backend": "numpy",
        "height": 32,
        "width": 32,
        "num_frames": 2,
        "reference_budget": 4,
        "progress": False,
    }


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[tuple[str, str, str]]]:
    """What all processes do from now on: `(key, "begun" | "kept", whether it was there before)`."""
    path = tmp_path / "log.txt"
    path.touch()

    def note(key: str, what: str, there: bool) -> None:
        with path.open("a") as file:
            file.write(f"{key} {what} {there}\n")

    attempt, save = Worker.attempt, Store.save
    store = Store(tmp_path / "study")

    def noting_attempt(self: Worker, task: Any) -> Any:
        note(task.cell.key, "begun", store.has(task.cell.key, task.cell.kind))
        return attempt(self, task)

    def noting_save(self: Store, key: str, result: Any, kind: str = "cells") -> None:
        there = self.has(key, kind)
        save(self, key, result, kind)
        note(key, "kept", there)

    pipe = StableVideoDiffusionPipeline.from_pretrained("tiny-random", backend="numpy")
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.setattr(StableVideoDiffusionPipeline, "from_pretrained", lambda *_, **__: pipe)
    monkeypatch.setattr(Worker, "attempt", noting_attempt)
    monkeypatch.setattr(Store, "save", noting_save)
    monkeypatch.setattr("svdkit.study.run.WAIT", 0.05)
    return lambda: [tuple(line.split()) for line in path.read_text().splitlines()]  # type: ignore[misc]


def start(folder: Path, asked: dict[str, Any]) -> Any:
    process = FORK.Process(target=svdkit.study, args=(folder,), kwargs=asked)
    process.start()
    return process


def results(table: pd.DataFrame) -> int:
    """How many are computed: of cells, some of which share one, and of references."""
    return int(table["key"].nunique()) + len(table[["image", "seed", "guidance"]].drop_duplicates())


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(a.drop(columns=list(COSTS)), b.drop(columns=list(COSTS)), check_exact=True)


def test_killed_twenty_times_the_table_is_that_of_one_run(asked: dict[str, Any], log: Any, tmp_path: Path) -> None:
    began = time.monotonic()
    whole = svdkit.study(tmp_path / "whole", **asked)
    assert set(whole["status"]) == {"done"}
    written, seconds = len(log()), (time.monotonic() - began) / results(whole)
    folder, moments, killed = tmp_path / "study", random.Random(0), 0
    for _ in range(20):
        lines = len(log())
        process = start(folder, asked)
        while process.is_alive() and len(log()) < lines + moments.choice((1, 1, 1, 2)):
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.8 * seconds))  # anywhere in a cell, or in its writing
        process.kill()
        process.join()
        killed += process.exitcode == -9
    assert killed == 20
    table = svdkit.study(folder, **asked)
    same(table, whole)
    same(read_table(folder), read_table(tmp_path / "whole"))
    events = log()[written:]
    assert {there for _, _, there in events} == {"False"}, "a cell was computed after it was durable"
    kept = [key for key, what, _ in events if what == "kept"]
    assert len(kept) == len(set(kept))
    begun = [key for key, what, _ in events if what == "begun"]
    assert len(begun) > len(kept) == results(whole), "no process was killed at its work"
    assert not [path for path in folder.rglob(".*") if path.is_file() and path.parent.name in ("cells", "references")]


def test_two_processes_on_one_folder_share_the_work(asked: dict[str, Any], log: Any, tmp_path: Path) -> None:
    asked["schedulers"] = ["euler", "heun"]
    whole = svdkit.study(tmp_path / "whole", **asked)
    written, folder = len(log()), tmp_path / "study"
    processes = [start(folder, asked) for _ in range(2)]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    begun = [key for key, what, _ in log()[written:] if what == "begun"]
    assert len(begun) == len(set(begun)) == results(whole)
    same(read_table(folder), read_table(tmp_path / "whole"))

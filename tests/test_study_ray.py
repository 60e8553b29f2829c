"""A study on a Ray cluster of two workers, one of which is lost midway: the same table."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reference import picture

import svdkit
from svdkit.errors import InputError
from svdkit.study.cells import expand
from svdkit.study.grid import Study
from svdkit.study.on_ray import needed
from svdkit.study.table import COSTS

pytest.importorskip("ray")


@pytest.fixture
def asked(tmp_path: Path) -> dict[str, Any]:
    picture(0).save(tmp_path / "image.png")
    return {
        "images": str(tmp_path / "image.png"),
        "schedulers": ["euler", "heun", "dpmpp_2m", "euler_ancestral"],
        "schedules": ["karras", "ays"],
        "budgets": [2, 3, 4],
        "seeds": [0, 1],
        "model": "tiny-random",
        "backend": "numpy",
        "height": 32,
        "width": 32,
        "num_frames": 2,
        "reference_budget": 4,
    }


def test_a_task_asks_for_the_backends_device_and_for_memory(asked: dict[str, Any]) -> None:
    from attrs import evolve

    grid = expand(Study.of(asked))
    assert needed(grid)["num_cpus"] == 1
    assert needed(grid)["memory"] > 10_000_000
    assert needed(evolve(grid, setting={**grid.setting, "device": "cuda"})) == {"num_gpus": 1}
    assert needed(evolve(grid, setting={**grid.setting, "device": "ascend"})) == {"resources": {"NPU": 1}}


@pytest.mark.slow
def test_a_worker_that_is_lost_changes_nothing(asked: dict[str, Any], tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    whole = svdkit.study(tmp_path / "whole", progress=False, **asked)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cells, lost = tmp_path / "study" / "cells", []

        def lose() -> None:
            while len(list(cells.glob("*.npz"))) < 5:
                time.sleep(0.05)
            lost.append(len(list(cells.glob("*.npz"))))
            cluster.remove_node(nodes[0], allow_graceful=False)

        thread = threading.Thread(target=lose, daemon=True)
        thread.start()
        table = svdkit.study(tmp_path / "study", on=cluster.address, progress=False, **asked)
        thread.join()
        assert 5 <= lost[0] < len(table)
        # The head, and the worker that is left; Ray may notice later than the study is done.
        until(lambda: len([node for node in ray.nodes() if node["Alive"]]) == 2)
    finally:
        ray.shutdown()
        cluster.shutdown()
    same(table, whole)


@pytest.mark.slow
def test_through_a_client_server_it_is_the_same(asked: dict[str, Any], tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    asked |= {"schedulers": ["euler", "heun"], "budgets": 2, "seeds": 0}
    whole = svdkit.study(tmp_path / "whole", progress=False, **asked)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"num_cpus": 1, "include_dashboard": False, "ray_client_server_port": port}
    cluster = Cluster(initialize_head=True, head_node_args=options)
    try:
        until(lambda: listens(port))
        table = svdkit.study(tmp_path / "study", on=f"ray://127.0.0.1:{port}", progress=False, **asked)
        assert ray.util.client.ray.is_connected()
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert set(table["status"]) == {"done"}
    same(table, whole)


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for what another process does; an error if it does not."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.2)


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def same(a: pd.DataFrame, b: pd.DataFrame) -> None:
    """But for costs, and for what other threads add up in another order."""
    pd.testing.assert_frame_equal(
        a.drop(columns=list(COSTS)), b.drop(columns=list(COSTS)), check_exact=False, rtol=1e-4
    )


def test_the_cluster_of_the_environment_is_taken(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(InputError, match="no Ray cluster at '127"):
        svdkit.study(tmp_path / "study", on="ray", progress=False, **asked)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster at '127"),
        ("ray://127.0.0.1:1", "no Ray cluster at 'ray"),
        ("rey", "expected 'ray'"),
    ],
)
def test_there_is_no_cluster(asked: dict[str, Any], tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        svdkit.study(tmp_path / "study", on=address, progress=False, **asked)
    assert not (tmp_path / "study").exists()

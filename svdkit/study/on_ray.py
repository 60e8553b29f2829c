"""Cells as tasks of a Ray cluster, which schedules them; results come back to this process, which keeps them."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from attrs import evolve

from ..errors import CheckpointError, InputError, MissingDependencyError
from ..hub import resolve_model
from ..memory.planning import plan
from .cells import Grid, fingerprint
from .grid import Study
from .store import Result
from .worker import Task, Worker

if TYPE_CHECKING:
    from .run import Execute

RESOURCES: dict[str, dict[str, Any]] = {
    "cuda": {"num_gpus": 1},
    "gpu": {"num_gpus": 1},
    "npu": {"resources": {"NPU": 1}},
    "ascend": {"resources": {"NPU": 1}},
}
"""What Ray calls the device that a task needs, by the backend's name for it; other devices are CPUs."""

LOCAL = "local"
"""What `ray.init` takes for a new cluster on this machine."""

AHEAD = 2
"""Tasks that are handed to Ray for each that it can run, so that no worker waits."""

_workers: dict[Study, Worker] = {}


def on_ray(grid: Grid, address: str) -> Execute:
    """Runs tasks on a cluster.

    Args:
        grid: whose tasks they are.
        address: `"ray"` for the cluster that the variable RAY_ADDRESS names, or one on this machine that ends with
            this process; or an address that `ray.init` takes, such as `"ray://host:10001"`.

    Raises:
        MissingDependencyError: Ray is not installed.
        InputError: there is no cluster at that address.
    """
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("Ray is not installed: pip install 'svdkit[ray]'.") from error
    if address == "ray":  # Ray would also try a cluster that was killed here, for minutes
        address = os.environ.get("RAY_ADDRESS", LOCAL)
    _check(address)

    def execute(tasks: Iterable[Task]) -> Iterator[tuple[Task, Result | str]]:
        if not ray.is_initialized():
            try:
                ray.init(address, log_to_driver=False)
            except Exception as error:  # Ray raises that itself where a node does not start in time
                raise InputError(f"There is no Ray cluster at {address!r}: {error}") from error
        needs = needed(grid)
        compute = ray.remote(_compute).options(**needs)
        shared, waiting = ray.put(grid), iter(tasks)
        running: dict[Any, Task] = {}
        resources: dict[str, float] = ray.cluster_resources()
        if (places := _places(resources, needs)) < 1:
            raise InputError(f"The cluster cannot run a cell, which needs {needs}; it has {resources}. Add a worker.")
        most = AHEAD * places
        try:
            while True:
                while len(running) < most and (task := next(waiting, None)) is not None:
                    running[compute.remote(shared, task)] = task
                if not running:
                    return
                (ready,), _ = ray.wait(list(running))
                try:
                    outcome: Result | str = ray.get(ready)
                except ray.exceptions.RayTaskError as error:  # a model that cannot be loaded
                    raise error.as_instanceof_cause() from None
                except ray.exceptions.RayError as error:  # its worker died again and again
                    outcome = f"{type(error).__name__}: {' '.join(str(error).split())}"
                yield running.pop(ready), outcome
        finally:
            for left in running:
                ray.cancel(left, force=True)

    return execute


def _check(address: str) -> None:
    """Raises `InputError` where nobody listens; Ray itself would try for minutes."""
    if address == LOCAL:
        return
    if (found := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)) is None:
        raise InputError(f"The cluster is {address!r}, expected 'ray', 'ray://HOST:PORT' or 'HOST:PORT'.")
    try:
        socket.create_connection((found[1], int(found[2])), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"There is no Ray cluster at {address!r}: {error}.") from error


def needed(grid: Grid) -> dict[str, Any]:
    """What one task needs of a cluster: a device, and memory, so that no more run on a machine than fit in it."""
    study = grid.study
    needs = dict(RESOURCES.get(grid.setting["device"], {"num_cpus": 1}))
    if "num_cpus" in needs:
        names = ("backend", "dtype", "memory", "height", "width", "num_frames", "decode_chunk_size", "variant")
        with suppress(CheckpointError):  # a network by a plugin, of which nothing is known
            needs["memory"] = plan(study.model, **{name: getattr(study, name) for name in names}).needed
    return needs


def _places(cluster: dict[str, float], needs: dict[str, Any]) -> int:
    """How many tasks a cluster can run at a time."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    flat = {names[key]: value for key, value in needs.items() if key in names} | needs.get("resources", {})
    return int(min(cluster.get(name, 0) / value for name, value in flat.items()))


def _compute(grid: Grid, task: Task) -> Result | str:
    """One cell, in a process of Ray's, which keeps the model for the next."""
    study = grid.study
    if study not in _workers:
        folder = resolve_model(study.model, variant=study.variant)
        if fingerprint(folder, study.variant) != grid.setting["model"]:
            raise InputError(f"The model {study.model!r} is another one on this machine of the cluster.")
        local = evolve(grid, study=evolve(study, device=grid.setting["device"]))
        _workers.clear()
        _workers[study] = Worker(local)
    return _workers[study].attempt(task)

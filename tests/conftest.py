"""Checkpoints that tests share, written by diffusers once for a whole run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("GLOG_v", "3")  # MindSpore's warnings
os.environ.setdefault("TRITON_INTERPRET", "1")  # kernels for GPUs run on the CPU; set before Triton is imported
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # set before frameworks are imported
    workers = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`checkpoint(name)`: the folder of a configuration of `reference.CONFIGURATIONS`. Not to be written to."""
    from reference import save_checkpoint

    root = tmp_path_factory.mktemp("checkpoints")

    def folder(name: str) -> Path:
        return root / name if (root / name).exists() else save_checkpoint(name, root / name)

    return folder

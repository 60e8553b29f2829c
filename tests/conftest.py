"""Checkpoints that tests share, written by diffusers once for a whole run, and a pipeline of one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from svdkit.pipeline import StableVideoDiffusionPipeline

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


@pytest.fixture(scope="module")
def loaded(checkpoint: Callable[[str], Path]) -> StableVideoDiffusionPipeline:
    """In float64, so that what is the same in exact arithmetic is the same here, nearly."""
    from svdkit.pipeline import StableVideoDiffusionPipeline

    pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint("plain"), backend="numpy", dtype="float64")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(loaded: StableVideoDiffusionPipeline) -> StableVideoDiffusionPipeline:
    """The same components in a pipeline of their own, which a test may change."""
    from svdkit.pipeline import StableVideoDiffusionPipeline

    copy = StableVideoDiffusionPipeline(**loaded.components, sigma_schedule=loaded.sigma_schedule)
    copy.set_progress_bar_config(disable=True)
    copy._origin = loaded._origin
    return copy

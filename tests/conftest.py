"""Checkpoints that tests share, written by diffusers once for a whole run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("GLOG_v", "3")  # MindSpore's warnings


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`checkpoint(name)`: the folder of a configuration of `reference.CONFIGURATIONS`. Not to be written to."""
    from reference import save_checkpoint

    root = tmp_path_factory.mktemp("checkpoints")

    def folder(name: str) -> Path:
        return root / name if (root / name).exists() else save_checkpoint(name, root / name)

    return folder

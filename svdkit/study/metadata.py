"""What a study was made with, so that it can be made again."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from attrs import asdict

from ..memory import host_memory
from ..plugins import make_backend, registry
from .cells import Grid
from .schedulers import supplier
from .store import Store

_MEASURED_WITH = ("svdkit", "numpy", "scipy", "scikit-image", "opencv-python-headless", "pandas")


def describe(grid: Grid, store: Store, command: str) -> dict[str, Any]:
    """The command, versions, machine and seeds of a study, and how far its references have converged."""
    study = grid.study
    kernels = make_backend(study.backend, study.device, study.dtype)
    used = (found for found in kernels.found_devices() if f"{found.name}:".startswith(f"{kernels.device}:"))
    setting = {name: grid.setting[name] for name in ("backend", "device", "dtype")}
    return {
        "command": command,
        "versions": _versions(grid),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory": host_memory().total,
            "device": next((found.description or found.name for found in used), kernels.device),
        },
        "model": study.model,
        "fingerprint": grid.setting["model"],
        **setting,
        "components": grid.setting.get("components", {}),
        "seeds": list(study.seeds),
        "fps": study.fps,
        "height": grid.size[0],
        "width": grid.size[1],
        "num_frames": grid.frames,
        "study": asdict(study),
        "reference": {"scheduler": grid.references[0].label, "evaluations": study.reference_budget},
        "references": [
            {"image": cell.image, "seed": cell.seed, "guidance": cell.guidance, "key": cell.key}
            | store.record(cell.key, "references")
            for cell in grid.references
            if store.has(cell.key, "references")
        ],
    }


def _versions(grid: Grid) -> dict[str, str]:
    """Of Python, of what computes and measures, and of the distributions that supply schedulers."""
    entries = registry().entries("backend")
    modules = next((e.spec.requires for e in entries if e.spec.name == grid.study.backend), ())
    suppliers = [supplier(text).split(" ")[0] for text in grid.study.schedulers]
    versions = {"python": platform.python_version()}
    for name in dict.fromkeys((*_MEASURED_WITH, *modules, *suppliers)):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a module that is not named as its distribution
            continue
    return versions


def _processor() -> str:
    """The processor's name, which Linux tells in a file."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())

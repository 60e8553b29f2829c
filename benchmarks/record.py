"""What becomes of measurements: medians and spreads, the machine they were taken on, and a JSON file of all of it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from attrs import asdict, field, frozen
from sides import Task

from svdkit.memory import host_memory

PACKAGES = ("svdkit", "mindspore", "torch", "diffusers", "transformers", "numpy")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8", "asimd", "sve", "bf16")


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Least, quartiles and most."""
    names = ("least", "lower_quartile", "median", "upper_quartile", "most")
    return dict(zip(names, map(float, np.quantile(seconds, (0, 0.25, 0.5, 0.75, 1))), strict=True))


def ratio(ours: Sequence[float], theirs: Sequence[float], draws: int = 10_000) -> tuple[float, float, float]:
    """The ratio of the medians, and its 95 % interval by the bootstrap's percentiles (Efron 1979).

    Both are drawn again apart: runs alternate to share the machine's slow drifts, and are not pairs.
    """
    rng = np.random.default_rng(0)
    drawn = [np.median(rng.choice(seconds, (draws, len(seconds))), axis=1) for seconds in (ours, theirs)]
    low, high = np.quantile(drawn[0] / drawn[1], (0.025, 0.975))
    return float(np.median(ours) / np.median(theirs)), float(low), float(high)


def machine(device: str = "cpu") -> dict[str, Any]:
    """Processors, memory, versions, and how busy the machine was."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = (told.get("flags") or told.get("Features") or "").split()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found: dict[str, Any] = {
        "processor": told.get("model name") or platform.processor() or platform.machine(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "processors": usable,
        "memory": host_memory().total,
        "busy_with_others": _SINCE_START.others(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": dict(_versions()),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed_since": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }
    if device.startswith("cuda"):
        import torch

        found["device"] = torch.cuda.get_device_name(device)
    return found


def _versions() -> Iterable[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def _git(*arguments: str) -> str | None:
    """What git says of this copy; None where there is no git, or this is no repository."""
    try:
        done = subprocess.run(["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def name_of(what: str, task: Task, *, timed: Sequence[str] = ()) -> str:
    """What a result is called: `unet-mindspore-cpu-float32-256x256x4`, and what is special about it."""
    size = f"{task.height}x{task.width}x{task.frames}"
    return "-".join([what, task.backend, task.device.replace(":", ""), task.dtype, size, *timed])


def save(folder: Path, name: str, task: Task, values: Mapping[str, Any]) -> Path:
    """Write a result, with its task and the machine; replaces one of the same name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    told = asdict(task) | {"checkpoint": Path(task.checkpoint).name}
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    result = {"name": name, "when": when, "task": told, "machine": machine(task.device), **values}
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


@frozen
class Watch:
    """How many processors others keep busy from when this is made: programs, and neighbours of a virtual machine."""

    began: float = field(factory=time.monotonic)
    before: float = field(factory=lambda: _others())

    def others(self) -> float:
        """On the average until now. Children of this process count as others until they have ended."""
        return (_others() - self.before) / (time.monotonic() - self.began)


def _others() -> float:
    """Seconds of all processors that this process and its ended children had no part in."""
    t, own = psutil.cpu_times(), psutil.Process().cpu_times()
    system = t.user + t.system + sum(getattr(t, what, 0.0) for what in ("nice", "irq", "softirq", "steal"))
    return float(system - own.user - own.system - own.children_user - own.children_system)


_SINCE_START = Watch()


def warn_if_busy() -> None:
    """Says on stderr if others are at work: times then mean little."""
    watch = Watch()
    time.sleep(1)
    if (others := watch.others()) > 0.1:
        print(f"Others keep {others:.1f} processors busy here; times mean little.", file=sys.stderr)

"""What is installed, what of it is broken, and the command that mends it: `svdkit doctor`.

Plugins and frameworks are asked in processes of their own (`svdkit.doctor.probe`), so this works where they do not.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from attrs import evolve

from .. import __version__
from ..backend import Device
from ..plugins import entry_points, origin_of
from .probe import ask
from .report import Plugin, Problem, Report

TIME_LIMIT = 120.0
"""Seconds that a plugin and the frameworks it imports may take; cold disks and busy machines need many."""

DISTRIBUTIONS = (
    *("numpy", "scipy", "ml_dtypes", "safetensors", "pillow", "imageio", "imageio-ffmpeg", "huggingface_hub", "pluggy"),
    *("mindspore", "numba", "torch", "torch_npu", "jax", "onnxruntime", "diffusers", "transformers"),
)
"""Whose versions are told, beside those that plugins come from."""

_WHY = {("mindspore", "numpy"): "MindSpore's compiled modules need NumPy 1"}
"""Why an extra of svdkit bounds a version, where that is more than that the tests were run with it."""


def examine(deep: bool = False, seconds: float = TIME_LIMIT) -> Report:
    """Looks at everything; what is broken becomes part of the report, and stops nothing.

    Args:
        deep: also make a frame on every backend that can be used.
        seconds: how long any plugin, or such a frame, may take.
    """
    points, problems = _entry_points()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        plugins = [p for found in pool.map(lambda point: _look_at(point, seconds), points) for p in found]
    plugins = _mark_taken(plugins)
    if deep:  # one after another, as each takes all cores
        plugins = [_try(plugin, seconds) for plugin in plugins]
    distributions = sorted({plugin.distribution for plugin in plugins} - {"", "svdkit"})
    problems += [problem for name in ("svdkit", *distributions) for problem in unmet_requirements(name)]
    for plugin in plugins:
        called = f"The {plugin.kind} {plugin.name!r}"
        if plugin.state == "broken":
            whose = f"The plugin {plugin.origin}" if plugin.kind == "entry point" else f"{called} of {plugin.origin}"
            problems.append(Problem(f"{whose} is broken", plugin.reason, plugin.command))
        if plugin.state == "taken":  # said once, not of each
            problems.append(Problem(f"{called} is there more than once", plugin.reason, plugin.command))
    if not any(plugin.kind == "backend" and plugin.state == "available" for plugin in plugins):
        reason = "of none is the framework installed and in order"
        problems.append(Problem("No backend can be used", reason, "pip install 'svdkit[mindspore]'"))

    def found(what: str, look: Callable[[], Any], command: str) -> Any:
        try:
            return look()
        except Exception as error:  # what is missing or broken here is what doctor is asked about
            problems.append(Problem(f"{what} cannot be found", _said(error), command))
            return None

    mend = "pip install --upgrade svdkit"
    memory = found("The memory's size", _memory, mend) or (None, None)
    cache, cache_free, token = found("The hub's cache", _hub, "pip install --upgrade huggingface_hub") or (None,) * 3
    return Report(
        svdkit=__version__,
        python=platform.python_version(),
        executable=sys.executable,
        platform=platform.platform(),
        versions={name: _version(name) for name in (*DISTRIBUTIONS, *distributions)},
        cpus=os.cpu_count() or 1,
        memory=memory[0],
        memory_available=memory[1],
        cache=cache,
        cache_free=cache_free,
        token=token,
        ffmpeg=found("The ffmpeg that writes MP4 and WebM", _ffmpeg, "pip install --upgrade imageio-ffmpeg"),
        models=found("The models that ship", _models, mend) or (),
        plugins=tuple(plugins),
        problems=tuple(dict.fromkeys(problems)),
    )


# Plugins


def _entry_points() -> tuple[list[importlib.metadata.EntryPoint], list[Problem]]:
    """All that there are; none, and why, if some distribution's cannot be read, as then nothing finds any."""
    try:
        return entry_points(), []
    except Exception:  # Python does not say whose they are
        problems = []
        for distribution in importlib.metadata.distributions():
            try:
                _ = distribution.entry_points
            except Exception as error:
                name = distribution.metadata["Name"]
                problems.append(Problem(f"The entry points of {name} cannot be read", _said(error), _replace(name)))
        return [], problems


def _look_at(point: importlib.metadata.EntryPoint, seconds: float) -> list[Plugin]:
    origin, distribution = origin_of(point), point.dist.name if point.dist else ""
    stopped: dict[str, dict[str, str]] = {}
    while True:
        answers, end = ask("plugin", origin, json.dumps(stopped), seconds=seconds)
        head, *states = answers or [{"broken": end}]
        if "broken" in head:
            reason, command = head["broken"], _replace(distribution)
            return [Plugin("entry point", point.name, "broken", origin, distribution, reason, command)]
        specs = head["specs"]
        if len(states) == len(specs):
            break
        # The first that has no answer is at fault. The others are asked again without it.
        spec = specs[len(states)]
        stopped[spec["target"].partition(":")[0]] = _blame(spec["requires"], seconds) or {"reason": end}
    return [_plugin(origin, distribution, spec, state) for spec, state in zip(specs, states, strict=True)]


def _blame(modules: list[str], seconds: float) -> dict[str, str]:
    """Which of these modules, if any, cannot even be imported alone without ending Python, and its distribution."""
    for module in modules:
        answers, end = ask("import", module, seconds=seconds)
        if end and answers:
            return {"reason": f"importing {module}: {end}", **answers[0]}
    return {}


def _plugin(origin: str, distribution: str, spec: dict[str, Any], state: dict[str, Any]) -> Plugin:
    commands = {"missing": spec["install"], "broken": _replace(state.get("distribution", distribution))}
    return Plugin(
        kind=spec["kind"],
        name=spec["name"],
        state=state["state"],
        origin=origin,
        distribution=distribution,
        reason=state.get("reason", ""),
        command=commands.get(state["state"], ""),
        replaces=tuple(spec["replaces"]),
        devices=tuple(Device(**device) for device in state.get("devices", ())),
    )


def _replace(distribution: str) -> str:
    """The command that mends a broken distribution."""
    if not distribution:
        return ""
    upgrade = f"pip install --upgrade {distribution}"
    return upgrade if distribution == "svdkit" else f"{upgrade}  # or: pip uninstall {distribution}"


def _mark_taken(plugins: list[Plugin]) -> list[Plugin]:
    """Plugins, those marked that have one name."""

    def mark(plugin: Plugin) -> Plugin:
        rivals = [p for p in plugins if (p.kind, p.name, p.replaces) == (plugin.kind, plugin.name, plugin.replaces)]
        if len(rivals) == 1 or plugin.kind == "entry point":
            return plugin
        reason = f"the name is taken by {' and by '.join(rival.origin for rival in rivals)}"
        others = sorted({rival.distribution for rival in rivals} - {"", "svdkit"})
        command = "  # or: ".join(f"pip uninstall {distribution}" for distribution in others)
        return evolve(plugin, state="taken", reason=reason, command=command)

    return [mark(plugin) for plugin in plugins]


def _try(plugin: Plugin, seconds: float) -> Plugin:
    if plugin.kind != "backend" or plugin.state != "available":
        return plugin
    answers, end = ask("trial", plugin.name, seconds=seconds)
    answer = answers[0] if answers else {"state": "broken", "reason": f"a generation fails: {end}"}
    if answer["state"] == "available":
        return evolve(plugin, trial=answer["device"])
    return evolve(plugin, state="broken", reason=answer["reason"], command=_replace(plugin.distribution))


# Distributions


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def unmet_requirements(distribution: str) -> list[Problem]:
    """What a distribution requires that is not there, or not in a version that it works with.

    Of its extras, those named after a distribution that is installed (`svdkit[mindspore]`) bound versions too.
    """
    try:
        metadata = importlib.metadata.metadata(distribution)
    except importlib.metadata.PackageNotFoundError:  # a checkout on the path, say
        return []
    extras = ["", *filter(_version, metadata.get_all("Provides-Extra") or ())]
    requirements = metadata.get_all("Requires-Dist") or ()
    found = (_unmet(distribution, extra, requirement) for extra in extras for requirement in requirements)
    return [problem for problem in found if problem is not None]


def _unmet(distribution: str, extra: str, text: str) -> Problem | None:
    from packaging.requirements import Requirement

    try:
        requirement = Requirement(text)
        of_extra = requirement.marker is not None and "extra" in str(requirement.marker)
        if of_extra != bool(extra) or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            return None
        version = _version(requirement.name)
        if requirement.specifier.contains(version, prereleases=True) if version else extra:
            return None
    except ValueError as error:  # what strangers write is not always in order
        return Problem(f"{distribution} needs {text!r}", _said(error), _replace(distribution))
    who = f"{distribution}[{extra}]" if extra else distribution
    needed = f"{requirement.name}{requirement.specifier}"
    reason = f"{requirement.name} {version} is installed" if version else f"{requirement.name} is not installed"
    why = _WHY.get((extra, requirement.name))
    return Problem(
        f"{who} needs {needed}", f"{reason}. {why}." if why else reason, f"pip install {shlex.quote(needed)}"
    )


# The machine


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _memory() -> tuple[int, int]:
    from ..memory import host_memory

    memory = host_memory()
    return memory.total, memory.available


def _hub() -> tuple[str, int, bool]:
    from huggingface_hub import constants, get_token

    cache = Path(constants.HF_HUB_CACHE).absolute()
    disk = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return str(cache), shutil.disk_usage(disk).free, bool(get_token())


def _ffmpeg() -> str:
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def _models() -> tuple[str, ...]:
    from ..hub import shipped_models

    return shipped_models()

"""What `svdkit doctor` found, as values, as JSON and as text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from textwrap import wrap

from attrs import asdict, frozen

from ..backend import Device
from ..memory import describe
from ..plugins import KINDS


@frozen
class Plugin:
    """Something that an entry point registers, or an entry point that can register nothing."""

    kind: str
    """One of `svdkit.plugins.KINDS`, or `"entry point"`."""
    name: str
    state: str
    """`available`, `missing` (its framework is not installed, which is no fault), `taken` (its name, by two) or
    `broken`.
    """
    origin: str
    """The entry point and its distribution."""
    distribution: str
    reason: str = ""
    """Why it is not available."""
    command: str = ""
    """What mends that."""
    replaces: tuple[str, ...] = ()
    """Of a component: the network, and the backend."""
    devices: tuple[Device, ...] = ()
    """Of a backend."""
    trial: str = ""
    """Of a backend that was tried: the device on which it made a frame."""


@frozen
class Problem:
    """Something that is installed and does not work."""

    what: str
    reason: str
    command: str
    """What mends it; empty if svdkit does not know."""


@frozen
class Report:
    """All that `svdkit doctor` found."""

    svdkit: str
    python: str
    executable: str
    platform: str
    versions: Mapping[str, str | None]
    """Of distributions; None for those that are not installed."""
    cpus: int
    memory: int | None
    """In bytes; so are the others. None for what could not be found out."""
    memory_available: int | None
    cache: str | None
    """The folder that keeps what comes from the hub."""
    cache_free: int | None
    token: bool | None
    """Whether there is an access token for the hub."""
    ffmpeg: str | None
    """What writes MP4 and WebM."""
    models: tuple[str, ...]
    """Those that ship with svdkit."""
    plugins: tuple[Plugin, ...]
    problems: tuple[Problem, ...]

    @property
    def backends(self) -> tuple[Plugin, ...]:
        """Every backend, whether it can be used or not."""
        return tuple(plugin for plugin in self.plugins if plugin.kind == "backend")

    def as_json(self) -> str:
        """A JSON object."""
        return json.dumps(asdict(self), indent=2)

    def as_text(self, width: int = 80) -> str:
        """Lines of at most `width` characters, but for commands and paths, which are not broken."""
        return "\n".join(line for first, text in _parts(self) for line in _fill(first, text, width))


def _fill(first: str, text: str, width: int) -> list[str]:
    """Lines that begin with `first`, which is not broken, and go on below its end."""
    text, indent = " ".join(text.split()), " " * len(first)
    lines = wrap(
        text, width, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return lines or [first]


def _parts(report: Report) -> Iterator[tuple[str, str]]:
    """What to write, as pairs for `_fill`."""
    available = sum(plugin.state == "available" for plugin in report.backends)
    can = f"{available} of {len(report.backends)} backends can be used"
    problems = f"{len(report.problems)} problem{'s' if len(report.problems) > 1 else ''}"
    yield "", f"{problems}; {can}:" if report.problems else f"svdkit works here: {can}."
    for i, problem in enumerate(report.problems, 1):
        yield f"{i:2}. ", f"{problem.what}: {problem.reason}"
        if problem.command:
            yield f"      {problem.command}", ""
    for kind in (*KINDS, "entry point"):
        if plugins := [plugin for plugin in report.plugins if plugin.kind == kind]:
            yield "", ""
            yield "", "entry points that register nothing" if kind == "entry point" else f"{kind}s"
            yield from _plugin_parts(plugins)
    yield "", ""
    yield "", "machine"
    yield from _columns(
        {
            "CPUs": str(report.cpus),
            "memory": f"{_size(report.memory)}, {_size(report.memory_available)} available",
            "hub's cache": f"{report.cache or 'unknown'}, {_size(report.cache_free)} free",
            "hub's token": {None: "unknown", True: "there is one", False: "none"}[report.token],
            "ffmpeg": report.ffmpeg or "not found",
            "shipped": ", ".join(report.models) or "no models",
        }
    )
    yield "", ""
    yield "", "versions"
    versions = {name: version for name, version in report.versions.items() if version}
    yield from _columns({"svdkit": report.svdkit, "Python": f"{report.python}, {report.executable}"})
    yield from _columns({"platform": report.platform, **versions})
    yield from _columns({"not installed": ", ".join(name for name in report.versions if name not in versions)})


def _plugin_parts(plugins: list[Plugin]) -> Iterator[tuple[str, str]]:
    # Of what works and needs no more words, one paragraph tells all that comes from one place.
    brief = [plugin for plugin in plugins if plugin.state == "available" and plugin.kind != "backend"]
    for origin in dict.fromkeys(plugin.origin for plugin in brief):
        names = sorted(plugin.name for plugin in brief if plugin.origin == origin)
        yield "  ", f"{len(names)} available from {origin}: {', '.join(names)}"
    rest = sorted((plugin for plugin in plugins if plugin not in brief), key=lambda plugin: plugin.name)
    width = max((len(plugin.name) for plugin in rest), default=0)
    for plugin in rest:
        yield f"  {plugin.name:{width}}  {plugin.state:9}  ", f"from {plugin.origin}"
        indent = " " * (width + 4)
        if plugin.reason:
            yield indent, plugin.reason
        if plugin.command:
            yield indent + plugin.command, ""
        if plugin.devices:
            yield indent, ", ".join(map(_device, plugin.devices))
        if plugin.trial:
            yield indent, f"made a frame on {plugin.trial}"


def _device(device: Device) -> str:
    memory = "" if device.memory is None else f"({_size(device.memory)})"
    return " ".join(filter(None, (device.name, device.description, memory)))


def _columns(facts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, fact in facts.items():
        if fact:
            yield f"  {name:15}  ", fact


def _size(size: int | None) -> str:
    return "unknown" if size is None else describe(size)

"""How much memory there is, on the host."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from .malloc import give_back

_CGROUPS = (  # version 2, then 1: the limit, what counts against it, and what of that are files that can be let go
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)


@frozen
class Memory:
    """Of one device, in bytes."""

    available: int
    """What could still be allocated."""
    used: int
    """What this process holds there, with what its framework keeps for reuse."""
    total: int


def host_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> Memory:
    """The computer's memory, or what a container's limit leaves of it.

    Args:
        cgroup: where Linux tells such limits.
    """
    import psutil

    give_back()  # else what malloc keeps would count as used
    machine = psutil.virtual_memory()
    available, total = machine.available, machine.total
    for limit, usage, stat, cached in _CGROUPS:
        try:
            most, current = ((cgroup / name).read_text().strip() for name in (limit, usage))
            if most != "max" and int(most) < total:
                used = int(current) - _stat(cgroup / stat, cached)
                total, available = int(most), min(available, max(0, int(most) - used))
        except (OSError, ValueError):
            continue
    return Memory(available, psutil.Process().memory_info().rss, total)


def _stat(path: Path, key: str) -> int:
    """A number in `memory.stat`; 0 if it is not there."""
    try:
        lines = (line.partition(" ") for line in path.read_text().splitlines())
        return next((int(value) for name, _, value in lines if name == key), 0)
    except (OSError, ValueError):
        return 0


def describe(size: float) -> str:
    """Bytes as people read them: `"3.2 GB"`."""
    for unit, power in (("GB", 9), ("MB", 6)):
        if size >= 10**power:
            return f"{size / 10**power:.1f} {unit}"
    return f"{size / 1000:.0f} kB"

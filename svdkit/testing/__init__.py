"""Means to test svdkit and its plugins: the conformance suites, and checkpoints with random weights.

    from svdkit.testing import BackendConformance

    class TestMine(BackendConformance):
        backend = "mine"

They need `pip install 'svdkit[testing]'`. docs/conformance.md says what each proves.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backend import BackendConformance
    from .component import ComponentConformance
    from .plugin import PluginConformance
    from .scheduler import SchedulerConformance

_WHERE = {
    "BackendConformance": "backend",
    "ComponentConformance": "component",
    "PluginConformance": "plugin",
    "SchedulerConformance": "scheduler",
}

_ASSERTING = ("inputs", "kernels", "kernel_checks", "network_checks", "declaration_checks")
"""Modules whose assertions pytest rewrites, so that failures show both sides; those of the suites too."""

__all__ = ["BackendConformance", "ComponentConformance", "PluginConformance", "SchedulerConformance"]


def __getattr__(name: str) -> Any:
    # Imported when first used: checkpoints with random weights need neither pytest nor hypothesis.
    if name not in _WHERE:
        raise AttributeError(f"module 'svdkit.testing' has no attribute {name!r}")
    import pytest

    modules = [f"{__name__}.{module}" for module in (*_ASSERTING, *_WHERE.values())]
    pytest.register_assert_rewrite(*(name for name in modules if name not in sys.modules))
    return getattr(import_module(f".{_WHERE[name]}", __name__), name)

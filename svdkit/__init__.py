"""Stable Video Diffusion behind one plugin-based, multi-backend interface.

import svdkit
video = svdkit.generate("photo.jpg", seed=7)
video.save("out.mp4")
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .generation import generate
    from .hookspecs import ComponentSpec, PluginSpec, hookimpl
    from .memory.planning import plan
    from .output import StableVideoDiffusionPipelineOutput
    from .pipeline import StableVideoDiffusionPipeline
    from .plugins import list_backends, list_components, list_schedulers, list_sigma_schedules
    from .sampling import sample
    from .schedules import sigma_schedule
    from .study import study

_WHERE = {
    "generate": "generation",
    "ComponentSpec": "hookspecs",
    "PluginSpec": "hookspecs",
    "hookimpl": "hookspecs",
    "StableVideoDiffusionPipelineOutput": "output",
    "StableVideoDiffusionPipeline": "pipeline",
    "list_backends": "plugins",
    "list_components": "plugins",
    "list_schedulers": "plugins",
    "list_sigma_schedules": "plugins",
    "plan": "memory.planning",
    "sample": "sampling",
    "sigma_schedule": "schedules",
    "study": "study",
}

__all__ = [
    "ComponentSpec",
    "PluginSpec",
    "StableVideoDiffusionPipeline",
    "StableVideoDiffusionPipelineOutput",
    "generate",
    "hookimpl",
    "list_backends",
    "list_components",
    "list_schedulers",
    "list_sigma_schedules",
    "plan",
    "sample",
    "sigma_schedule",
    "study",
]


def __getattr__(name: str) -> Any:
    # Imported when first used: `import svdkit` stays as quick as nothing.
    if name not in _WHERE:
        raise AttributeError(f"module 'svdkit' has no attribute {name!r}")
    module = import_module(f".{_WHERE[name]}", __name__)
    # A package that has the name of its call can be called (`svdkit.study`), and stays there for its modules.
    value = module if name == _WHERE[name] else getattr(module, name)
    globals()[name] = value
    return value

"""The whole plugin surface of svdkit, on one page.

A plugin is a module (or any object) whose functions carry `@hookimpl` and have the names below. It is found by an
entry point in the group `svdkit`:

    [project.entry-points.svdkit]
    my-plugin = "my_package.plugin"

Hooks return specs: names and dotted paths, not objects. The module that holds them must not import a tensor
framework, so that listing what is there stays instant; what a spec points at is imported when it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pluggy
from attrs import Attribute, field, frozen

GROUP = "svdkit"
hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


def _like(pattern: str, example: str) -> Callable[[object, Attribute[str], Any], None]:
    def check(_: object, attribute: Attribute[str], value: Any) -> None:
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            raise ValueError(f"{attribute.name} is {value!r}, expected something like {example!r}")

    return check


def _modules(_: object, attribute: Attribute[tuple[str, ...]], value: Any) -> None:
    if not isinstance(value, tuple) or not all(isinstance(name, str) and name.isidentifier() for name in value):
        raise ValueError(f"{attribute.name} is {value!r}, expected a tuple of top-level modules like ('mindspore',)")


_NAME = r"[a-z0-9][a-z0-9_.-]*"


@frozen(kw_only=True)
class PluginSpec:
    """Something that can be asked for by name."""

    name: str = field(validator=_like(_NAME, "my-name"))
    """What users write."""
    target: str = field(validator=_like(r"[\w.]+:\w+", "package.module:attribute"))
    """Where it is: `package.module:attribute`."""
    summary: str = field(validator=_like(r".*", "what it is, in one line"))
    """One line for listings."""
    requires: tuple[str, ...] = field(default=(), validator=_modules)
    """Top-level modules that must be installed, for instance `("mindspore",)`."""
    install: str = ""
    """The command that installs what is required."""


@frozen(kw_only=True)
class ComponentSpec(PluginSpec):
    """A network that stands in for one of svdkit's own on one backend."""

    component: str = field(validator=_like("unet|vae|image_encoder", "unet"))
    """`unet`, `vae` or `image_encoder`."""
    backend: str = field(validator=_like(_NAME, "mindspore"))
    """The backend's name."""


@hookspec
def svdkit_backends() -> Sequence[PluginSpec]:
    """Backends. The target is called as `target(device, dtype)`, each a string or None, and returns a
    `svdkit.backend.Backend`.
    """
    return ()


@hookspec
def svdkit_components() -> Sequence[ComponentSpec]:
    """Whole networks (a compiled engine, a quantised model) that replace the written-once one on a backend.

    The target is called as `target(folder, backend, variant)`, with the component's folder of the checkpoint and which
    of its weights the caller asked for (`"fp16"`, say; None for the plain ones), and returns an object that satisfies
    `UNet`, `VAE` or `ImageEncoder` of `svdkit.interfaces`. A component that is registered for a backend is used with
    it, unless the caller chooses another by name or `"default"`.
    """
    return ()


@hookspec
def svdkit_schedulers() -> Sequence[PluginSpec]:
    """Schedulers, that is, solvers. The target is called with the options that the user gave as keyword
    arguments and returns a `svdkit.interfaces.Scheduler`.
    """
    return ()


@hookspec
def svdkit_sigma_schedules() -> Sequence[PluginSpec]:
    """Sigma schedules. The target is called as `target(steps, **options)` and returns `steps` descending noise
    levels and a final 0.
    """
    return ()

"""Finding plugins: no tensor framework is imported to list them, and a broken one disturbs no other."""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.metadata
import importlib.util
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import pluggy
from attrs import frozen

from . import hookspecs
from .errors import (
    BrokenPluginError,
    DuplicatePluginError,
    InputError,
    MissingDependencyError,
    PluginWarning,
    SvdkitError,
    UnknownPluginError,
)
from .hookspecs import GROUP, ComponentSpec, PluginSpec

if TYPE_CHECKING:
    from .backend import Backend

KINDS = {
    "backend": "svdkit_backends",
    "scheduler": "svdkit_schedulers",
    "sigma schedule": "svdkit_sigma_schedules",
    "component": "svdkit_components",
}


@frozen
class PluginInfo:
    """What a listing tells of one plugin."""

    name: str
    summary: str
    available: bool
    reason: str
    """Why it is not available; empty if it is."""
    install: str
    """The command that makes it available, where one would."""
    origin: str
    """The entry point, and its distribution, that registered it."""
    replaces: str = ""
    """Of a component: which network of which backend."""


@frozen
class Entry:
    """A spec and who registered it."""

    spec: PluginSpec
    origin: str

    @property
    def replaces(self) -> str:
        """Of a component: `"unet of numpy"`, say."""
        return f"{self.spec.component} of {self.spec.backend}" if isinstance(self.spec, ComponentSpec) else ""


def entry_points() -> list[importlib.metadata.EntryPoint]:
    """Every entry point in svdkit's group."""
    return list(importlib.metadata.entry_points(group=GROUP))


def origin_of(point: importlib.metadata.EntryPoint) -> str:
    """How messages call an entry point: its name and its distribution's."""
    return f"{point.name} ({point.dist.name if point.dist else 'unknown distribution'})"


class Registry:
    """All plugins that are installed, by kind and name.

    Args:
        points: the entry points to look at; None for all that are installed.
    """

    def __init__(self, points: Iterable[importlib.metadata.EntryPoint] | None = None) -> None:
        self.manager = pluggy.PluginManager(GROUP)
        self.manager.add_hookspecs(hookspecs)
        self.broken: dict[str, str] = {}
        """Names of entry points that could not be used, and why."""
        for point in entry_points() if points is None else points:
            origin = origin_of(point)
            try:
                self.manager.register(point.load(), origin)
                self.manager.check_pending()
            except (Exception, SystemExit) as error:  # whatever a stranger's module raises must not stop the others
                self._isolate(origin, error)

    def _isolate(self, origin: str, error: BaseException) -> None:
        if plugin := self.manager.get_plugin(origin):
            self.manager.unregister(plugin)
        self.broken[origin] = f"{type(error).__name__}: {error}"
        warnings.warn(f"The plugin {origin} is broken and left out. {self.broken[origin]}", PluginWarning, stacklevel=3)

    def entries(self, kind: str) -> Iterator[Entry]:
        """Every spec of a kind, in the order in which plugins were found."""
        hook = getattr(self.manager.hook, KINDS[kind])
        for implementation in reversed(hook.get_hookimpls()):
            origin = implementation.plugin_name
            try:
                specs = list(implementation.function())
                expected = ComponentSpec if kind == "component" else PluginSpec
                wrong = [spec for spec in specs if not isinstance(spec, expected)]
                if wrong:
                    raise TypeError(f"{KINDS[kind]} returned {wrong[0]!r}, expected a {expected.__name__}")
            except (Exception, SystemExit) as error:
                self._isolate(origin, error)
                continue
            yield from (Entry(spec, origin) for spec in specs)

    def infos(self, kind: str) -> list[PluginInfo]:
        """Every plugin of a kind, by name, whether it can be used or not."""
        entries = list(self.entries(kind))
        infos = []
        for entry in entries:
            rivals = [e.origin for e in entries if (e.spec.name, e.replaces) == (entry.spec.name, entry.replaces)]
            missing = missing_modules(entry.spec)
            reason = f"the name is taken by {' and '.join(rivals)}" if len(rivals) > 1 else ""
            reason = reason or (f"{', '.join(missing)} is not installed" if missing else "")
            spec = entry.spec
            infos.append(
                PluginInfo(
                    name=spec.name,
                    summary=spec.summary,
                    available=not reason,
                    reason=reason,
                    install=spec.install if missing else "",
                    origin=entry.origin,
                    replaces=entry.replaces,
                )
            )
        return sorted(infos, key=lambda info: info.name)

    def load(self, kind: str, name: str) -> Callable[..., Any]:
        """What a plugin's spec points at.

        Raises:
            UnknownPluginError: no plugin has the name; the nearest names are given.
            DuplicatePluginError: two have.
            MissingDependencyError: its framework is not installed; the command is given.
            BrokenPluginError: it cannot be imported.
        """
        entries = list(self.entries(kind))
        found = [entry for entry in entries if entry.spec.name == name]
        if not found:
            raise self._unknown(kind, name, [entry.spec.name for entry in entries])
        if len(found) > 1:
            raise DuplicatePluginError(
                f"The {kind} name {name!r} is registered by {' and by '.join(e.origin for e in found)}. "
                "Uninstall one of them."
            )
        return self.resolve(kind, found[0])

    def resolve(self, kind: str, entry: Entry) -> Callable[..., Any]:
        """The object that one entry points at; raises as `load` does."""
        spec = entry.spec
        if missing := missing_modules(spec):
            how = f" Install it with: {spec.install}" if spec.install else ""
            raise MissingDependencyError(f"The {kind} {spec.name!r} needs {', '.join(missing)}.{how}")
        module, _, attribute = spec.target.partition(":")
        try:
            target: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:
            raise BrokenPluginError(
                f"The {kind} {spec.name!r}, registered by {entry.origin}, cannot be loaded from {spec.target}. "
                f"{type(error).__name__}: {error}"
            ) from error
        return target

    def component(self, component: str, backend: str, choice: str | None) -> Callable[..., Any] | None:
        """The replacement for a network on a backend, or None for svdkit's own.

        Args:
            component: `"unet"`, `"vae"` or `"image_encoder"`.
            backend: the backend's name.
            choice: a replacement's name; `"default"` for svdkit's own; None for the one registered, if any.
        """
        if choice == "default":
            return None
        fitting = [
            entry
            for entry in self.entries("component")
            if isinstance(entry.spec, ComponentSpec)
            and (entry.spec.component, entry.spec.backend) == (component, backend)
            and (choice == entry.spec.name or (choice is None and not missing_modules(entry.spec)))
        ]
        if choice is not None and not fitting:
            names = [e.spec.name for e in self.entries("component") if e.replaces == f"{component} of {backend}"]
            raise self._unknown(f"{component} for {backend}", choice, ["default", *names])
        if len(fitting) > 1:
            raise DuplicatePluginError(
                f"The {component} of {backend!r} is replaced by "
                f"{' and by '.join(f'{e.spec.name!r} of {e.origin}' for e in fitting)}. "
                f"Choose one: components={{{component!r}: {fitting[0].spec.name!r}}}, or 'default' for none."
            )
        if not fitting:
            return None
        try:
            return self.resolve("component", fitting[0])
        except BrokenPluginError as error:
            if choice is not None:
                raise
            warnings.warn(f"{error} svdkit's own is used instead.", PluginWarning, stacklevel=2)
            return None

    def _unknown(self, kind: str, name: str, names: list[str]) -> Exception:
        for origin, error in self.broken.items():
            if origin.split(" ")[0] == name:
                return BrokenPluginError(f"The plugin {origin}, which may hold the {kind} {name!r}, is broken. {error}")
        near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        left_out = f" Left out, since broken: {', '.join(self.broken)}." if self.broken else ""
        known = ", ".join(sorted(names)) or "none"
        return UnknownPluginError(f"There is no {kind} {name!r}. {hint}Known: {known}.{left_out}")


def parse_options(text: str) -> tuple[str, dict[str, Any]]:
    """A name and its options: `"dpmpp_2m_sde:eta=0.5,solver_type=heun"`.

    Raises:
        InputError: the text is not of that form.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key:
            raise InputError(f"{text!r} does not read as name:option=value,option=value.")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            options[key] = float(value) if value in ("inf", "nan") else value
    return name.strip(), options


def _options(target: Callable[..., Any]) -> str:
    parameters = inspect.signature(target).parameters.values()
    return ", ".join(f"{p.name}={p.default!r}" for p in parameters if p.default is not p.empty) or "no options"


def missing_modules(spec: PluginSpec) -> list[str]:
    """What a spec requires and is not installed; imports nothing."""
    return [module for module in spec.requires if importlib.util.find_spec(module) is None]


@cache
def registry() -> Registry:
    """The process's registry, made when it is first asked for."""
    return Registry()


def list_backends() -> list[PluginInfo]:
    """Every backend: name, whether it is available, why not, what to install. Imports no framework."""
    return registry().infos("backend")


def list_schedulers() -> list[PluginInfo]:
    """Every scheduler, as `list_backends` tells of backends."""
    return registry().infos("scheduler")


def list_sigma_schedules() -> list[PluginInfo]:
    """Every sigma schedule, as `list_backends` tells of backends."""
    return registry().infos("sigma schedule")


def list_components() -> list[PluginInfo]:
    """Every network that stands in for one of svdkit's own, as `list_backends` tells of backends."""
    return registry().infos("component")


def make(kind: str, name: str, options: Mapping[str, Any] | None = None, *args: Any) -> Any:
    """Calls what a plugin registered; options that it does not take are an `InputError` that lists those it does."""
    options = options or {}
    target = registry().load(kind, name)
    try:
        return target(*args, **options)
    except SvdkitError:
        raise
    except (TypeError, ValueError, ArithmeticError) as error:
        if not options:
            raise
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        raise InputError(f"The {kind} {name!r} does not take {given}: {error}. It takes {_options(target)}.") from error


def make_backend(name: str, device: object = None, dtype: str | None = None) -> Backend:
    """A backend by its name, on a device that is told as text or as a framework's own object for it."""
    made: Backend = make("backend", name, None, None if device is None else str(device), dtype)
    return made

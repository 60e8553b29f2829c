"""Networks that are in memory only while they are used."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

from ..arch.transformer import ForwardChunking
from ..backend import Backend
from ..checkpoint import check_component, component_config, load_component
from ..errors import InputError
from ..interfaces import ChunksFeedForward
from ..plugins import registry

COMPONENTS = ("image_encoder", "vae", "unet")


class OnDemand:
    """A network that is loaded when it is first asked for what only it knows, and forgotten when released.

    Args:
        load: reads and builds it.
        **known: attributes that are known without it; once it was loaded, `config` and `backend` are.
    """

    def __init__(self, load: Callable[[], Any], **known: Any) -> None:
        self._load = load
        self._network: Any = None
        self._chunking: tuple[int | None, int] | None = None
        self.__dict__.update(known)

    @property
    def loaded(self) -> bool:
        """Whether it is in memory."""
        return self._network is not None

    def release(self) -> None:
        """Forget the network; its memory is free once nobody else holds it."""
        if self._network is not None:
            is_alive = _liveness(self._network)
            self._network = None
            if is_alive():
                gc.collect()  # what refers to itself, as a compiled network does, would wait for this

    def enable_forward_chunking(self, chunk_size: int | None = None, dim: int = 0) -> None:
        """As the UNet has it, now and whenever it is loaded."""
        self._chunking = chunk_size, dim
        if self.loaded:
            self._chunk()

    def disable_forward_chunking(self) -> None:
        """As the UNet has it, now and whenever it is loaded."""
        self._chunking = None
        if isinstance(self._network, ChunksFeedForward):
            self._network.disable_forward_chunking()

    def _chunk(self) -> None:
        if self._chunking is not None and isinstance(self._network, ChunksFeedForward):
            self._network.enable_forward_chunking(*self._chunking)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and pickling ask for such, and must not load anything
            raise AttributeError(name)
        return getattr(self._now(), name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        """The network's own call."""
        return self._now()(*args, **options)

    def _now(self) -> Any:
        if self._network is None:
            self._network = self._load()
            self._chunk()
            for name in ("config", "backend"):  # other stages ask for them, and must not load it again
                if hasattr(self._network, name):
                    setattr(self, name, getattr(self._network, name))
        return self._network


def _liveness(network: Any) -> Callable[[], bool]:
    """What tells whether a network is still in memory; it is taken to be if Python cannot tell."""
    try:
        network = weakref.ref(network)
    except TypeError:
        return lambda: True
    return lambda: network() is not None


def chunking(unet: Any) -> tuple[int | None, int] | None:
    """What `enable_forward_chunking` was called with; None if layers run whole, or if the network does not tell."""
    found = getattr(unet, "_chunking", None)
    if isinstance(found, ForwardChunking):
        return None if found.size is None else (found.size, found.axis)
    return found if isinstance(unet, OnDemand) else None


def release(*networks: Any) -> None:
    """Release those networks that can be."""
    for network in networks:
        if isinstance(network, OnDemand):
            network.release()


@frozen
class Loader:
    """Where a pipeline's networks come from.

    Args:
        folder: the checkpoint.
        backend: what computes.
        variant: which weights.
        choices: replacements that plugins offer, by component.
    """

    folder: Path
    backend: Backend
    variant: str | None
    choices: Mapping[str, str]

    def load(self, name: str) -> Any:
        """A network, in memory; see `svdkit.checkpoint.load_component`."""
        return load_component(name, self.folder, self.backend, variant=self.variant, choice=self.choices.get(name))

    def on_demand(self, name: str) -> OnDemand:
        """A network that is not yet loaded; its files are checked as far as their headers tell."""
        known: dict[str, Any] = {}
        if registry().component(name, self.backend.name, self.choices.get(name)) is None:
            check_component(name, self.folder, variant=self.variant)
            known["config"], known["backend"] = component_config(name, self.folder, self.backend)
        return OnDemand(lambda: self.load(name), **known)

    def networks(self, on_demand: bool) -> dict[str, Any]:
        """All networks by name."""
        make: Callable[[str], Any] = self.on_demand if on_demand else self.load
        return {name: make(name) for name in COMPONENTS}


def compile_all(networks: Iterable[tuple[str, Any]]) -> None:
    """Compile networks.

    Raises:
        InputError: one cannot be compiled.
    """
    for name, network in networks:
        if not hasattr(network, "compile"):
            raise InputError(f"The {name} that a plugin offers cannot be compiled; leave `compile=False`.")
        network.compile()

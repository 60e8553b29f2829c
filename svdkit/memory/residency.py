"""Which of a pipeline's networks are in memory, call by call."""

from __future__ import annotations

from typing import Any

from attrs import Factory, define

from ..interfaces import ChunksFeedForward
from .on_demand import COMPONENTS, Loader, OnDemand, chunking, release
from .planning import Job, Settings
from .policy import MemoryPolicy


@define
class Residency:
    """The networks that a pipeline's memory policy may load anew or cut: those that it loaded and nobody replaced.

    Args:
        policy: how the pipeline keeps within its memory.
        loader: where its networks come from; None if they were given to it.
        networks: what the loader gave, by name.
    """

    policy: MemoryPolicy = Factory(MemoryPolicy)
    loader: Loader | None = None
    networks: dict[str, Any] = Factory(dict)
    _chunked: tuple[int, int] | None = None
    """How an earlier call had the UNet's feed-forward layers in pieces, for want of memory."""

    def owns(self, pipe: Any) -> bool:
        """Whether the pipeline's networks are those that were loaded, and none is the caller's."""
        return self.loader is not None and all(getattr(pipe, name) is self.networks[name] for name in COMPONENTS)

    def fit(self, pipe: Any, job: Job, decode_chunk: int | None) -> Settings:
        """What is done in one generation to need less memory; it is applied to the pipeline's networks.

        Args:
            pipe: has `image_encoder`, `vae` and `unet`, which may become others.
            job: what is generated.
            decode_chunk: what the caller asked for; None if anything will do.
        """
        if not self.owns(pipe):
            self.loader, self.networks = None, {}  # loaded anew, what the caller has put there would be lost
        networks, pieces = [getattr(pipe, name) for name in COMPONENTS], chunking(pipe.unet)
        loaded = not any(isinstance(network, OnDemand) for network in networks)
        settings = self.policy.settings(job, decode_chunk, loaded, movable=self.loader is not None)
        if settings.on_demand:
            release(*networks)  # of which some were loaded for their configuration alone
            if loaded and self.loader is not None:
                self.networks = self.loader.networks(on_demand=True)
                if pieces is not None:
                    self.networks["unet"].enable_forward_chunking(*pieces)
                for name, network in self.networks.items():
                    setattr(pipe, name, network)
        if isinstance(pipe.unet, ChunksFeedForward) and pieces in (None, self._chunked):  # else the caller's
            if settings.forward_chunk is not None:
                pipe.unet.enable_forward_chunking(settings.forward_chunk)
            elif self._chunked is not None:
                pipe.unet.disable_forward_chunking()
            self._chunked = None if settings.forward_chunk is None else (settings.forward_chunk, 0)
        return settings

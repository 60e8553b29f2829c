"""What `memory="auto"`, `"low"` and `"max"` mean for one pipeline, call by call."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from attrs import frozen

from ..backend import Backend
from ..errors import CheckpointError, MemoryWarning
from .planning import Job, Planner, Settings, check_mode, fixed

T = TypeVar("T")


@frozen
class MemoryPolicy:
    """How a pipeline keeps within its memory.

    Args:
        mode: `"auto"`, `"low"` or `"max"`.
        planner: of the checkpoint; None for a pipeline of given components, about which nothing can be planned.
        base: bytes that the process held before the networks were loaded.
        compiled: whether networks are compiled, and so hold on to their weights.
        once: whether there is one generation only, so that a network that was used is not needed again.
    """

    mode: str = "auto"
    planner: Planner | None = None
    base: int = 0
    compiled: bool = False
    once: bool = False

    def __attrs_post_init__(self) -> None:
        check_mode(self.mode, self.compiled)

    @property
    def on_demand(self) -> bool:
        """Whether networks begin as not loaded: always in `"low"`; in `"auto"` for one call, or if not all can fit."""
        if self.mode != "auto" or self.compiled or self.planner is None:
            return self.mode == "low"
        if self.once:
            return True
        # Whatever is generated later, the networks have to fit, and a little beside them.
        with suppress(CheckpointError):
            return not self.planner.plan("", Job(64, 64, 1), fixed("max", 1, 1), self.base).fits
        return False  # a network by a plugin, of which nothing is known

    def settings(self, job: Job, decode_chunk: int | None, loaded: bool, movable: bool) -> Settings:
        """The settings of one call; warns of what changes results, and of what is not expected to fit.

        Args:
            job: what is generated.
            decode_chunk: what the caller asked for; None if anything will do.
            loaded: whether all networks are in memory.
            movable: whether they may be loaded one after another, unless they are compiled.
        """
        if self.mode != "auto" or self.planner is None:
            return fixed("max" if self.planner is None else self.mode, job.num_frames, decode_chunk)
        name, movable = self.planner.folder.name, movable and not self.compiled
        try:
            plan = self.planner.choose(name, job, decode_chunk, self.base, movable, loaded)
        except CheckpointError:  # see `on_demand`
            return fixed("max", job.num_frames, decode_chunk)
        if warning := plan.warning(decode_chunk):
            warnings.warn(warning, MemoryWarning, stacklevel=4)
        return plan.settings

    def decode(self, attempt: Callable[[int], T], chunk: int, asked: bool, backend: Backend) -> tuple[T, int]:
        """What `attempt(chunk)` returns, and the chunk: in `"auto"` halved whenever memory runs out.

        Args:
            attempt: decodes so many frames at a time.
            chunk: to begin with.
            asked: whether the caller asked for that chunk, which is then kept.
            backend: knows its errors.
        """
        while True:
            try:
                return attempt(chunk), chunk
            except Exception as error:
                if asked or self.mode != "auto" or chunk == 1 or not backend.is_out_of_memory(error):
                    raise
            gc.collect()  # the error's traceback held what was alive
            chunk = (chunk + 1) // 2
            warnings.warn(
                f"Decoding ran out of memory; it goes on with decode_chunk_size={chunk}, and frames differ slightly.",
                MemoryWarning,
                stacklevel=4,
            )

"""A study's folder: every finished cell is one file, which is either complete or not there."""

from __future__ import annotations

import io
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
from attrs import frozen

from ..backend import Host
from ..errors import OutputError

if TYPE_CHECKING:
    from filelock import FileLock


@frozen(eq=False)
class Result:
    """What was computed of one cell."""

    record: Mapping[str, Any]
    """Numbers by name, as JSON has them."""
    latents: Host
    """(F, C, h, w), float32."""
    frames: Host
    """(F, H, W, 3), uint8."""


@frozen
class Store:
    """The folder of a study. Several processes may use one at the same time.

    Args:
        folder: made when something is written to it.
    """

    folder: Path

    # Cells

    def save(self, key: str, result: Result, kind: str = "cells") -> None:
        """Keep a result; once this returns, it is on the disk whatever happens to this process."""
        file = io.BytesIO()
        record = np.frombuffer(json.dumps(dict(result.record)).encode(), np.uint8)
        np.savez_compressed(file, record=record, latents=result.latents, frames=result.frames)
        self.write(f"{kind}/{key}.npz", file.getvalue())
        self.forget_failure(key)
        for left in (self.folder / kind).glob(f".{key}.*"):  # by a process that was killed while it wrote
            left.unlink(missing_ok=True)

    def forget_failure(self, key: str) -> None:
        """As if the cell had not been tried."""
        (self.folder / "failures" / f"{key}.json").unlink(missing_ok=True)

    def save_failure(self, key: str, error: str) -> None:
        """Keep why a cell, or a reference, has no result."""
        self.write(f"failures/{key}.json", json.dumps({"error": error}).encode())

    def has(self, key: str, kind: str = "cells") -> bool:
        """Whether a result is there."""
        return (self.folder / kind / f"{key}.npz").exists()

    def failure(self, key: str) -> str | None:
        """Why a cell has no result; None if it has one or was not tried."""
        if self.has(key) or self.has(key, "references"):
            return None
        try:
            content = (self.folder / "failures" / f"{key}.json").read_bytes()
        except FileNotFoundError:
            return None
        return str(json.loads(content)["error"])

    def record(self, key: str, kind: str = "cells") -> dict[str, Any]:
        """The numbers of a result.

        Raises:
            KeyError: there is none.
        """
        return dict(json.loads(self._read(key, kind, "record").tobytes()))

    def frames(self, key: str, kind: str = "cells") -> Host:
        """The video of a cell, (F, H, W, 3) in 8 bits; raises as `record` does."""
        return self._read(key, kind, "frames")

    def latents(self, key: str, kind: str = "cells") -> Host:
        """The latents of a cell, (F, C, h, w) in float32; raises as `record` does."""
        return self._read(key, kind, "latents")

    def result(self, key: str, kind: str = "cells") -> Result:
        """All of it; raises as `record` does."""
        return Result(self.record(key, kind), self.latents(key, kind), self.frames(key, kind))

    def reference(self, image: str, seed: int, guidance: str) -> Host:
        """The reference's video for an image, a seed and a guidance; raises as `record` does."""
        for one in self.metadata.get("references", ()):
            if (one["image"], one["seed"], one["guidance"]) == (image, seed, guidance):
                return self.frames(one["key"], "references")
        raise KeyError(f"The study has no reference for {image!r}, seed {seed}, guidance {guidance}.")

    def _read(self, key: str, kind: str, name: str) -> Host:
        try:
            with np.load(self.folder / kind / f"{key}.npz", allow_pickle=False) as arrays:
                return np.asarray(arrays[name])
        except FileNotFoundError:
            raise KeyError(f"{self.folder} has no result {key!r} among its {kind}.") from None
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            path = self.folder / kind / f"{key}.npz"
            raise OutputError(f"{path} is damaged ({error}). Remove it, and the study computes it again.") from error

    def claim(self, key: str) -> FileLock | None:
        """A lock that makes this process the one to compute a cell, until it is released or the process ends.

        None if another process has it.
        """
        from filelock import FileLock, Timeout

        (self.folder / "locks").mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "locks" / f"{key}.lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return None
        return lock

    # The study

    @property
    def metadata(self) -> dict[str, Any]:
        """What the study was made with: `study.json`; empty if it has not run."""
        path = self.folder / "study.json"
        return dict(json.loads(path.read_bytes())) if path.exists() else {}

    def write(self, name: str, content: bytes) -> None:
        """Write a file of the folder, durably: under another name, to the disk, then in place of what was there.

        Raises:
            OutputError: the folder cannot be written to.
        """
        target = self.folder / name
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            if os.name == "posix":  # the name, too; elsewhere folders cannot be opened
                folder = os.open(target.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
        except OSError as error:
            raise OutputError(f"The study cannot be written to {target}: {error}. Choose another folder.") from error

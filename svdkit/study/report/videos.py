"""Which videos are embedded, and as what: one WebP picture each, its frames side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..table import IDENTITY

MOST_BYTES = 4_000_000  # of all pictures together, before base64 makes a third more of them
MOST_PIXELS = 96  # of a frame's longer side
MOST_FRAMES = 16
QUALITY = 85

Frames = Callable[[str], "np.ndarray[Any, Any]"]
References = Callable[[Any, Any, Any], "np.ndarray[Any, Any]"]
Shape = tuple[int, int, int]  # frames, height, width


class Wall(NamedTuple):
    """The embedded videos.

    Attributes:
        tiles: one a video: `key`, the values of IDENTITY, `reference` (an index of `sheets`) and `sheet` (likewise).
        sheets: WebP pictures in base64, each with its frames from left to right.
        width: of a frame, in pixels.
        height: of a frame, in pixels.
        frames: how many frames a video has.
        left_out: how many finished cells have no video here.
        loss: RMS difference of embedded and true pixels, in steps of 1/255.
        scaled: the frames as they were made, (frames, height, width), where that differs from what is embedded.
    """

    tiles: list[dict[str, Any]]
    sheets: list[str]
    width: int
    height: int
    frames: int
    left_out: int
    loss: float
    scaled: Shape | None

    @property
    def note(self) -> str:
        """What a reader must know: what is left out, and how exact the rest is. Empty without videos."""
        if not self.tiles:
            return ""
        seeds, schedules = (
            ", ".join(dict.fromkeys(str(tile[name]) for tile in self.tiles)) for name in ("seed", "schedule")
        )
        note = f"All {len(self.tiles)} finished cells are here."
        if self.left_out:
            note = (
                f"Here are {len(self.tiles)} videos, of seed {seeds} and schedule {schedules}; {self.left_out} "
                "other finished cells are left out to keep the page small, and are in the study's folder."
            )
        if self.scaled:
            frames, height, width = self.scaled
            was = f"{frames} frames of {width} × {height}"
            note += f" They were made with {was}, and are shown with {self.frames} of {self.width} × {self.height}."
        return f"{note} Compression (WebP) changes pixels by {self.loss:.1f}/255 RMS; smaller differences mean nothing."


def wall(rows: Sequence[dict[str, Any]], frames: Frames, reference: References, most_bytes: int = MOST_BYTES) -> Wall:
    """Choose and encode videos until `most_bytes` are spent.

    The first seed comes first, with every guidance, schedule, budget, image and scheduler; then the next seed, and so
    on. Of a (seed, guidance, schedule, budget, image), all schedulers are embedded or none: what is shown can be
    compared.

    Args:
        rows: the finished cells in the order of the grid: `key` and the values of IDENTITY.
        frames: gives the frames of a key, uint8 (F, H, W, 3).
        reference: gives the frames of the reference solution of an image, seed and guidance.
    """
    order = {name: {value: i for i, value in enumerate(dict.fromkeys(row[name] for row in rows))} for name in IDENTITY}
    slices: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for row in rows:
        turn = tuple(order[name][row[name]] for name in ("seed", "guidance", "schedule", "budget", "image"))
        slices.setdefault(turn, []).append(row)
    tiles: list[dict[str, Any]] = []
    sheets: list[bytes] = []
    losses: list[float] = []
    place: dict[Any, int] = {}  # of a key's sheet, or of a block's reference
    shape: Shape | None = None
    for _, chosen in sorted(slices.items()):
        block = (chosen[0]["image"], chosen[0]["seed"], chosen[0]["guidance"])
        try:
            videos = {} if block in place else {block: reference(*block)}
        except KeyError:  # nothing to compare with
            continue
        videos |= {row["key"]: frames(row["key"]) for row in chosen if row["key"] not in place}
        encoded = {name: _sheet(video) for name, video in videos.items()}
        if tiles and sum(map(len, sheets)) + sum(len(data) for data, _ in encoded.values()) > most_bytes:
            break
        for name, (data, loss) in encoded.items():
            shape = shape or _shape(videos[name])
            place[name] = len(sheets)
            sheets.append(data)
            losses.append(loss)
        for row in chosen:
            shown = {name: row[name] for name in ("key", *IDENTITY)}
            tiles.append(shown | {"sheet": place[row["key"]], "reference": place[block]})
    if shape is None:
        return Wall([], [], 0, 0, 0, 0, 0.0, None)
    count, height, width = _reduced(shape)
    scaled = shape if (count, height, width) != shape else None
    loss = float(np.sqrt(np.mean(np.square(losses))))
    coded = [base64.b64encode(data).decode() for data in sheets]
    return Wall(tiles, coded, width, height, count, len(rows) - len(tiles), loss, scaled)


def _shape(video: np.ndarray[Any, Any]) -> Shape:
    count, height, width, _ = video.shape
    return count, height, width


def _reduced(shape: Shape) -> Shape:
    count, height, width = shape
    scale = min(1.0, MOST_PIXELS / max(height, width))
    return min(count, MOST_FRAMES), max(1, round(height * scale)), max(1, round(width * scale))


def _sheet(video: np.ndarray[Any, Any]) -> tuple[bytes, float]:
    """A video's sheet as WebP, and what the compression changed (RMS, in steps of 1/255)."""
    count, height, width = _reduced(_shape(video))
    chosen = video[np.linspace(0, len(video) - 1, count).round().astype(int)]
    if chosen.shape[1:3] != (height, width):
        resized = [Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS) for frame in chosen]
        chosen = np.stack([np.asarray(frame) for frame in resized])
    sheet = np.concatenate(list(chosen), axis=1)
    written = io.BytesIO()
    Image.fromarray(sheet).save(written, "WEBP", quality=QUALITY, method=4)
    seen = np.asarray(Image.open(written).convert("RGB"), np.float32)
    return written.getvalue(), float(np.sqrt(np.mean((seen - sheet) ** 2)))

"""What training looks like: curves of losses, strips of frames."""

from __future__ import annotations

import csv
import html
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:
    from .evaluate import Example

BIN = 50
"""Steps that a point of a curve is the mean of."""


def loss_curve(log: Path) -> None:
    """Draw a log of losses, `step,loss` a line, as a PNG beside it."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    with log.open(newline="") as file:
        losses = np.array([float(row[1]) for row in csv.reader(file)])
    size = max(1, min(BIN, len(losses)))
    means = losses[: len(losses) // size * size].reshape(-1, size).mean(1)
    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(np.arange(len(means)) * size + size / 2, means)
    axes.set(xlabel="step", ylabel=f"loss, mean of {size} steps", yscale="log")
    axes.grid(alpha=0.3)
    figure.savefig(log.with_suffix(".png"), dpi=100, bbox_inches="tight")
    plt.close(figure)


def strips(rows: Sequence[npt.NDArray[np.uint8]], scale: int = 1) -> Image.Image:
    """Videos `(F, H, W, 3)` below each other, frames beside each other, each pixel `scale` wide and high."""
    sheet = np.concatenate([np.concatenate(list(row), 1) for row in rows])
    picture = Image.fromarray(sheet)
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def page(folder: Path, figures: Mapping[str, Any], examples: Sequence[Example]) -> Path:
    """Write `index.html`: figures, and of each example the true clip, the model's and the repeated first frame.

    Beside it goes `examples.png`, the same three of one example a scene, frame by frame.
    """
    rows = [
        f"<tr><th>{html.escape(example.clip.scene)}<br>seed {i}<br>{_gain(example):+.1f} dB</th>"
        + "".join(f"<td>{_animation(video)}</td>" for video in (example.clip.frames, example.made, example.repeated))
        + "</tr>"
        for i, example in enumerate(examples)
    ]
    first = {example.clip.scene: example for example in reversed(examples)}
    strips([video for e in first.values() for video in (e.clip.frames, e.made, e.repeated)]).save(
        folder / "examples.png"
    )
    path = folder / "index.html"
    path.write_text(
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Evaluation</title><style>"
        "body{font:16px system-ui;margin:2rem;color-scheme:light dark} td img{image-rendering:pixelated;width:192px}"
        "th{text-align:left;padding-right:1rem;font-weight:normal}</style><h1>Evaluation</h1>"
        f"<pre>{html.escape(json.dumps(dict(figures), indent=2))}</pre>"
        "<p>On the left, how much nearer to the truth the model's frames are than the first frame is.</p>"
        "<table><tr><th></th><th>true</th><th>made</th><th>first frame repeated</th></tr>"
        f"{''.join(rows)}</table></html>",
        encoding="utf-8",
    )
    return path


def _gain(example: Example) -> float:
    """Decibels, mean over all frames but the first."""
    made, repeated = example.decibels()
    return float((made - repeated)[1:].mean())


def _animation(video: npt.NDArray[np.uint8], milliseconds: int = 143) -> str:
    """A looping picture inside the page."""
    file = BytesIO()
    first, *rest = (Image.fromarray(frame) for frame in video)
    first.save(file, "WEBP", save_all=True, append_images=rest, duration=milliseconds, loop=0, quality=90)
    return f"<img alt='' src='data:image/webp;base64,{b64encode(file.getvalue()).decode()}'>"

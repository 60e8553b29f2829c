"""What training looks like: curves of losses, strips of frames."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

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

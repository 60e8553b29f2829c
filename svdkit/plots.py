"""Pictures of noise levels; needs matplotlib, which the extra `plot` brings."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from .errors import MissingDependencyError, OutputError
from .files import as_output_error, replacing

FORMATS = (".png", ".svg", ".pdf")


def plot_sigmas(curves: Mapping[str, Sequence[float]], path: str | os.PathLike[str]) -> Path:
    """Draw noise levels beside each other, over the part of the steps, on a logarithmic axis.

    Args:
        curves: noise levels by name, each with its final 0, which a logarithmic axis does not have.
        path: a .png, .svg or .pdf file; replaced once the new one is complete.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OutputError: the path cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise OutputError(f"A plot is written as {', '.join(FORMATS)}, not as {path.name!r}.")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("Plots need matplotlib. Install it with: pip install 'svdkit[plot]'") from None

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, sigmas in curves.items():
        positive = [sigma for sigma in sigmas if sigma > 0]
        steps = len(sigmas) - 1
        axes.plot([i / steps for i in range(len(positive))], positive, marker="o", markersize=3, label=name)
    axes.set(yscale="log", xlabel="part of the steps", ylabel="sigma")
    axes.grid(alpha=0.3)
    axes.legend()
    with as_output_error(path), replacing(path) as finished:
        figure.savefig(finished, dpi=150)
    return path

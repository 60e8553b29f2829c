"""Draws all comparisons of a folder: every run, and the ratio of medians with its interval.

python benchmarks/chart.py            # benchmarks/results/*.json to benchmarks/results/speed.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from svdkit.errors import InputError, MissingDependencyError

OURS, THEIRS = "tab:blue", "tab:gray"


def comparisons(folder: Path) -> list[dict[str, Any]]:
    """Results that compare two sides, by name."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [result for result in results if "ratio" in result]


def draw(folder: Path, path: Path) -> Path:
    """A row for each comparison, in units of diffusers' median.

    Raises:
        InputError: the folder has none.
        MissingDependencyError: matplotlib is not installed.
    """
    results = comparisons(folder)
    if not results:
        raise InputError(f"{folder} has no comparison; `python benchmarks/compare.py unet` makes one.")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingDependencyError("Charts need matplotlib. Install it with: pip install 'svdkit[plot]'") from None

    figure = Figure(figsize=(10, 1.4 + 0.35 * len(results)), layout="constrained")
    axes = figure.subplots()
    for row, result in enumerate(results):
        theirs = result["spread"]["diffusers"]["median"]
        for side, colour in (("diffusers", THEIRS), ("svdkit", OURS)):
            runs = [seconds / theirs for seconds in result["seconds"][side]]
            axes.plot(runs, [row] * len(runs), "o", color=colour, alpha=0.4, label=None if row else side)
        ratio, low, high = result["ratio"]
        axes.plot([low, high], [row, row], color=OURS, linewidth=3)
        axes.plot(ratio, row, "|", color=OURS, markersize=18, markeredgewidth=2)
        ours = result["spread"]["svdkit"]["median"]
        text = f"{ours:.3g} s / {theirs:.3g} s = {ratio:.2f} ({low:.2f} to {high:.2f})"
        axes.text(1.01, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    axes.axvline(1, color=THEIRS, linewidth=1)
    axes.set(xlabel="seconds / median of diffusers", ylim=(len(results) - 0.5, -0.5))
    axes.set_yticks(range(len(results)), [result["name"] for result in results], fontsize=8)
    axes.set_xlim(left=0)
    figure.legend(loc="outside upper left", ncols=2, fontsize=8)
    figure.savefig(path, dpi=150)
    return path


def main() -> None:
    """Draw and say where."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results", help="folder of JSON files")
    parser.add_argument("-o", "--output", type=Path, help="a .png, .svg or .pdf file")
    options = parser.parse_args()
    print(draw(options.results, options.output or options.results / "speed.png"))


if __name__ == "__main__":
    main()

"""svdkit beside diffusers, in processes of their own, in turn: one part of a generation, or all of it.

python benchmarks/compare.py unet --backend mindspore               # one guided step, 256x256, 4 frames
python benchmarks/compare.py decode --backend torch --dtype bfloat16
python benchmarks/compare.py generate --backend mindspore           # whole processes, start-up and loading included

Parts: unet, decode (all frames at once), encode and image-encoder (one picture), generate. Both sides have the same
float16 checkpoint and the same input, and their outputs are compared before any time is taken. The UNet gets the batch
of two that guidance needs. svdkit computes what depends on the conditioning alone before the clock starts, as it does
once a generation; diffusers has no such thing and computes it in every step.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import chart
from attrs import evolve
from record import name_of, ratio, save, spread, warn_if_busy
from sides import PARTS, Task, add_options, task_of
from workers import measure

from svdkit.errors import SvdkitError


def compare(ours: Task, theirs: Task, rounds: int, folder: Path) -> Path:
    """Measure, print, and write the result.

    Returns:
        the file.

    Raises:
        SvdkitError: outputs differ, or a process ended.
    """
    part = ours.parts[0]
    measured = measure({"svdkit": ours, "diffusers": theirs}, rounds)
    answers = measured["answers"]
    seconds = {side: [answer["seconds"] for answer in told] for side, told in answers.items()}
    spreads = {side: spread(times) for side, times in seconds.items()}
    middle, low, high = ratio(seconds["svdkit"], seconds["diffusers"])
    special = ["compiled"] * ours.compile + ["peer-compiled"] * theirs.compile
    name = name_of(part, ours, timed=special)
    peaks = {side: max(answer["peak_resident"] for answer in told) for side, told in answers.items()}
    print(f"{name}: outputs differ by {measured['error']:.1e} (at most {measured['bound']:.0e})")
    for side, s in spreads.items():
        print(
            f"{side:10}{s['median']:10.3f} s   quartiles {s['lower_quartile']:.3f} to {s['upper_quartile']:.3f}, all "
            f"{s['least']:.3f} to {s['most']:.3f}   peak resident {peaks[side] / 1e9:.2f} GB"
        )
        if reached := answers[side][-1].get("reached"):
            print(" " * 10 + ", ".join(f"{point} after {at:.1f} s" for point, at in reached.items()))
    print(f"ratio     {middle:10.3f}     95 % interval {low:.3f} to {high:.3f}, of {rounds} runs each")
    figures = {"ratio": (middle, low, high), "spread": spreads, "seconds": seconds, "peak_resident": peaks}
    return save(folder, name, ours, {**figures, "compiled": special, **measured})


def main() -> None:
    """Compare one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    add_options(parser)
    parser.add_argument("--compile", action="store_true", help="compile svdkit's UNet and decoder")
    parser.add_argument("--peer-compile", action="store_true", help="compile those of diffusers with torch.compile")
    options = parser.parse_args()
    try:
        warn_if_busy()
        ours = task_of(options, options.part, compile=options.compile)
        peer_device = ours.device if ours.backend == "torch" else "cpu"
        theirs = evolve(ours, side="diffusers", compile=options.peer_compile, device=peer_device)
        print(compare(ours, theirs, options.runs, options.results))
        print(chart.draw(options.results, options.results / "speed.png"))
    except SvdkitError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()

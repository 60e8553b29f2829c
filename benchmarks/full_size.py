"""A full-size img2vid-xt checkpoint, from the disk to frames: time of each stage and peak resident memory.

python benchmarks/full_size.py                  # makes random weights in the true configuration once, 4.5 GB
python benchmarks/full_size.py --model FOLDER   # or takes a checkpoint
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
from pathlib import Path

import numpy as np

import svdkit
from svdkit.testing.random_checkpoint import write_random_checkpoint


def main() -> None:
    """Generate once and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("out/img2vid-xt-random"))
    parser.add_argument("--backend", default="mindspore")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    if not options.model.exists():
        print(f"writing random weights to {options.model}")
        write_random_checkpoint(options.model)
    video = svdkit.generate(
        Path(svdkit.__file__).parent / "assets" / "photo.jpg",
        model=options.model,
        backend=options.backend,
        seed=0,
        height=options.height,
        width=options.width,
        num_frames=options.frames,
        num_inference_steps=options.steps,
        output_type="np",
    )
    figures = {
        "machine": f"{platform.machine()} {platform.processor()}".strip(),
        "backend": f"{video.backend} {video.device} {video.dtype}",
        "size": f"{options.frames} frames of {options.height}x{options.width}, {options.steps} steps",
        "seconds": {stage: round(seconds, 1) for stage, seconds in video.timings.items()},
        "peak_resident_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "frames_finite": bool(np.isfinite(video.frames).all()),
        "frames_std": round(float(video.frames.std()), 4),
    }
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

"""`python -m training.world SHEET.png`: a contact sheet, a clip a row."""

from __future__ import annotations

import argparse

import numpy as np
from PIL import Image

from training.world import SCENES, clip


def main() -> None:
    """Write the sheet."""
    parser = argparse.ArgumentParser(
        prog="python -m training.world", description="Write a contact sheet, a clip a row."
    )
    parser.add_argument("sheet", help="the PNG file to write")
    parser.add_argument("--scene", choices=SCENES, help="every row of this scene (default: each scene in turn)")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=96, help="pixels a frame (default: 96)")
    parser.add_argument("--seed", type=int, default=0, help="of the first row")
    parser.add_argument("--fps", type=int, default=7)
    parser.add_argument("--motion-bucket-id", type=int, default=127)
    a = parser.parse_args()
    names = [a.scene] if a.scene else list(SCENES)
    rows = [
        np.concatenate(
            clip(
                a.seed + row,
                scene=names[row % len(names)],
                size=a.size,
                frames=a.frames,
                fps=a.fps,
                motion_bucket_id=a.motion_bucket_id,
            ).frames,
            axis=1,
        )
        for row in range(a.rows)
    ]
    Image.fromarray(np.concatenate(rows)).save(a.sheet)


if __name__ == "__main__":
    main()

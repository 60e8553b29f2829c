"""Runs one generation and prints, as JSON, the memory that was planned and what the process really needed.

python tests/memory_peaks.py BACKEND HEIGHT WIDTH FRAMES FOLDER

Linux only: the peak is the kernel's own record of resident memory, set back before it. The environment sets
MALLOC_MMAP_THRESHOLD_: arrays are then given back when they are freed, as those of real sizes are anyway.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from svdkit.memory.planning import plan
from svdkit.pipeline import StableVideoDiffusionPipeline
from svdkit.testing.random_checkpoint import CLIP_XT, UNET_XT, VAE_XT, write_random_checkpoint

UNET = UNET_XT | {
    "block_out_channels": [64, 128, 128],
    "num_attention_heads": [2, 4, 4],
    "cross_attention_dim": 64,
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 2 + ["DownBlockSpatioTemporal"],
    "up_block_types": ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * 2,
}
VAE = VAE_XT | {"block_out_channels": [32, 64, 64, 64], "layers_per_block": 1}
CLIP = CLIP_XT | {
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 4,
    "projection_dim": 64,
}


def write(folder: Path) -> Path:
    """A checkpoint whose activations are far larger than its weights and than what a framework takes by the way."""
    return write_random_checkpoint(folder, unet=UNET, vae=VAE, image_encoder=CLIP)


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main(backend: str, height: int, width: int, frames: int, folder: Path) -> dict[str, Any]:
    def load(model: str | Path, name: str) -> Callable[[int, int, int], object]:
        pipe = StableVideoDiffusionPipeline.from_pretrained(model, backend=name, device="cpu", memory="max")
        pipe.set_progress_bar_config(disable=True)
        return lambda h, w, f: pipe(Image.new("RGB", (w, h)), h, w, f, sigmas=[1.0], generator=0)

    planned = plan(folder, height=height, width=width, num_frames=frames, backend=backend, device="cpu", memory="max")
    generate = load(folder, backend)
    # What is imported and what frameworks take once is none of the generation's.
    generate(height, width, frames)
    gc.collect()
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    generate(height, width, frames)
    return {"planned": max(planned.activations.values()), "measured": resident("VmHWM") - before}


if __name__ == "__main__":
    name, *size, where = sys.argv[1:]
    print(json.dumps(main(name, *map(int, size), Path(where))))

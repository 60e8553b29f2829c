"""How far 16-bit torch is from float64, beside diffusers in the same dtype, on the same weights and inputs.

python tests/half.py                        # the table, in bfloat16 and float16
python tests/half.py --dtype bfloat16 deep  # some of it
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers.utils import logging
from reference import CONFIGURATIONS, make_pipeline, save_checkpoint

from svdkit import StableVideoDiffusionPipeline
from svdkit.testing.inputs import relative_error

COMPONENTS = ("image_encoder", "vae.encode", "unet", "vae.decode")
DTYPES = ("bfloat16", "float16")
MARGIN = 1.15
"""Both errors are rounding alone and vary from one input to another: measured, ours is 0.8 to 1.04 times theirs."""
IMAGES = 16
"""An embedding has few numbers: of four images ours is between 0.9 and 1.2 times theirs, though in all no larger."""
FLOAT32 = 1e-5
"""The autoencoder is float32 beside a float16 UNet on both sides; there the errors are those of tests/parity.py."""


def allowed(theirs: float) -> float:
    """How large our error may be."""
    return max(MARGIN * theirs, FLOAT32)


def measure(name: str, dtype: str, checkpoint: Path, device: str = "cpu") -> dict[str, tuple[float, float]]:
    """By component: the relative error of svdkit on torch, and that of diffusers, both against float64."""
    configuration = CONFIGURATIONS[name]
    exact, theirs = make_pipeline(name), make_pipeline(name).to(device)
    ours = StableVideoDiffusionPipeline.from_pretrained(checkpoint, backend="torch", device=device, dtype=dtype)
    # diffusers upcasts the autoencoder that its configuration marks, and so does svdkit.
    vae_dtype = getattr(torch, ours.vae.backend.dtype)
    for part, kind in (("unet", getattr(torch, dtype)), ("image_encoder", getattr(torch, dtype)), ("vae", vae_dtype)):
        getattr(exact, part).double()
        getattr(theirs, part).to(kind)
    rng = np.random.default_rng(0)
    height, width, frames = configuration.height, configuration.width, configuration.frames
    shapes = {
        "image_encoder": (IMAGES, 3, 224, 224),
        "vae.encode": (2, 3, height, width),
        "unet": (2, frames, 8, height // 8, width // 8),
        "vae.decode": (frames, 4, height // 8, width // 8),
    }
    context, ids = rng.standard_normal((2, 1, 24), np.float32), np.tile(np.float32([6, 127, 0.02]), (2, 1))

    def run(pipe: Any, component: str, x: np.ndarray) -> torch.Tensor:
        """A component of diffusers."""
        part = getattr(pipe, component.split(".")[0])
        here = {"dtype": part.dtype, "device": part.device}
        given = torch.tensor(x, **here)
        if component == "image_encoder":
            return part(given).image_embeds
        if component == "vae.encode":
            return part.encode(given).latent_dist.mode()
        if component == "vae.decode":
            return part.decode(given, num_frames=frames).sample
        added = torch.tensor(ids, **here)
        return part(given, 0.7, encoder_hidden_states=torch.tensor(context, **here), added_time_ids=added).sample

    def run_ours(component: str, x: np.ndarray) -> np.ndarray:
        k = ours.backend
        if component == "image_encoder":
            return k.numpy(ours.image_encoder(k.array(x)))
        if component == "unet":
            return k.numpy(ours.unet(k.array(x), 0.7, ours.unet.prepare(k.array(context), ids, frames)))
        coder = ours.vae.backend
        return coder.numpy(getattr(ours.vae, component.split(".")[1])(coder.array(x)))

    errors = {}
    for component in COMPONENTS:
        x = rng.standard_normal(shapes[component], np.float32)
        with torch.no_grad():
            expected = run(exact, component, x)
            errors[component] = (
                relative_error(run_ours(component, x), expected),
                relative_error(run(theirs, component, x).double().cpu(), expected),
            )
    return errors


def table(names: Iterable[str], dtypes: Iterable[str], checkpoint: Callable[[str], Path], device: str = "cpu") -> str:
    """A Markdown table: ours / diffusers' in each cell; where ours is worse by more than the margin, bold."""
    lines = [f"| configuration | dtype | {' | '.join(COMPONENTS)} |", "|---" * (len(COMPONENTS) + 2) + "|"]
    for name in names:
        for dtype in dtypes:
            cells = []
            for ours, theirs in measure(name, dtype, checkpoint(name), device).values():
                cell = f"{ours:.2e} / {theirs:.2e}"
                cells.append(cell if ours <= allowed(theirs) else f"**{cell}**")
            lines.append(f"| {name} | {dtype} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configurations", nargs="*", default=list(CONFIGURATIONS))
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    with TemporaryDirectory() as folder:
        print(
            table(
                options.configurations,
                options.dtype or DTYPES,
                lambda name: save_checkpoint(name, Path(folder, name)),
                options.device,
            )
        )


if __name__ == "__main__":
    main()

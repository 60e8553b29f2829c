"""How far svdkit is from diffusers, measured over whole tensors on every configuration.

python tests/parity.py                       # the table, on every backend
python tests/parity.py --backend numpy deep  # some of it
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
from reference import CONFIGURATIONS, Configuration, make_pipeline, picture, save_checkpoint

from svdkit import StableVideoDiffusionPipeline
from svdkit.testing.inputs import relative_error

TOLERANCES = {
    "image_encoder": 1e-5,
    "vae.encode": 1e-5,
    "unet": 1e-5,
    "vae.decode": 1e-5,
    "latents": 1e-4,
    "frames": 2e-3,
}
"""Relative errors (frames: the largest absolute one, of values in [0, 1]).

Two float32 implementations that sum in different orders differ by 1e-6 to 5e-6 on these networks, and diffusers differs
by as much from its own float64 run; five steps carry that to 5e-6 on latents and frames.
"""


def measure(name: str, backend: str, checkpoint: Path, device: str | None = "cpu") -> dict[str, float]:
    """The errors of one configuration in float32 on one backend, by the names of `TOLERANCES`."""
    pipe = StableVideoDiffusionPipeline.from_pretrained(checkpoint, backend=backend, device=device, dtype="float32")
    pipe.set_progress_bar_config(disable=True)
    return compare(CONFIGURATIONS[name], make_pipeline(name), pipe)


def compare(configuration: Configuration, reference: Any, pipe: StableVideoDiffusionPipeline) -> dict[str, float]:
    """The errors of a pipeline, in the call of a configuration, where `reference` is diffusers' of the same weights."""
    k, rng = pipe.backend, np.random.default_rng(0)
    height, width, frames = configuration.height, configuration.width, configuration.frames
    videos = configuration.images * configuration.videos_per_image
    unet, vae = pipe.unet.config, pipe.vae.config
    channels, factor = vae.latent_channels, vae.scale_factor

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    errors = {}
    with torch.no_grad():
        pixels = normal(2, 3, 224, 224)
        expected = reference.image_encoder(torch.tensor(pixels)).image_embeds
        errors["image_encoder"] = relative_error(k.numpy(pipe.image_encoder(k.array(pixels))), expected)

        images = np.tanh(normal(2, 3, height, width))
        expected = reference.vae.encode(torch.tensor(images)).latent_dist.mode()
        errors["vae.encode"] = relative_error(k.numpy(pipe.vae.encode(k.array(images))), expected)

        sample = normal(2 * videos, frames, unet.in_channels, height // factor, width // factor)
        context = normal(2 * videos, 1, unet.cross_attention_dim[0])
        ids = np.tile(np.float32([6, 127, 0.02]), (2 * videos, 1))
        expected = reference.unet(
            torch.tensor(sample),
            0.7,
            encoder_hidden_states=torch.tensor(context),
            added_time_ids=torch.tensor(ids),
        ).sample
        prepared = pipe.unet.prepare(k.array(context), ids, frames)
        errors["unet"] = relative_error(k.numpy(pipe.unet(k.array(sample), 0.7, prepared)), expected)

        latents = normal(frames, channels, height // factor, width // factor)
        expected = reference.vae.decode(torch.tensor(latents), num_frames=frames).sample
        errors["vae.decode"] = relative_error(k.numpy(pipe.vae.decode(k.array(latents))), expected)

    noise = normal(videos, frames, channels, height // factor, width // factor)
    pictures = [picture(i) for i in range(configuration.images)]
    call = {
        "height": height,
        "width": width,
        "num_frames": frames,
        "num_inference_steps": 5,
        "min_guidance_scale": configuration.guidance[0],
        "max_guidance_scale": configuration.guidance[1],
        "noise_aug_strength": 0.0,
        "decode_chunk_size": configuration.chunk,
    }
    many = {"num_videos_per_prompt": configuration.videos_per_image}
    expected = reference(pictures, latents=torch.tensor(noise), output_type="latent", **call, **many).frames
    actual = pipe(pictures, latents=noise, output_type="latent", **call, **many)
    errors["latents"] = relative_error(k.numpy(actual), expected)

    # One video at a time on their side, since their chunks straddle two videos.
    owners = np.repeat(np.arange(configuration.images), configuration.videos_per_image)
    alone = [
        reference(pictures[i], latents=torch.tensor(noise[v : v + 1]), output_type="np", **call).frames
        for v, i in enumerate(owners)
    ]
    frames_np = pipe(pictures, latents=noise, output_type="np", **call, **many)
    errors["frames"] = float(np.abs(frames_np - np.concatenate(alone)).max())
    return errors


def table(names: Iterable[str], backends: Iterable[str], checkpoint: Callable[[str], Path], device: str = "cpu") -> str:
    """A Markdown table of errors; those above their tolerance are bold."""
    lines = [f"| configuration | backend | {' | '.join(TOLERANCES)} |", "|---" * (len(TOLERANCES) + 2) + "|"]
    for name in names:
        for backend in backends:
            errors = measure(name, backend, checkpoint(name), device)
            cells = [f"{e:.1e}" if e <= TOLERANCES[key] else f"**{e:.1e}**" for key, e in errors.items()]
            lines.append(f"| {name} | {backend} | {' | '.join(cells)} |")
    lines.append(f"| tolerance | | {' | '.join(f'{t:.0e}' for t in TOLERANCES.values())} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configurations", nargs="*", default=list(CONFIGURATIONS))
    parser.add_argument("--backend", action="append", choices=["numpy", "mindspore", "torch"])
    parser.add_argument("--device", default="cpu", help="where svdkit runs; diffusers stays on the CPU")
    options = parser.parse_args()
    torch.backends.cudnn.allow_tf32 = False  # on by default; see svdkit_torch.devices
    warnings.simplefilter("ignore")
    with TemporaryDirectory() as folder:
        print(
            table(
                options.configurations,
                options.backend or ["numpy", "mindspore", "torch"],
                lambda name: save_checkpoint(name, Path(folder, name)),
                options.device,
            )
        )


if __name__ == "__main__":
    main()

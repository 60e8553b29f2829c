"""The command line: `python -m training train | finetune | evaluate`."""

from __future__ import annotations

import json
from pathlib import Path

import click
from attrs import evolve

from svdkit.config import UNetConfig, from_dict, read_json
from svdkit.hub import resolve_model

from .run import Run
from .settings import SETTINGS, Settings
from .videos import VideoFolder

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group()
def main() -> None:
    """Train small Stable Video Diffusion models, fine-tune any, and tell how good they are."""


@main.command()
@click.argument("folder", type=_FOLDER)
@click.option("--settings", type=click.Choice(sorted(SETTINGS)), default="tiny", show_default=True)
@click.option("--autoencoder", type=_FOLDER, help="A checkpoint whose autoencoder is taken as it is.")
@click.option("--device", default="cpu", show_default=True, help="Of torch.")
@click.option("--dtype", default="float32", show_default=True, help="Of activations.")
def train(folder: Path, settings: str, autoencoder: Path | None, device: str, dtype: str) -> None:
    """Train a model of the world of training.world from nothing, and write it to FOLDER/model.

    Stopped at any moment, the same command goes on where it was, to the same weights.
    """
    run = Run(folder, evolve(SETTINGS[settings], device=device, dtype=dtype))
    run.begin(autoencoder=autoencoder)
    if autoencoder is None:
        run.train_autoencoder()
    run.train_denoiser(copies=True)
    run.export(folder / "model")


@main.command()
@click.argument("model")
@click.argument("videos", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("folder", type=_FOLDER)
@click.option("--size", type=click.IntRange(min=32), default=256, show_default=True, help="Height and width in pixels.")
@click.option("--frames", type=click.IntRange(min=2), show_default="the model's", help="Of a clip.")
@click.option("--motion-bucket-id", type=click.IntRange(0, 255), default=127, show_default=True, help="Of the videos.")
@click.option("--steps", type=click.IntRange(min=1), default=1000, show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Clips a step.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=1e-5, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="Of torch.")
@click.option("--dtype", default="float32", show_default=True, help="Of activations.")
def finetune(
    model: str,
    videos: Path,
    folder: Path,
    size: int,
    frames: int | None,
    motion_bucket_id: int,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    device: str,
    dtype: str,
) -> None:
    """Train MODEL further on a folder of VIDEOS, and write the result to FOLDER/model.

    MODEL is a hub id, a folder or the name of a model that ships with svdkit. Its autoencoder stays as it is; the UNet
    and the image encoder are trained. Stopped at any moment, the same command goes on where it was.
    """
    source = resolve_model(model)
    count = frames or from_dict(UNetConfig, read_json(source / "unet" / "config.json")).num_frames
    clips = VideoFolder.open(videos, size, count, motion_bucket_id)
    settings = Settings(
        seed=seed,
        device=device,
        dtype=dtype,
        size=size,
        frames=count,
        clips=len(clips),
        unet_steps=steps,
        unet_rate=rate,
        unet_batch=batch,
    )
    run = Run(folder, settings)
    run.begin(source)
    run.train_denoiser(clips)
    run.export(folder / "model")


@main.command()
@click.argument("model")
@click.argument("folder", type=_FOLDER)
@click.option("--backend", default="torch", show_default=True)
@click.option("--dtype", show_default="the backend's", help="Of weights and activations.")
@click.option("--clips", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--size", type=click.IntRange(min=32), default=96, show_default=True, help="Height and width in pixels.")
@click.option("--steps", type=click.IntRange(min=1), default=15, show_default=True)
@click.option("--max-guidance-scale", type=float, default=1.5, show_default=True)
def evaluate(
    model: str,
    folder: Path,
    backend: str,
    dtype: str | None,
    clips: int,
    size: int,
    steps: int,
    max_guidance_scale: float,
) -> None:
    """Measure MODEL on clips of the world that training never saw; write figures and pictures to FOLDER."""
    from svdkit import StableVideoDiffusionPipeline

    from .evaluate import Evaluation, summary
    from .pictures import page

    pipe = StableVideoDiffusionPipeline.from_pretrained(model, backend=backend, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    options = {"num_inference_steps": steps, "max_guidance_scale": max_guidance_scale}
    figures, examples = summary(Evaluation(pipe, size, **options), clips, click.echo)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").write_text(json.dumps(figures | options, indent=2) + "\n", encoding="utf-8")
    click.echo(page(folder, figures, examples))


if __name__ == "__main__":
    main()

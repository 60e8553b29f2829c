"""`python -m training FOLDER`: trains, or goes on where it was stopped."""

from __future__ import annotations

from pathlib import Path

import click

from .run import Run
from .settings import SETTINGS


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--settings", type=click.Choice(sorted(SETTINGS)), default="tiny", show_default=True)
def main(folder: Path, settings: str) -> None:
    """Train a Stable Video Diffusion model on the world of training.world, and write it to FOLDER/model.

    Stopped at any moment, the same command goes on where it was, to the same weights.
    """
    run = Run(folder, SETTINGS[settings])
    run.begin()
    run.train_autoencoder()
    run.train_denoiser()
    run.export(folder / "model")


if __name__ == "__main__":
    main()

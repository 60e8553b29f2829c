"""`svdkit study`: the command line of `svdkit.study`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from click.decorators import FC

from .cli_options import COUNT, NOT_NEGATIVE, PATH, json_option, quiet_option, traceback_option


def _grid(name: str, **options: Any) -> Callable[[FC], FC]:
    """An option that is repeated for each value of one side of the grid."""
    return click.option(f"--{name}", name if name == "guidance" else f"{name}s", multiple=True, **options)


@click.command()
@click.argument("file", required=False, type=PATH)
@click.option(
    *("--output", "-o"),
    required=True,
    type=PATH,
    help="Folder of the results. What is finished there is kept: the same command goes on where it was stopped.",
)
@_grid("image", type=PATH, help="A picture that videos begin with.")
@_grid(
    "scheduler",
    help="NAME or NAME:OPTION=VALUE,OPTION=VALUE (see `svdkit schedulers`), or diffusers.CLASS for one of diffusers.",
)
@_grid(
    "schedule",
    show_default="model",
    help="A schedule's name (see `svdkit sigma-schedules`), numbers with commas between, a .txt or .json file of them, "
    "or `model` for what the model has.",
)
@_grid("budget", type=COUNT, show_default="5, 10, 25", help="Function evaluations of the network.")
@_grid("seed", type=click.IntRange(min=0), show_default="0, 1, 2", help="Of the noise, the same in all cells.")
@_grid("guidance", show_default="1-3", help="Of the first and the last frame, as FIRST-LAST.")
@click.option("--model", "-m", help="A hub id, a folder, or the name of a model that ships with svdkit.")
@click.option("--backend", "-b", show_default="mindspore", help="What computes; see `svdkit backends`.")
@click.option("--device", show_default="the backend's", help="Where it computes, such as cpu or ascend:1.")
@click.option("--dtype", show_default="the backend's", help="Of weights and activations, such as float16.")
@click.option("--variant", help="Which of the model's weights, such as fp16.")
@click.option("--memory", type=click.Choice(["auto", "low", "max"]), show_default="auto", help="See `svdkit generate`.")
@click.option(
    *("--component", "components"),
    metavar="PART=NAME",
    multiple=True,
    help="Take the unet, vae or image_encoder that a plugin calls NAME, or svdkit's own if that is default.",
)
@click.option("--height", type=click.IntRange(min=8), show_default="the model's", help="In pixels.")
@click.option("--width", type=click.IntRange(min=8), show_default="the model's", help="In pixels.")
@click.option("--num-frames", type=COUNT, show_default="the model's", help="Frames of each video.")
@click.option("--fps", type=click.FloatRange(1, 240), show_default="7", help="Frames a second.")
@click.option("--motion-bucket-id", type=NOT_NEGATIVE, show_default="127", help="Amount of motion, to about 255.")
@click.option("--noise-aug-strength", type=NOT_NEGATIVE, show_default="0.02", help="Noise added to the image.")
@click.option("--decode-chunk-size", type=COUNT, show_default="all", help="Frames decoded at a time.")
@click.option("--reference", show_default="dpmpp_2m", help="The solver of the reference, on the model's own levels.")
@click.option("--reference-budget", type=click.IntRange(min=2), show_default="200", help="Its function evaluations.")
@click.option(
    "--perceptual/--no-perceptual",
    default=None,
    help="Compare frames by what the model's image encoder makes of them, too.  [default: no-perceptual]",
)
@click.option("--on", metavar="ray|ray://HOST:PORT", help="Compute on a Ray cluster: of this machine, or that one.")
@click.option("--retry-failed", is_flag=True, help="Try cells again that have failed before.")
@click.option("--report/--no-report", default=True, help="Write the page that shows the results.")
@json_option
@quiet_option
@traceback_option
def study(
    file: Path | None,
    output: Path,
    on: str | None,
    retry_failed: bool,
    report: bool,
    as_json: bool,
    quiet: bool,
    **values: Any,
) -> None:
    """Compare schedulers: a video for every scheduler, schedule, budget, image, seed and guidance.

    Each is measured against a reference solution of the same image and seed. Options that may be repeated make the
    grid; FILE is a TOML file of the same names in the plural (`images`, `budgets`), and options come before it.

    The exit status is 1 if every cell failed.
    """
    from .study import study as run

    given = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    try:
        table = run(
            output,
            file,
            on=on,
            retry_failed=retry_failed,
            progress=not quiet,
            command=shlex.join(["svdkit", *sys.argv[1:]]),
            **{name: value for name, value in given.items() if value not in (None, [])},
        )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("finished cells are kept, and the same command goes on") from None
    written = [output / "table.csv", output / "table.parquet"]
    failed, done = table[table["status"] == "failed"], (table["status"] == "done").any()
    if len(failed):
        click.echo(f"{len(failed)} of {len(table)} cells failed, the first with {failed['error'].iloc[0]}", err=True)
    if report and done:
        from .study.report import write_report

        written.append(write_report(output))
    if as_json:
        click.echo(json.dumps({"cells": len(table), "failed": len(failed), "paths": [str(path) for path in written]}))
    elif not quiet:
        _summarise(table)
        click.echo(", ".join(click.format_filename(path) for path in written))
    if not done:
        click.get_current_context().exit(1)


def _summarise(table: Any) -> None:
    """Prints what is concluded at each budget."""
    from .study.statistics import budgets, compare

    for budget in budgets(table):
        click.echo(compare(table, budget).conclusion)

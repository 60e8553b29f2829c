"""The command line.

Of what has to be installed only click is imported at the top, so that `--help` answers at once.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .cli_demo import demo
from .cli_options import (
    COUNT,
    NOT_NEGATIVE,
    PATH,
    TRACEBACK,
    backend_option,
    hub_options,
    json_option,
    memory_option,
    quiet_option,
    traceback_option,
)
from .cli_study import study

if TYPE_CHECKING:
    from .backend import Host
    from .output import StableVideoDiffusionPipelineOutput

_INTERRUPTED = 130  # as shells have it


def main() -> None:
    """The console script."""
    # MindSpore warns of much that users can do nothing about; from 3 on it tells only of errors.
    os.environ.setdefault("GLOG_v", "3")
    try:
        cli(prog_name="svdkit")
    except SystemExit as exit:
        if exit.code == _INTERRUPTED:
            # All is tidied up, and MindSpore, interrupted in its import, would make Python crash as it ends.
            os._exit(_INTERRUPTED)
        raise


class _Commands(click.Group):
    """Shows whatever goes wrong as one paragraph, and tells scripts by the exit status what kind it was."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
                raise  # click knows what to do with these
            except (Exception, KeyboardInterrupt) as error:
                import shutil
                import textwrap
                import traceback

                if ctx.meta.get(TRACEBACK):
                    traceback.print_exception(error)
                status, text = _explain(error)
                width = shutil.get_terminal_size().columns
                # Paths and commands are there to be copied, so none is broken.
                text = textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
                click.echo(text, err=True)
                ctx.exit(status)


def _explain(error: BaseException) -> tuple[int, str]:
    """The exit status and the text for anything that was raised."""
    from .errors import InputError, SvdkitError

    origin = error
    while origin.__cause__ is not None:
        origin = origin.__cause__  # native modules that are interrupted in their import raise an ImportError from it
    text = " ".join(str(error).split())
    if isinstance(origin, KeyboardInterrupt):
        return _INTERRUPTED, f"Interrupted; {str(origin) or 'nothing was written'}."
    if isinstance(error, SvdkitError):
        return 2 if isinstance(error, InputError) else 1, f"Error: {text}"
    if isinstance(error, MemoryError):
        return 1, (
            "Error: The memory ran out. --memory low, --decode-chunk-size 1, a smaller --height and --width, fewer "
            "--num-frames or --num-videos, or a --dtype of 16 bits need less."
        )
    text = text if len(text) < 600 else f"{text[:600]} ..."
    return 1, (
        f"Error: {type(error).__name__}: {text} (svdkit did not foresee this. Run the command again with "
        "--traceback to see where it comes from, and please report it with that.)"
    )


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning on one line, without the place in the source that Python tells."""
    click.echo(f"Warning: {' '.join(str(message).split())}", err=True)


@click.group(
    cls=_Commands,
    context_settings={"show_default": True, "max_content_width": 100, "help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Stable Video Diffusion: videos that begin with a picture, on any backend.

    `svdkit demo` tries it out without a download.
    """


@cli.command()
@click.argument("images", metavar="IMAGE...", nargs=-1, required=True, type=PATH)
@click.option(
    *("--output", "-o"),
    required=True,
    type=PATH,
    help="Where the video goes: .mp4, .webm, .gif or .webp (replaced if it exists), or no suffix for a new folder of "
    "PNGs. Of several videos, the i-th goes to NAME_i.SUFFIX, from 0.",
)
@click.option(
    *("--model", "-m"),
    default="stabilityai/stable-video-diffusion-img2vid-xt",
    help="A hub id (HF_TOKEN in the environment is the hub's token), a folder in diffusers' layout, or the "
    "name of a model that ships with svdkit.",
)
@backend_option
@click.option("--device", show_default="the backend's", help="Where it computes, such as cpu or ascend:1.")
@click.option("--dtype", show_default="the backend's", help="Of weights and activations, such as float16.")
@click.option("--compile", is_flag=True, help="Compile the denoising network and the decoder, where the backend can.")
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    multiple=True,
    show_default="any",
    help="Of the first video, the i-th taking SEED + i; or repeat the option, once for each video.",
)
@click.option("--height", type=click.IntRange(min=8), show_default="the model's", help="In pixels, a multiple of 8.")
@click.option("--width", type=click.IntRange(min=8), show_default="the model's", help="In pixels, a multiple of 8.")
@click.option("--num-frames", type=COUNT, show_default="the model's", help="Frames of each video.")
@click.option("--fps", type=click.FloatRange(1, 240), default=7, help="Frames a second.")
@click.option("--motion-bucket-id", type=NOT_NEGATIVE, default=127, help="Amount of motion, to about 255.")
@click.option(
    *("--num-videos", "--num-videos-per-prompt", "num_videos_per_prompt"),
    type=COUNT,
    default=1,
    help="Videos of each image: all of the first image's, then all of the second's, and so on.",
)
@click.option(
    *("--steps", "--num-inference-steps", "num_inference_steps"),
    type=COUNT,
    default=25,
    help="Denoising steps, unless --sigmas holds numbers.",
)
@click.option(
    "--scheduler",
    show_default="the model's",
    help="Solver of the steps, as NAME or NAME:OPTION=VALUE,OPTION=VALUE; see `svdkit schedulers`.",
)
@click.option(
    "--sigmas",
    show_default="the model's",
    help="Noise levels: descending numbers with commas between, used as they are (a final 0 is added), a "
    ".txt or .json file of them, or a schedule's name; see `svdkit sigma-schedules`.",
)
@click.option("--min-guidance-scale", type=float, default=1.0, help="Of the first frame; 1 is no guidance.")
@click.option("--max-guidance-scale", type=float, default=3.0, help="Of the last frame; linear between.")
@click.option(
    "--noise-aug-strength", type=NOT_NEGATIVE, default=0.02, help="Noise added to the image, which is in [-1, 1]."
)
@click.option("--decode-chunk-size", type=COUNT, show_default="all", help="Frames decoded at a time, to save memory.")
@click.option("--latents", type=PATH, help="A .npy of normal noise (videos, frames, 4, height / 8, width / 8).")
@memory_option
@hub_options
@click.option(
    *("--component", "components"),
    metavar="PART=NAME",
    multiple=True,
    help="Take the unet, vae or image_encoder that a plugin calls NAME, or svdkit's own if that is default.",
)
@json_option
@quiet_option
@traceback_option
def generate(
    images: tuple[Path, ...],
    output: Path,
    seed: tuple[int, ...],
    sigmas: str | None,
    latents: Path | None,
    components: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Make a video that begins with the picture IMAGE, or one for each of several."""
    import attrs

    from .arguments import parse_components
    from .errors import InputError, OutputError
    from .generation import generate
    from .output import output_paths
    from .preprocess import check_size, load_images
    from .sampling import get_scheduler
    from .schedules import read_sigmas

    # Loading may take minutes, so whatever can be found wrong without a model is found before.
    chosen = parse_components(components)
    videos = len(images) * options["num_videos_per_prompt"]
    targets = {os.path.realpath(path) for path in output_paths(output, videos)}
    if overwritten := [image for image in images if os.path.realpath(image) in targets]:
        raise OutputError(f"The video would replace the image {overwritten[0]}. Choose another --output.")
    check_size(options["height"] or 8, options["width"] or 8)  # the model tells what is not given
    if options["scheduler"] is not None:
        get_scheduler(options["scheduler"])
    if len(seed) not in (0, 1, videos):
        raise InputError(f"--seed is given {len(seed)} times, expected one, or {videos}: one for each video.")
    options |= {
        "image": load_images(images),
        "sigmas": None if sigmas is None else read_sigmas(sigmas, options["num_inference_steps"]),
        "latents": None if latents is None else _read_latents(latents),
        "generator": seed[0] if len(seed) == 1 else list(seed) or None,
        "components": chosen,
    }

    if not quiet:
        click.echo(f"Loading {options['model']} on {options['backend']} ...", err=True)
    result = generate(**options, progress=not quiet)
    start = time.perf_counter()
    try:
        paths = [click.format_filename(path) for path in result.save(output)]
    except KeyboardInterrupt:
        raise KeyboardInterrupt("each video is either complete or not there") from None
    result = attrs.evolve(result, timings={**result.timings, "save": time.perf_counter() - start})
    if as_json or not quiet:
        _report(result, paths, as_json)


def _report(result: StableVideoDiffusionPipelineOutput, paths: list[str], as_json: bool) -> None:
    import attrs

    frames, (width, height) = len(result.frames[0]), result.frames[0][0].size
    if as_json:
        made = {"paths": paths, "num_frames": frames, "height": height, "width": width}
        used = attrs.asdict(result, filter=attrs.filters.exclude("frames", "output_type"))
        click.echo(json.dumps(made | used))
        return
    for path, seed in zip(paths, result.seeds, strict=True):
        click.echo(f"{path}: {frames} frames, {width}x{height}, {result.fps:g} fps, seed {seed}")
    steps = f"{len(result.sigmas) - 1} steps of {result.scheduler} ({result.nfe} evaluations)"
    click.echo(f"{steps} on {result.backend}, {result.device}, {result.dtype}")
    click.echo(", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.timings.items()))


def _read_latents(path: Path) -> Host:
    """The array in a `.npy` file."""
    import numpy as np

    from .errors import InputError

    try:
        array = np.load(path, allow_pickle=False)
    except Exception as error:  # on damaged files NumPy raises whatever it stumbles over
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"The latents {path} cannot be read: {reason}. Pass what numpy.save wrote.") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        raise InputError(f"The latents {path} are not an array of floats. Pass what numpy.save wrote of one.")
    return array


@cli.command()
@click.argument("schedules", metavar="SCHEDULE...", nargs=-1, required=True)
@click.option("--steps", type=COUNT, default=25, help="Levels, not counting the final 0.")
@click.option("--plot", type=PATH, help="Draw them into this .png, .svg or .pdf instead.")
@json_option
@traceback_option
def sigmas(schedules: tuple[str, ...], steps: int, plot: Path | None, as_json: bool) -> None:
    """Print noise levels beside each other.

    SCHEDULE is a name with options if it has any, such as karras or karras:rho=5 (see `svdkit sigma-schedules`),
    numbers with commas between, or a .txt or .json file.
    """
    from itertools import zip_longest

    from .schedules import read_sigmas

    curves = {name: read_sigmas(name, steps) for name in schedules}
    if plot is not None:
        from .plots import plot_sigmas

        click.echo(plot_sigmas(curves, plot))
    elif as_json:
        click.echo(json.dumps(curves))
    else:
        widths = [max(len(name), 10) for name in curves]
        click.echo("  ".join(f"{name:>{width}}" for name, width in zip(curves, widths, strict=True)))
        for row in zip_longest(*curves.values()):
            cells = ["" if sigma is None else f"{sigma:.6g}" for sigma in row]
            click.echo("  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))


@cli.command()
@click.argument("model")
@click.option("--height", type=click.IntRange(min=8), show_default="the model's", help="In pixels, a multiple of 8.")
@click.option("--width", type=click.IntRange(min=8), show_default="the model's", help="In pixels, a multiple of 8.")
@click.option("--num-frames", type=COUNT, show_default="the model's", help="Frames of each video.")
@click.option("--num-videos", type=COUNT, default=1, help="Videos that are made together.")
@click.option("--decode-chunk-size", type=COUNT, show_default="as --memory says", help="Frames decoded at a time.")
@click.option("--guided/--unguided", default=True, help="Whether there is guidance, which doubles the batch.")
@backend_option
@click.option("--device", show_default="the backend's", help="Such as cpu, cuda:1 or ascend.")
@click.option("--dtype", show_default="the backend's", help="Of weights and activations, such as float16.")
@memory_option
@hub_options
@json_option
@traceback_option
def plan(model: str, as_json: bool, **options: Any) -> None:
    """Tell what a generation with MODEL needs in memory, and whether it fits; nothing is loaded.

    The exit status is 0 if it fits, and otherwise 1.
    """
    from .memory import planning

    found = planning.plan(model, **options)
    click.echo(json.dumps(found.as_dict()) if as_json else str(found))
    click.get_current_context().exit(0 if found.fits else 1)


@cli.command()
@click.option("--deep", is_flag=True, help="Also make a small frame on every backend that can be used.")
@json_option
@traceback_option
@click.pass_context
def doctor(ctx: click.Context, deep: bool, as_json: bool) -> None:
    """Tell what is installed, what is broken, and the command that mends it.

    The exit status is 1 if something that is installed is broken or no backend can be used, and otherwise 0. A
    framework that is not installed is no fault.
    """
    import shutil

    from .doctor import examine

    report = examine(deep)
    click.echo(report.as_json() if as_json else report.as_text(shutil.get_terminal_size().columns))
    ctx.exit(1 if report.problems else 0)


def _add_listing(what: str) -> None:
    @cli.command(what.replace(" ", "-"), help=f"List the {what} that there are.")
    @json_option
    @traceback_option
    def listing(as_json: bool) -> None:
        import attrs

        from . import plugins

        infos: list[plugins.PluginInfo] = getattr(plugins, f"list_{what.replace(' ', '_')}")()
        if as_json:
            click.echo(json.dumps([attrs.asdict(info) for info in infos], indent=2))
            return
        if not infos:
            click.echo("none")
        width = max((len(info.name) for info in infos), default=0)
        for info in infos:
            state = "available" if info.available else "not available"
            summary = f"{info.replaces}: {info.summary}" if info.replaces else info.summary
            click.echo(f"{info.name:{width}}  {state:13}  {summary} [{info.origin}]")
            if not info.available:
                how = f"; install it with: {info.install}" if info.install else ""
                click.echo(f"{'':{width}}  {info.reason}{how}")


cli.add_command(demo)
cli.add_command(study)
for _what in ("backends", "schedulers", "sigma schedules", "components"):
    _add_listing(_what)

"""`svdkit demo`: what the model that ships makes of the pictures that ship."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from .cli_options import PATH, backend_option, json_option, quiet_option, traceback_option

PICTURES = "boat.png", "balls.png", "windmill.png", "photo.jpg"
"""Of `svdkit/assets`: three of the world that the model knows, which it was not trained on, and one of ours."""
CALL: dict[str, Any] = {"model": "tiny", "seed": 0, "num_inference_steps": 12, "max_guidance_scale": 1.5}
"""Three quarters of a minute of work on two cores."""
SCALE = 4
"""How many times as large the frames are drawn, since they have 96 x 96 pixels."""
ROUNDS = 4
"""How often the video is played: it takes a second."""


@click.command()
@click.option(
    *("--output", "-o"),
    type=PATH,
    default="svdkit-demo.mp4",
    help="Where the video goes, as `svdkit generate` has it; a .png beside it shows all frames. Both are replaced.",
)
@backend_option
@json_option
@quiet_option
@traceback_option
def demo(output: Path, backend: str, as_json: bool, quiet: bool) -> None:
    """Animate four small pictures offline, with the model that ships with svdkit, and show them in one video.

    Three are of the world that the model was trained on, the fourth is a photograph.
    """
    import attrs
    from PIL import Image, ImageOps

    from .errors import OutputError
    from .files import as_output_error, replacing
    from .generation import generate
    from .video import check_output, write_video

    output = check_output(output.absolute())
    sheet = output.with_suffix(".png")
    if sheet.is_dir():
        raise OutputError(f"{sheet} is a folder, and would be a picture. Rename it or choose another name.")
    pictures = [Image.open(Path(__file__).parent / "assets" / name) for name in PICTURES]
    squares = [ImageOps.fit(picture, (min(picture.size),) * 2) for picture in pictures]
    if not quiet:
        click.echo(f"Loading {CALL['model']} on {backend} ...", err=True)
    result = generate(squares, backend=backend, progress=not quiet, **CALL)
    half = len(squares) // 2
    video = [_tiled([row[:half], row[half:]], SCALE) for row in zip(*result.frames, strict=True)]
    write_video(output, video * ROUNDS, result.fps)
    with as_output_error(sheet), replacing(sheet) as file:
        _tiled(result.frames, SCALE // 2).save(file)
    paths = [click.format_filename(path) for path in (output, sheet)]
    if as_json:
        used = attrs.asdict(result, filter=attrs.filters.exclude("frames", "output_type"))
        click.echo(json.dumps({"paths": paths, "num_frames": len(video)} | used))
    elif not quiet:
        names = ", ".join(name.partition(".")[0] for name in PICTURES)
        width, height = result.frames[0][0].size
        click.echo(f"{paths[0]}: {names}; {len(video)} frames of {width}x{height}, drawn {SCALE} times as large,")
        click.echo(f"  played {ROUNDS} times. {paths[1]}: frame by frame.")
        click.echo(", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in result.timings.items()))


def _tiled(rows: Sequence[Sequence[Any]], scale: int) -> Any:
    """Pictures of one size in rows, enlarged."""
    from PIL import Image

    width, height = (scale * side for side in rows[0][0].size)
    sheet = Image.new("RGB", (width * len(rows[0]), height * len(rows)))
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            sheet.paste(picture.resize((width, height), Image.Resampling.BICUBIC), (j * width, i * height))
    return sheet

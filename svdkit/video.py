"""Writing frames where people can play them: MP4, WebM, GIF or WebP files, or a folder of PNGs.

Every output is finished under another name and then moved into place, so whatever goes wrong there is either
the complete new file or what was there before.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from math import ceil
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from .errors import InputError, OutputError
from .files import as_output_error

Frames = Sequence[Image.Image] | npt.NDArray[np.uint8]

_ENCODERS = {
    ".mp4": ("-c:v", "libx264", "-crf", "16", "-movflags", "+faststart"),
    ".webm": ("-c:v", "libvpx-vp9", "-crf", "16", "-b:v", "0", "-row-mt", "1", "-cpu-used", "2"),
}
# Players guess the colours of untagged video from its size, so this converts to BT.709 and says so: new
# versions of ffmpeg take the tags from the filters, old ones from the options.
_COLOURS = (
    *("-vf", "scale=out_color_matrix=bt709:out_range=tv,setparams=color_primaries=bt709:color_trc=bt709"),
    *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"),
)

# Viewers slow a GIF down to 10 frames a second when a delay is under two of the format's 10 ms ticks.
_GIF_MAX_FPS = 50


def _ffmpeg() -> str:
    """Path of the ffmpeg executable; `OutputError` if there is none."""
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise OutputError(
            "MP4 and WebM need ffmpeg, and none was found. Run `pip install imageio-ffmpeg`, name one in the "
            "environment variable IMAGEIO_FFMPEG_EXE, or write a .gif, a .webp or a folder of PNGs."
        ) from error


def _write_encoded(path: Path, images: Sequence[Image.Image], rate: Fraction) -> None:
    """H.264 or VP9 in yuv420p, which needs even sizes: the last column or row of odd ones is repeated."""
    width, height = images[0].size
    edges = ((0, height % 2), (0, width % 2), (0, 0))
    size = f"{width + width % 2}x{height + height % 2}"
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(rate), "-i", "-")
    target = (*_COLOURS, "-pix_fmt", "yuv420p", *_ENCODERS[path.suffix], str(path))
    command = (_ffmpeg(), "-v", "error", *source, *target)
    # A file, as the error of a pipe that breaks would hide ffmpeg's own message, or an interruption.
    with tempfile.TemporaryFile() as raw:
        for image in images:
            raw.write(np.pad(np.asarray(image), edges, mode="edge").tobytes())
        raw.seek(0)
        done = subprocess.run(command, stdin=raw, capture_output=True, check=False)
    if done.returncode:
        lines = done.stderr.decode(errors="replace").split("\n")
        reason = next((line.strip() for line in reversed(lines) if line.strip()), "it gave no reason")
        raise OutputError(f"ffmpeg failed to write the {path.suffix} (exit status {done.returncode}): {reason}")


def _write_gif(path: Path, images: Sequence[Image.Image], rate: Fraction) -> None:
    """Floyd-Steinberg dithering to one palette for all frames, as colours would jump between palettes.

    Above 50 frames a second some frames are left out, for the sake of the length of the whole.
    """
    if rate > _GIF_MAX_FPS:
        count = ceil(len(images) * _GIF_MAX_FPS / rate)
        images = [images[int(i * rate / _GIF_MAX_FPS)] for i in range(count)]
        rate = Fraction(_GIF_MAX_FPS)
    # 16 frames of at most 256 x 256 pixels choose nearly the colours that all pixels would, and at once.
    stride = ceil(max(images[0].size) / 256)
    samples = [np.asarray(image)[::stride, ::stride] for image in images[:: ceil(len(images) / 16)]]
    palette = Image.fromarray(np.concatenate(samples)).quantize(256)
    dither = Image.Dither.FLOYDSTEINBERG
    images = [image.quantize(palette=palette, dither=dither) for image in images]
    _save_animation(path, images, [10 * ticks for ticks in _durations(len(images), rate, 100)])


def _write_webp(path: Path, images: Sequence[Image.Image], rate: Fraction) -> None:
    """Lossy at quality 90: about a tenth of the lossless size, with differences that do not show."""
    _save_animation(path, images, _durations(len(images), rate, 1000), quality=90)


def _durations(count: int, rate: Fraction, ticks_per_second: int) -> list[int]:
    """Whole ticks that each frame is shown for; all the rounding together is at most half a tick."""
    starts = [round(i * ticks_per_second / rate) for i in range(count + 1)]
    return [end - start for start, end in pairwise(starts)]


def _save_animation(path: Path, images: Sequence[Image.Image], milliseconds: list[int], **options: Any) -> None:
    """An endless loop, through Pillow, which may store equal neighbours as one frame that lasts longer."""
    first, *rest = images
    try:
        first.save(path, save_all=True, append_images=rest, duration=milliseconds, loop=0, **options)
    except (OverflowError, RuntimeError, ValueError) as error:
        width, height = first.size
        raise OutputError(
            f"{len(images)} frames of {width} x {height} pixels, shown for {milliseconds[0]} ms each, do not "
            f"fit the {path.suffix} format ({error}). Write an .mp4 or a folder of PNGs."
        ) from error


def _write_folder(path: Path, images: Sequence[Image.Image], rate: Fraction) -> None:
    """Lossless `frame_0000.png`, `frame_0001.png`, ...; a folder has no frame rate."""
    path.mkdir()
    for i, image in enumerate(images):
        image.save(path / f"frame_{i:04d}.png")


_WRITERS: dict[str, Callable[[Path, Sequence[Image.Image], Fraction], None]] = {
    ".mp4": _write_encoded,
    ".webm": _write_encoded,
    ".gif": _write_gif,
    ".webp": _write_webp,
    "": _write_folder,
}

MOST_FPS = 240
SUFFIXES = tuple(_WRITERS)
"""Suffixes that `write_video` knows, in any case; the empty one is a folder of PNGs."""


def check_output(path: str | os.PathLike[str], *, fps: float = 7) -> Path:
    """Find out whether `write_video` can write to `path`, before hours are spent on the frames.

    Args:
        path: a file with one of `SUFFIXES`, or a folder that does not exist yet or is empty.
        fps: frames per second, in (0, 240].

    Returns:
        `path` as a `Path`.

    Raises:
        OutputError: the suffix is unknown, there is no such parent folder, it cannot be written to, something
            is in the way, or ffmpeg is needed and missing.
        InputError: `fps` is out of range.
    """
    path = Path(path)
    _rate(fps)
    suffix = path.suffix.lower()
    if not suffix and path.name.lower() in SUFFIXES[:-1]:
        raise OutputError(f"{path} has no name before its suffix. Choose one, such as video{path.name}.")
    if suffix not in SUFFIXES:
        known = ", ".join(filter(None, SUFFIXES))
        raise OutputError(
            f"{path}: {path.suffix} files cannot be written. Choose one of {known}, or a name without a "
            "suffix for a folder of PNGs."
        )
    with as_output_error(path):
        target = Path(os.path.realpath(path))
        if not target.parent.is_dir():
            raise OutputError(f"{path}: there is no folder {target.parent}. Create it or choose another.")
        if suffix and target.exists():
            if not target.is_file():
                raise OutputError(f"{path} exists and is not a file. Choose another name.")
        elif target.exists():
            if not target.is_dir():
                raise OutputError(f"{path} is a file; without a suffix it would be a folder of PNGs. Rename it.")
            if any(target.iterdir()):
                raise OutputError(f"The folder {path} is not empty. Empty it or choose another for the PNGs.")
        # Permission bits tell little about root, network folders and read-only disks; trying tells all.
        _scratch(target).cleanup()
    if suffix in _ENCODERS:
        _ffmpeg()
    return path


def write_video(path: str | os.PathLike[str], frames: Frames, fps: float = 7) -> Path:
    """Write `frames` to `path`, in the format that its suffix names.

    | suffix  | what is written                                                                     |
    |---------|-------------------------------------------------------------------------------------|
    | `.mp4`  | H.264, yuv420p, CRF 16, index first: plays in browsers while it loads               |
    | `.webm` | VP9, yuv420p, CRF 16                                                                |
    | `.gif`  | endless loop, one dithered palette of 256 colours; frames are left out above 50 fps |
    | `.webp` | endless loop, lossy at quality 90                                                   |
    | none    | a folder of lossless `frame_0000.png`, ...                                          |

    MP4 and WebM have even sizes: an odd width or height is padded by repeating its last column or row. An
    existing file is replaced once the new one is complete, and stays as it was if anything fails.

    Args:
        path: a file, or a folder that does not exist yet or is empty. Its parent folder must exist.
        frames: RGB images of one size, or an array `(F, H, W, 3)` of uint8 in [0, 255]; F >= 1.
        fps: frames per second, in (0, 240].

    Returns:
        `path` as a `Path`.

    Raises:
        OutputError: `path` cannot be written to, or the disk is full, or the encoder failed.
        InputError: `frames` or `fps` is not of that form; the message names the first wrong frame.
    """
    path = check_output(path, fps=fps)
    images = _images(frames)
    suffix = path.suffix.lower()
    with as_output_error(path):
        # As with open(), what a symbolic link points to is written, not the link.
        target = Path(os.path.realpath(path))
        with _scratch(target) as folder:
            finished = Path(folder, f"video{suffix}")
            _WRITERS[suffix](finished, images, _rate(fps))
            if target.is_dir():
                target.rmdir()  # known to be empty; Windows does not rename over it
            finished.replace(target)
    return path


def _rate(fps: float) -> Fraction:
    """`fps` as the ratio it stands for, such as 2997/100 or 24000/1001; `InputError` unless in (0, 240]."""
    if isinstance(fps, Real) and 0 < fps <= MOST_FPS:
        rate = Fraction(float(fps)).limit_denominator(1_000_000)
        if rate:
            return rate
    raise InputError(f"fps is {fps!r}; it must be a number above 0 and at most {MOST_FPS}.")


def _images(frames: Frames) -> list[Image.Image]:
    """`frames` as RGB images of one size; `InputError` with the index of the first that is not."""
    images = [_image(i, frame) for i, frame in enumerate(frames)]
    if not images:
        raise InputError("There are no frames to write; at least one is needed.")
    size = images[0].size
    for i, image in enumerate(images):
        if image.size != size:
            raise InputError(f"Frame {i} is {image.size} pixels and frame 0 is {size}; all must have one size.")
    return images


def _image(i: int, frame: object) -> Image.Image:
    """`frame` as an RGB image."""
    if isinstance(frame, Image.Image):
        if frame.mode == "RGB" and min(frame.size) > 0:
            return frame
        found = f"an image of mode {frame.mode} and size {frame.size}"
    elif isinstance(frame, np.ndarray):
        if frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.size > 0:
            return Image.fromarray(frame)
        found = f"an array of shape {frame.shape} and type {frame.dtype}"
    else:
        found = f"a {type(frame).__name__}"
    raise InputError(
        f"Frame {i} is {found}. Each frame of the one video to write must be an RGB image or a uint8 array "
        "(height, width, 3)."
    )


def _scratch(target: Path) -> tempfile.TemporaryDirectory[str]:
    """A hidden folder beside `target`, so on the same disk, that vanishes with all it holds.

    Files made in it get the permissions that the umask asks for, which those of `tempfile` do not.
    """
    # A finished video is not to be reported as failed because of what could not be tidied up.
    return tempfile.TemporaryDirectory(prefix=".svdkit-", dir=target.parent, ignore_cleanup_errors=True)

"""From whatever a user calls an image to the pixels of the image encoder and of the VAE, without a framework.

`load_images` makes a flat list of pictures and is the only place that meets untrusted input: past it every
picture is valid. `clip_pixels` and `vae_pixels` are the two branches of the conditioning.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from .arrays import to_host
from .errors import ImageError, InputError


class SupportsArray(Protocol):
    """A NumPy array or a backend's tensor, on any device."""

    def __array__(self) -> npt.NDArray[Any]: ...


ImageInput: TypeAlias = (
    "Image.Image | str | os.PathLike[str] | SupportsArray"
    " | Sequence[Image.Image | str | os.PathLike[str] | SupportsArray]"
)

Picture: TypeAlias = Image.Image | npt.NDArray[np.float32]
"""One image: an upright 8-bit RGB PIL image, or a float32 array (3, H, W) in [0, 1].

Files stay in 8 bits because that is what the VAE branch resizes; arrays are never quantised.
"""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

_EXPECTED = (
    "Pass a PIL image, a path, a float array or tensor (B, 3, H, W) in [0, 1], a uint8 array (B, H, W, 3), "
    "or a list of these."
)
_LANCZOS = Image.Resampling.LANCZOS
_SLACK = 1e-3  # how far rounding in half precision may push a value out of [0, 1]

# PIL's 32-bit modes do not say which value is white: the first of these that no pixel exceeds.
_WHITES = {"I": (255, 65535), "F": (1, 255, 65535)}


def load_images(image: ImageInput) -> list[Picture]:
    """Read and check the conditioning images.

    Args:
        image: a PIL image or a path, of any mode and either orientation; a float array or tensor (B, 3, H, W)
            or (3, H, W) in [0, 1]; a uint8 array or tensor (B, H, W, 3) or (H, W, 3); or a list of these.
            Transparency is dropped, not blended, as by PIL's `convert("RGB")`. 16-bit grey is divided by 257,
            not clipped; in PIL's 32-bit modes white is the first of 255 and 65535 (mode I) or of 1, 255 and
            65535 (mode F) that no pixel exceeds. Of an animation the first frame is taken.

    Returns:
        One picture per image, in the order given; sizes may differ. The caller's images are not changed.

    Raises:
        ImageError: anything cannot be read, or is not an image; the text tells which and what to do.
    """
    if not isinstance(image, list | tuple):
        return _load(image, "image")
    if not image:
        raise ImageError(f"`image` is an empty list, but at least one image is needed. {_EXPECTED}")
    return [picture for index, item in enumerate(image) for picture in _load(item, f"image[{index}]")]


def clip_pixels(
    picture: Picture,
    size: int | tuple[int, int] = 224,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> npt.NDArray[np.float32]:
    """Pixels for the image encoder: antialiased bicubic resize without crop, then normalisation.

    The same as diffusers' `_resize_with_antialiasing`, around which it goes to [-1, 1] and back. Here that is
    left out: every output pixel is a mean whose weights sum to one, and such a mean commutes with it.

    Args:
        picture: one result of `load_images`.
        size: height and width of the result, or both at once.
        mean: what is subtracted from each channel in [0, 1].
        std: what each channel is divided by.

    Returns:
        (3, height, width). Bicubic overshoot is not clipped, as in the reference.
    """
    channels: list[npt.NDArray[Any]]
    if isinstance(picture, Image.Image):
        channels, white = [np.asarray(band) for band in picture.split()], 255
    else:
        channels, white = list(picture), 1
    height, width = channels[0].shape
    out_height, out_width = (size, size) if isinstance(size, int) else size
    rows, columns = antialiased_bicubic(height, out_height), antialiased_bicubic(width, out_width)
    # One channel at a time, so that a large photograph is never in floating point as a whole.
    pixels: npt.NDArray[np.float32]
    pixels = np.stack([rows @ channel.astype(np.float32) @ columns.T for channel in channels])
    pixels /= white
    return (pixels - _per_channel(mean)) / _per_channel(std)


def vae_pixels(picture: Picture, height: int, width: int) -> npt.NDArray[np.float32]:
    """Pixels for the VAE: Lanczos resize, as diffusers' `VideoProcessor` does for PIL images.

    Args:
        picture: one result of `load_images`. An array is resized in floating point, and clipped where Lanczos
            overshoots (PIL does that for 8 bits); one that already has the size keeps its values.
        height: positive; see `check_size`.
        width: likewise.

    Returns:
        (3, height, width) in [-1, 1].
    """
    pixels: npt.NDArray[np.float32]
    if isinstance(picture, Image.Image):
        resized = picture.resize((width, height), _LANCZOS)
        pixels = np.asarray(resized, np.float32).transpose(2, 0, 1) / np.float32(255)
    elif picture.shape[1:] == (height, width):
        pixels = picture
    else:
        bands = [Image.fromarray(channel).resize((width, height), _LANCZOS) for channel in picture]
        pixels = np.stack([np.asarray(band) for band in bands]).clip(0, 1)
    return np.ascontiguousarray(2 * pixels - 1)


def check_size(height: int, width: int, multiple: int = 8) -> None:
    """Raise `InputError` unless both sides are positive integers divisible by `multiple`."""
    for name, side in ("height", height), ("width", width):
        if isinstance(side, bool) or not isinstance(side, int | np.integer):
            raise InputError(
                f"`{name}` is {side!r}, of type {type(side).__name__}, but must be a whole number of pixels: "
                f"pass an int divisible by {multiple}, such as {72 * multiple}."
            )
        if side <= 0 or side % multiple:
            below = int(side) // multiple * multiple
            nearest = f"{below} or {below + multiple}" if below > 0 else f"{multiple}"
            raise InputError(f"`{name}` is {side}, but must be a positive multiple of {multiple}: use {nearest}.")


def _load(item: object, name: str) -> list[Picture]:
    """All images of one element of the input; `name` is what errors call it."""
    if isinstance(item, str | os.PathLike):
        return [_from_file(Path(os.fsdecode(item)))]
    if isinstance(item, Image.Image):
        try:
            return [_upright_rgb(item, name)]
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # a lazily opened file is decoded only now, and decoders raise anything
            raise ImageError(f"`{name}` is a PIL image that cannot be decoded: {error}.") from error
    if any(hasattr(item, method) for method in ("asnumpy", "detach", "__array__")):
        try:
            array = to_host(item)
        except Exception as error:
            raise ImageError(
                f"`{name}` has type {type(item).__name__} and cannot be read as an array: {error}. {_EXPECTED}"
            ) from error
        return _from_array(array, name)
    raise ImageError(f"`{name}` has type {type(item).__name__}, which is not an image. {_EXPECTED}")


def _from_file(path: Path) -> Image.Image:
    """The picture in a file, which is closed again."""
    try:
        # Pillow warns of a picture half as large as the one that it refuses to decode; telephones take such.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with path.open("rb") as file, Image.open(file) as picture:
                return _upright_rgb(picture, str(path))
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # on damaged files Pillow's decoders raise whatever they stumble over
        raise ImageError(f"The image {str(path)!r} {_why_unreadable(path, error)}") from error


def _why_unreadable(path: Path, error: Exception) -> str:
    """The end of a sentence that starts with the name of the file, and what to do about it."""
    match error:
        case FileNotFoundError() | NotADirectoryError():
            return "does not exist. Check the path; an image on the web has to be downloaded first."
        case IsADirectoryError():
            return "is a directory. Pass the path of one picture, or a list of such paths."
        case PermissionError():
            return "may not be read. Check the file's permissions."
        case Image.DecompressionBombError():
            return (
                f"has too many pixels to be decoded safely: {error} Scale it down; or, in Python, raise "
                "PIL.Image.MAX_IMAGE_PIXELS if you trust it."
            )
        case UnidentifiedImageError() if path.stat().st_size == 0:
            return "is empty (0 bytes). Save or download it again."
        case UnidentifiedImageError():
            return "is not in an image format that Pillow can read, or is damaged. Convert it to PNG or JPEG."
    return f"is damaged or incomplete ({error}). Save or download it again."


def _upright_rgb(picture: Image.Image, name: str) -> Image.Image:
    """A copy in 8-bit RGB, turned as its EXIF orientation says."""
    if 0 in picture.size:
        raise ImageError(f"`{name}` has no pixels: its size is {picture.width}x{picture.height}. {_EXPECTED}")
    try:
        upright = ImageOps.exif_transpose(picture)
    except Exception:  # Pillow's reader of EXIF raises whatever it stumbles over; the pixels may be whole
        upright = picture.copy()
    upright.info.pop("transparency", None)  # it would be dropped anyway, but with a warning
    if upright.mode in _WHITES or upright.mode.startswith("I;16"):
        return _to_8_bits(upright, name).convert("RGB")
    if upright.mode == "La":  # the one mode that Pillow has no way to RGB for
        upright = upright.convert("LA")
    return upright.convert("RGB")


def _to_8_bits(picture: Image.Image, name: str) -> Image.Image:
    """A grey picture of more than 8 bits, scaled to them; Pillow itself would clip."""
    values = np.asarray(picture).astype(np.float32)
    low, high = values.min(), values.max()
    white = next((white for white in _WHITES.get(picture.mode, (65535,)) if high <= white), None)
    if white is None or low < 0:  # NaN and infinity exceed every white
        raise ImageError(
            f"`{name}` is a PIL image of mode {picture.mode} with values from {low:g} to {high:g}, "
            "but they must lie in [0, 255] or [0, 65535], or in [0, 1] in mode F. Scale them first."
        )
    return Image.fromarray(np.rint(values * np.float32(255 / white)).astype(np.uint8))


def _from_array(array: npt.NDArray[Any], name: str) -> list[Picture]:
    """The images of a batch, or of a single image without a batch axis."""
    arrived = f"`{name}` is an array of shape {array.shape} and type {array.dtype}"
    if 0 in array.shape:
        raise ImageError(f"{arrived}, which has no pixels. {_EXPECTED}")
    batch = array.reshape(-1, *array.shape[-3:]) if array.ndim in (3, 4) else None
    if array.dtype == np.uint8:
        if batch is None or batch.shape[-1] != 3:
            raise ImageError(f"{arrived}, but in uint8 it must be (B, H, W, 3) or (H, W, 3). {_EXPECTED}")
        return [Image.fromarray(np.ascontiguousarray(pixels)) for pixels in batch]
    if "float" not in array.dtype.name:  # by name, since NumPy does not count bfloat16 among its floats
        raise ImageError(f"{arrived}, which is neither floating point nor uint8. {_EXPECTED}")
    if batch is None or batch.shape[1] != 3:
        hint = " Move the channels to the front." if array.shape[-1:] == (3,) else ""
        raise ImageError(f"{arrived}, but in float it must be (B, 3, H, W) or (3, H, W).{hint} {_EXPECTED}")
    batch = batch.astype(np.float32)
    low, high = batch.min(), batch.max()
    if not np.isfinite([low, high]).all():
        raise ImageError(f"{arrived} and contains NaN or infinity. Find out where they come from.")
    if low < -_SLACK or high > 1 + _SLACK:
        signed = -1 - _SLACK <= low < 0 and high <= 1 + _SLACK
        mend = "add 1 and divide by 2" if signed else "divide by the largest possible value, such as 255"
        raise ImageError(f"{arrived} with values from {low:g} to {high:g}, not in [0, 1]: {mend}.")
    return list(batch.clip(0, 1))


def antialiased_bicubic(size: int, out: int) -> npt.NDArray[np.float32]:
    """The matrix (out, size) that blurs one axis of an image against aliasing and resizes it.

    Both steps are linear and separable, so that `rows @ image @ columns.T` resizes a whole image. The blur is
    a Gaussian with reflected borders, the resize is bicubic with aligned corners and clamped borders.
    """
    sigma = max((size / out - 1) / 2, 0.001)
    radius = int(max(4 * sigma, 3)) // 2  # of a kernel whose length is made odd
    offsets = np.arange(-radius, radius + 1)
    gaussian = np.exp(-(offsets**2) / (2 * sigma**2))
    gaussian /= gaussian.sum()

    position = np.linspace(0, size - 1, out)
    left = np.floor(position).astype(int)
    taps = left[:, None] + np.arange(-1, 3)
    bicubic = _cubic(position[:, None] - taps)

    # Each of an output's 4 taps reads the blurred axis at one place, that is, the axis around that place.
    source = _reflect(taps.clip(0, size - 1)[:, :, None] + offsets, size)
    matrix = np.zeros((out, size))
    np.add.at(matrix, (np.arange(out)[:, None, None], source), bicubic[:, :, None] * gaussian)
    return matrix.astype(np.float32)


def _cubic(distance: npt.NDArray[np.float64], a: float = -0.75) -> npt.NDArray[np.float64]:
    """Keys' cubic convolution kernel with PyTorch's `a`, for distances up to 2."""
    d = np.abs(distance)
    return np.where(d <= 1, ((a + 2) * d - (a + 3)) * d**2 + 1, (((d - 5) * d + 8) * d - 4) * a)


def _reflect(index: npt.NDArray[np.int_], size: int) -> npt.NDArray[np.int_]:
    """Any index folded into an axis as `np.pad` reflects: as often as it takes, the border not repeated."""
    period = max(2 * (size - 1), 1)
    folded = index % period
    return np.minimum(folded, period - folded)


def _per_channel(values: Sequence[float]) -> npt.NDArray[np.float32]:
    """One number per channel, to broadcast over an image."""
    return np.asarray(values, np.float32)[:, None, None]

"""Images in every form become the pixels that diffusers makes of them; everything else is refused."""

from __future__ import annotations

import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline
from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
    _resize_with_antialiasing,
)
from diffusers.video_processor import VideoProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessor

from svdkit import preprocess
from svdkit.errors import ImageError, InputError
from svdkit.preprocess import CLIP_MEAN, CLIP_STD, check_size, clip_pixels, load_images, vae_pixels
from svdkit.testing.inputs import relative_error

SIZES = [
    (576, 1024),
    (1024, 576),
    (224, 224),
    (225, 223),
    (448, 897),
    (37, 53),
    (2, 3),
    (4000, 30),
    (30, 3000),
]

# All that Pillow has.
MODES = ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"]
MODES += ["I", "F", "I;16", "I;16L", "I;16B", "I;16N"]


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Uint8 pixels (height, width, 3): smooth, with noise on top, so that blur and resize both matter."""
    rng = np.random.default_rng((seed, height, width))
    y, x = np.mgrid[:height, :width]
    smooth = 128 + 80 * np.sin(np.stack([x / 7, y / 11, (x + y) / 40], axis=-1))
    return (smooth + rng.normal(0, 25, smooth.shape)).clip(0, 255).astype(np.uint8)


class PixelsAsEmbedding(torch.nn.Module):
    """An image encoder whose embedding is its input, which shows what the pipeline feeds it."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, pixels: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(image_embeds=pixels.flatten(1))


def diffusers_clip(picture: Image.Image) -> np.ndarray:
    pipe = SimpleNamespace(
        image_encoder=PixelsAsEmbedding(),
        video_processor=VideoProcessor(do_resize=True, vae_scale_factor=8),
        feature_extractor=CLIPImageProcessor(),
    )
    embedding = StableVideoDiffusionPipeline._encode_image(pipe, picture, "cpu", 1, False)
    return embedding.detach().numpy().reshape(3, 224, 224)


def diffusers_clip_in_float64(picture: Image.Image) -> np.ndarray:
    image = torch.from_numpy(np.asarray(picture) / 255).permute(2, 0, 1)[None]
    resized = (_resize_with_antialiasing(image * 2 - 1, (224, 224)) + 1) / 2
    return ((resized[0].permute(1, 2, 0).numpy() - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)


def diffusers_vae(picture: Image.Image, height: int, width: int) -> np.ndarray:
    return VideoProcessor(do_resize=True, vae_scale_factor=8).preprocess(picture, height, width)[0].numpy()


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_clip_pixels_equal_diffusers(height: int, width: int) -> None:
    picture = Image.fromarray(noise(height, width))
    ours = clip_pixels(picture)
    assert ours.dtype == np.float32
    # Measured up to 4.1e-6. That is how far diffusers in float32 is from itself in float64, since it computes
    # the places that it samples in the type of the image.
    assert relative_error(ours, diffusers_clip(picture)) < 1e-5
    # Measured up to 3.3e-7, the rounding of float32.
    assert relative_error(ours, diffusers_clip_in_float64(picture)) < 1e-6


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("target", [(576, 1024), (64, 96)])
def test_vae_pixels_equal_diffusers(height: int, width: int, target: tuple[int, int]) -> None:
    picture = Image.fromarray(noise(height, width))
    ours = vae_pixels(picture, *target)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    np.testing.assert_array_equal(ours, diffusers_vae(picture, *target))


def test_float_pictures_take_the_same_way_as_files() -> None:
    pixels = noise(300, 400)
    (picture,), (array,) = load_images(pixels), load_images(pixels.transpose(2, 0, 1) / 255)
    # The only difference is rounding: 1/255 is stored as a float32.
    assert relative_error(clip_pixels(array), clip_pixels(picture)) < 1e-6
    # PIL rounds an 8-bit picture to 1/255 once along each axis, and a float picture never: measured 0.0042.
    assert 0 < relative_error(vae_pixels(array, 64, 96), vae_pixels(picture, 64, 96)) < 8e-3
    np.testing.assert_array_equal(vae_pixels(array, 300, 400), vae_pixels(picture, 300, 400))


def test_clip_pixels_honour_size_mean_and_std() -> None:
    picture = Image.fromarray(noise(50, 70))
    plain = clip_pixels(picture, (20, 30), mean=(0, 0, 0), std=(1, 1, 1))
    assert plain.shape == (3, 20, 30)
    mean, std = np.reshape(CLIP_MEAN, (3, 1, 1)), np.reshape(CLIP_STD, (3, 1, 1))
    assert relative_error(clip_pixels(picture, (20, 30)), (plain - mean) / std) < 1e-6
    assert relative_error(clip_pixels(picture, 1, (0, 0, 0), (1, 1, 1)), plain[:, :1, :1]) < 1  # one output pixel works


side = st.integers(1, 70)


@settings(max_examples=60, deadline=None)
@given(side, side, side, side, st.floats(0, 1, width=32))
def test_a_constant_image_stays_constant(height: int, width: int, rows: int, columns: int, value: float) -> None:
    array = np.full((3, height, width), value, np.float32)
    clip = clip_pixels(array, (rows, columns), mean=(0, 0, 0), std=(1, 1, 1))
    assert clip.shape == (3, rows, columns)
    np.testing.assert_allclose(clip, value, atol=2e-6)
    vae = vae_pixels(array, rows, columns)
    assert vae.shape == (3, rows, columns)
    np.testing.assert_allclose(vae, 2 * value - 1, atol=2e-6)


@settings(max_examples=60, deadline=None)
@given(side, side, side, side, st.booleans())
def test_ranges(height: int, width: int, rows: int, columns: int, as_floats: bool) -> None:
    pixels = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (height, width, 3))  # the worst case
    (picture,) = load_images(pixels.transpose(2, 0, 1) / 255.0 if as_floats else pixels)
    vae = vae_pixels(picture, rows, columns)
    assert vae.min() >= -1
    assert vae.max() <= 1
    clip = clip_pixels(picture, (rows, columns), mean=(0, 0, 0), std=(1, 1, 1))
    # The absolute bicubic weights of one axis sum to at most 1.375 (at t = 1/2), so to 1.89 in both.
    assert np.abs(clip - 0.5).max() <= 0.5 * 1.375**2 + 1e-6


@settings(max_examples=40, deadline=None)
@given(side, side, st.booleans())
def test_an_axis_of_one_pixel_is_constant(length: int, copies: int, tall: bool) -> None:
    strip = load_images(noise(length, 1) if tall else noise(1, length))[0]
    widened = Image.fromarray(np.repeat(np.asarray(strip), copies, axis=1 if tall else 0))
    assert relative_error(clip_pixels(strip, 32), clip_pixels(widened, 32)) < 2e-6


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 100))
def test_reflection_is_that_of_numpy(size: int, padding: int) -> None:
    expected = np.pad(np.arange(size), padding, mode="reflect")
    np.testing.assert_array_equal(preprocess._reflect(np.arange(-padding, size + padding), size), expected)


def png(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def test_every_form_of_one_image_gives_the_same_picture(tmp_path: Path) -> None:
    pixels = noise(9, 13)
    path = png(tmp_path / "a.png", pixels)
    for form in (Image.fromarray(pixels), path, str(path), pixels, pixels[None], torch.from_numpy(pixels)):
        (picture,) = load_images(form)
        assert isinstance(picture, Image.Image)
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), pixels)


class AsNumpy:
    """A tensor as MindSpore has them: bfloat16 only comes out as float32."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values

    def asnumpy(self) -> np.ndarray:
        return self.values.numpy()

    def float(self) -> AsNumpy:
        return AsNumpy(self.values.float())


VALUES = np.linspace(0, 1, 3 * 4 * 5).reshape(3, 4, 5)


@pytest.mark.parametrize(
    ("form", "tolerance"),
    [
        (VALUES, 1e-7),
        (VALUES.astype(np.float32), 1e-7),
        (VALUES.astype(np.float16), 5e-4),
        (VALUES.astype(">f4"), 1e-7),
        (VALUES.astype(ml_dtypes.bfloat16), 4e-3),
        (np.asfortranarray(VALUES), 1e-7),
        (torch.from_numpy(VALUES), 1e-7),
        (torch.from_numpy(VALUES).requires_grad_(), 1e-7),
        (torch.from_numpy(VALUES).bfloat16().requires_grad_(), 4e-3),
        (AsNumpy(torch.from_numpy(VALUES)), 1e-7),
        (AsNumpy(torch.from_numpy(VALUES).bfloat16()), 4e-3),
    ],
)
def test_float_arrays_and_tensors(form: Any, tolerance: float) -> None:
    # The tolerances are half the distance of two neighbouring numbers below 1 in the type that went in.
    (picture,) = load_images(form)
    assert isinstance(picture, np.ndarray)
    assert picture.dtype == np.float32
    np.testing.assert_allclose(picture, VALUES, atol=tolerance)


def test_float_rounding_is_clipped_and_the_input_left_alone() -> None:
    array = VALUES * 1.0015 - 0.0006
    before = array.copy()
    (picture,) = load_images(array)
    assert picture.min() == 0
    assert picture.max() == 1
    picture[:] = 0
    np.testing.assert_array_equal(array, before)


def test_the_order_of_a_batch_is_kept(tmp_path: Path) -> None:
    def grey(level: int) -> np.ndarray:
        return np.full((4, 6, 3), level, np.uint8)

    floats = np.stack([np.full((3, 4, 6), level / 255, np.float32) for level in (40, 50)])
    batch = [
        Image.fromarray(grey(10)),
        png(tmp_path / "a.png", grey(20)),
        np.stack([grey(30), grey(35)]),
        floats,
    ]
    for sequence in (batch, tuple(batch)):
        levels = [(vae_pixels(picture, 4, 6).mean() + 1) / 2 * 255 for picture in load_images(sequence)]
        np.testing.assert_allclose(levels, [10, 20, 30, 35, 40, 50], atol=1e-3)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(mode: str) -> None:
    picture = Image.new(mode, (4, 3))
    before = picture.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (rgb,) = load_images(picture)
    assert isinstance(rgb, Image.Image)
    assert (rgb.mode, rgb.size) == ("RGB", (4, 3))
    assert rgb is not picture
    assert picture == before


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_8_bit_modes_convert_as_pil_does(mode: str) -> None:
    picture = Image.fromarray(noise(8, 9)).convert(mode)
    if mode in ("LA", "RGBA"):
        picture.putalpha(Image.fromarray(noise(8, 9, seed=1)[..., 0]))
    (rgb,) = load_images(picture)
    np.testing.assert_array_equal(np.asarray(rgb), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("transparency", [3, b"\x00\x80\xff"])
def test_transparent_palettes_convert_without_a_warning(transparency: int | bytes) -> None:
    picture = Image.fromarray(noise(8, 9)).convert("P")
    expected = np.asarray(picture.convert("RGB"))
    picture.info["transparency"] = transparency
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (rgb,) = load_images(picture)
    np.testing.assert_array_equal(np.asarray(rgb), expected)
    assert picture.info["transparency"] == transparency


GREY = np.array([[0, 64, 128], [200, 254, 255]])


@pytest.mark.parametrize(
    "values",
    [
        (GREY * 257).astype(np.uint16),  # I;16
        (GREY * 257).astype(np.int32),  # I with the range of 16 bits
        GREY.astype(np.int32),  # I with the range of 8 bits
        (GREY / 255).astype(np.float32),  # F, as renderers write it
        GREY.astype(np.float32),  # F, as PIL converts to it
        (GREY * 257).astype(np.float32),
    ],
)
def test_wide_modes_are_scaled_instead_of_clipped(values: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.tiff"
    Image.fromarray(values).save(path)
    for form in (Image.fromarray(values), path):
        (rgb,) = load_images(form)
        np.testing.assert_array_equal(np.asarray(rgb), np.repeat(GREY[..., None], 3, axis=-1))


def test_16_bit_png_is_rounded_to_the_nearest_8_bit_value(tmp_path: Path) -> None:
    (rgb,) = load_images(png(tmp_path / "a.png", np.array([[128, 129, 60000, 65535]], np.uint16)))
    assert np.asarray(rgb)[0, :, 0].tolist() == [0, 1, 233, 255]


# What a camera that was held so writes, for each EXIF orientation.
STORED_AS = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED_AS)
def test_exif_orientation_is_undone(orientation: int, tmp_path: Path) -> None:
    upright = noise(5, 8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](upright))).save(path, exif=exif)
    with Image.open(path) as opened:
        for form in (path, opened):
            (picture,) = load_images(form)
            np.testing.assert_array_equal(np.asarray(picture), upright)


def encoded(form: str, pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def png_without_pixels(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixel data at all."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


BIG = noise(64, 64)

BAD_FILES = {
    "text": (b"This is not a picture.", "not in an image format"),
    "empty": (b"", r"empty \(0 bytes\)"),
    "truncated png": (encoded("PNG", BIG)[:-3000], "damaged or incomplete"),
    "truncated jpeg": (encoded("JPEG", BIG)[:700], "damaged or incomplete"),
    "truncated gif": (encoded("GIF", BIG)[:-3000], "damaged or incomplete"),
    "truncated tiff": (encoded("TIFF", BIG)[:-3000], "damaged or incomplete"),
    "no pixel data": (png_without_pixels(100, 100), "damaged or incomplete"),
    "zero size": (b"P6 0 5 255\n", "not in an image format"),
    # Pillow warns of the first, as photographs may be, and refuses the second. What is decoded turns out incomplete.
    "large": (png_without_pixels(10_000, 10_000), "damaged or incomplete"),
    "bomb": (png_without_pixels(60_000, 60_000), "too many pixels"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(case: str, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    data, message = BAD_FILES[case]
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with pytest.raises(ImageError, match=message) as caught:
        load_images([Image.new("RGB", (2, 2)), path])
    assert "picture.png" in str(caught.value)
    assert limit == Image.MAX_IMAGE_PIXELS
    assert list(warnings.filters) == filters
    assert not recwarn.list


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", "does not exist"),
        ("picture.png/missing.png", "does not exist"),
        ("https://example.org/a.png", "downloaded"),
        (".", "is a directory"),
        ("", "is a directory"),
        ("a\0b", "null"),
    ],
)
def test_bad_paths(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    png(tmp_path / "picture.png", BIG)
    with pytest.raises(ImageError, match=message):
        load_images(name)


def test_a_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # a mode would not stop root
    with pytest.raises(ImageError, match="may not be read"):
        load_images("a.png")


def test_running_out_of_memory_is_not_blamed_on_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: Any) -> None:
        raise MemoryError

    path = png(tmp_path / "a.png", BIG)
    monkeypatch.setattr(Image.Image, "convert", exhausted)
    for form in (path, Image.fromarray(BIG)):
        with pytest.raises(MemoryError):
            load_images(form)


def test_the_limit_on_pixels_is_pils_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = png(tmp_path / "a.png", BIG)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", BIG[..., 0].size // 2 - 1)
    with pytest.raises(ImageError, match="too many pixels"):
        load_images(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", BIG[..., 0].size // 2 + 1)  # where Pillow only warns
    assert len(load_images(path)) == 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert len(load_images(path)) == 1


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
def test_an_orientation_that_cannot_be_read_is_none(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(BIG).save(tmp_path / f"a{suffix}", exif=b"garbage")
    Image.fromarray(BIG).save(tmp_path / f"b{suffix}")
    (found,), (expected,) = (load_images(tmp_path / f"{name}{suffix}") for name in "ab")
    np.testing.assert_array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("data", [encoded("PNG", BIG), encoded("PNG", BIG)[:-3000], b"text"])
def test_files_are_closed(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(data)
    opened = []
    plain_open = Path.open

    def spy(self: Path, *args: Any) -> Any:
        opened.append(plain_open(self, *args))
        return opened[-1]

    monkeypatch.setattr(Path, "open", spy)
    try:
        (picture,) = load_images(path)
    except ImageError:
        assert data != encoded("PNG", BIG)
    else:
        path.unlink()
        np.testing.assert_array_equal(np.asarray(picture), BIG)
    assert [file.closed for file in opened] == [True]


def test_lazily_opened_pictures_that_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded("PNG", BIG)[:-3000])
    with Image.open(path) as picture, pytest.raises(ImageError, match=r"`image\[0\]`.*cannot be decoded"):
        load_images([picture])


NAN = VALUES.copy()
NAN[0, 0, 0] = np.nan
INFINITE = VALUES.copy()
INFINITE[0, 0, 0] = np.inf


class Unreadable:
    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise RuntimeError("on another machine")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ([], "empty list"),
        ((), "empty list"),
        (None, "NoneType"),
        (7, "type int"),
        (b"a.png", "type bytes"),
        ({"a.png"}, "type set"),
        ([[VALUES]], r"`image\[0\]` has type list"),
        ([VALUES, 0.5], r"`image\[1\]` has type float"),
        (NAN, "NaN or infinity"),
        (INFINITE, "NaN or infinity"),
        (VALUES * 2 - 1, r"from -1 to 1, not in \[0, 1\]: add 1 and divide by 2"),
        (VALUES * 255, r"from 0 to 255, not in \[0, 1\]: divide by"),
        (VALUES - 0.002, r"from -0\.002 to 0\.998"),
        (VALUES + 0.002, r"to 1\.002"),
        (VALUES[0], r"shape \(4, 5\).*must be \(B, 3, H, W\)"),
        (VALUES[None, None], r"shape \(1, 1, 3, 4, 5\)"),
        (VALUES[:2], r"shape \(2, 4, 5\)"),
        (VALUES.transpose(1, 2, 0), r"shape \(4, 5, 3\).*Move the channels"),
        (VALUES[:, :0], "no pixels"),
        (VALUES[None][:0], "no pixels"),
        (np.float32(0.5), "type float32"),
        (VALUES.astype(np.int64), "type int64.*neither"),
        (VALUES.astype(bool), "type bool"),
        (VALUES.astype(complex), "type complex128"),
        (VALUES.astype(np.uint8), r"shape \(3, 4, 5\).*must be \(B, H, W, 3\)"),
        (BIG[..., 0], r"shape \(64, 64\)"),
        (BIG[:0], "no pixels"),
        (np.array(["a.png"]), "type <U5"),
        (np.array([None]), "type object"),
        (torch.zeros(3, 4, 5, device="meta"), "cannot be read as an array"),
        (Unreadable(), "on another machine"),
        (Image.new("RGB", (0, 5)), "no pixels: its size is 0x5"),
        (Image.new("L", (5, 0)), "no pixels"),
        (Image.fromarray(np.array([[-1, 5]], np.int32)), "mode I with values from -1 to 5"),
        (Image.fromarray(np.array([[0, 65536]], np.int32)), "from 0 to 65536"),
        (Image.fromarray(np.array([[np.nan, 0.5]], np.float32)), "mode F"),
        (Image.fromarray(np.array([[np.inf, 0.5]], np.float32)), "mode F"),
    ],
)
def test_what_is_not_an_image(image: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_images(image)


def test_paths_may_be_any_path_like(tmp_path: Path) -> None:
    class Location:
        def __fspath__(self) -> bytes:
            return os.fsencode(tmp_path / "a.png")

    png(tmp_path / "a.png", BIG)
    assert load_images(Location())[0].size == (64, 64)


@pytest.mark.parametrize("size", [(576, 1024), (8, 8), (np.int64(64), 72)])
def test_valid_sizes(size: tuple[int, int]) -> None:
    check_size(*size)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (0, "use 8"),
        (-8, "use 8"),
        (3, "use 8"),
        (100, "use 96 or 104"),
        (True, "type bool"),
        (576.0, "type float"),
        ("576", "type str"),
        (None, "type NoneType"),
    ],
)
def test_invalid_sizes(side: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"`height` is .*{message}"):
        check_size(side, 64)
    with pytest.raises(InputError, match=f"`width` is .*{message}"):
        check_size(64, side)


def test_another_multiple() -> None:
    check_size(128, 64, multiple=64)
    with pytest.raises(InputError, match="use 64 or 128"):
        check_size(72, 64, multiple=64)

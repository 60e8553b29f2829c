"""`svdkit.video`: what was written is read back with ffmpeg and Pillow, and failures leave nothing behind."""

from __future__ import annotations

import errno
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import accumulate, pairwise
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from svdkit import video
from svdkit.errors import InputError, OutputError
from svdkit.video import SUFFIXES, check_output, write_video

Array = npt.NDArray[np.uint8]

FFMPEG = imageio_ffmpeg.get_ffmpeg_exe()
ENCODED = (".mp4", ".webm")
ANIMATED = (".gif", ".webp")
FILES = (*ENCODED, *ANIMATED)
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions, signals and shell")


def gradient(count: int = 6, height: int = 48, width: int = 64) -> Array:
    """Colours that move a little from each frame to the next: (F, H, W, 3) in [0, 255]."""
    t, y, x = np.ogrid[:count, :height, :width]
    t, y, x = t / 10, y / 64, x / 64
    red, green, blue = 0.5 + 0.4 * np.sin(3 * (x + t)), 0.5 + 0.4 * np.cos(2 * (y - t)), (x + y) / 4 + t / 2
    return (255 * np.stack(np.broadcast_arrays(red, green, blue), axis=-1)).clip(0, 255).astype(np.uint8)


def psnr(first: Array, second: Array) -> float:
    error = np.mean((first.astype(float) - second) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def ffmpeg(*arguments: str | Path) -> bytes:
    return subprocess.run([FFMPEG, "-v", "error", *map(str, arguments)], capture_output=True, check=True).stdout


def stream(path: Path) -> str:
    """What ffmpeg says about the one video stream."""
    words = subprocess.run([FFMPEG, "-i", path], capture_output=True, text=True, check=False).stderr
    (line,) = (line for line in words.splitlines() if "Stream #" in line)
    return line


def read(path: Path) -> Array:
    """All frames in `path`, (F, H, W, 3)."""
    if path.is_dir():
        return np.stack([np.asarray(Image.open(file)) for file in sorted(path.iterdir())])
    if path.suffix in ANIMATED:
        with Image.open(path) as image:
            return np.stack([np.asarray(frame(image, i)) for i in range(getattr(image, "n_frames", 1))])
    width, height = next(imageio_ffmpeg.read_frames(path))["size"]
    exact = ("-sws_flags", "accurate_rnd+full_chroma_int")
    pixels = ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", *exact, "-")
    return np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3)


def frame(image: Image.Image, index: int) -> Image.Image:
    image.seek(index)
    return image.convert("RGB")


def times(path: Path) -> list[Fraction]:
    """Seconds at which each frame begins, and the end."""
    if path.suffix in ANIMATED:
        with Image.open(path) as image:
            durations = []
            for i in range(image.n_frames):
                image.seek(i)
                image.load()
                durations.append(Fraction(image.info["duration"]) / 1000)
            return list(accumulate(durations, initial=Fraction(0)))
    lines = ffmpeg("-i", path, "-c", "copy", "-f", "framecrc", "-").decode().splitlines()
    (unit,) = (Fraction(line.split()[-1]) for line in lines if line.startswith("#tb"))
    packets = sorted((int(pts), int(length)) for _, _, pts, length, *_ in (s.split(",") for s in lines if s[0] != "#"))
    return [pts * unit for pts, _ in packets] + [sum(packets[-1]) * unit]


@pytest.fixture(params=SUFFIXES, ids=lambda suffix: suffix or "folder")
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return tmp_path / f"clip{request.param}"


def left(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_frames_come_back_in_order_and_alike(path: Path) -> None:
    frames = gradient()
    assert write_video(str(path), frames) == path
    found = read(path)
    assert found.shape == frames.shape
    least = {".mp4": 40, ".webm": 38, ".gif": 26, ".webp": 38, "": float("inf")}[path.suffix]
    for i, image in enumerate(found):
        assert psnr(image, frames[i]) >= least
        others = [psnr(image, other) for j, other in enumerate(frames) if j != i]
        assert max(others) < psnr(image, frames[i])
    assert left(path.parent) == {path.name}


def test_pil_images_and_arrays_are_written_alike(path: Path) -> None:
    frames = gradient(3)
    write_video(path, frames)
    from_array = read(path)
    other = path.with_stem("other")
    write_video(other, [Image.fromarray(frame) for frame in frames])
    np.testing.assert_array_equal(read(other), from_array)


def test_one_frame(path: Path) -> None:
    frames = gradient(1)
    write_video(path, frames)
    found = read(path)
    assert found.shape == frames.shape
    assert psnr(found, frames) > 28


def test_suffix_in_capitals(tmp_path: Path) -> None:
    assert write_video(tmp_path / "A.MP4", gradient(2)).name == "A.MP4"
    assert "h264" in stream(tmp_path / "A.MP4")


def test_folder_holds_numbered_pngs(tmp_path: Path) -> None:
    write_video(tmp_path / "clip", gradient(3))
    assert left(tmp_path / "clip") == {"frame_0000.png", "frame_0001.png", "frame_0002.png"}


@pytest.mark.parametrize("fps", [1, 6, 7, 24, 29.97, 24000 / 1001, 30, 240, np.float32(12.5), 0.25])
def test_mp4_frame_times_are_exact(tmp_path: Path, fps: float) -> None:
    write_video(tmp_path / "clip.mp4", gradient(5, 16, 16), fps)
    rate = Fraction(float(fps)).limit_denominator(1001)
    assert times(tmp_path / "clip.mp4") == [i / rate for i in range(6)]


@pytest.mark.parametrize(("suffix", "tick"), [(".webm", 0.001), (".gif", 0.01), (".webp", 0.001)])
@pytest.mark.parametrize("fps", [1, 6, 7, 24, 29.97, 48])
def test_times_of_other_formats_are_within_half_a_tick(tmp_path: Path, suffix: str, tick: float, fps: float) -> None:
    path = tmp_path / f"clip{suffix}"
    write_video(path, gradient(25, 16, 16), fps)
    # The end of a WebM is its last frame's rounded start plus a rounded duration.
    slack = np.array([tick / 2] * 25 + [tick if suffix == ".webm" else tick / 2]) + 1e-9
    found = np.array(times(path), float)
    assert found.shape == (26,)
    assert (abs(found - np.arange(26) / fps) <= slack).all()


@pytest.mark.parametrize("suffix", ENCODED)
@pytest.mark.parametrize("fps", [1, 7, 29.97])
def test_encoded_header_names_the_rate(tmp_path: Path, suffix: str, fps: float) -> None:
    path = write_video(tmp_path / f"clip{suffix}", gradient(7), fps)
    header = next(imageio_ffmpeg.read_frames(path))
    assert header["fps"] == pytest.approx(fps)
    assert header["duration"] == pytest.approx(7 / fps, abs=0.011)


@pytest.mark.parametrize("fps", [59.94, 60, 100, 240])
def test_fast_gif_drops_frames_and_keeps_its_length(tmp_path: Path, fps: float) -> None:
    path = write_video(tmp_path / "clip.gif", gradient(48, 16, 16), fps)
    starts = times(path)
    assert all(end - start == Fraction(20, 1000) for start, end in pairwise(starts))
    assert 48 / fps - 1e-9 <= starts[-1] < 48 / fps + 0.02


@pytest.mark.parametrize("suffix", ANIMATED)
def test_animations_loop_for_ever(tmp_path: Path, suffix: str) -> None:
    with Image.open(write_video(tmp_path / f"clip{suffix}", gradient(3))) as image:
        assert image.info["loop"] == 0


@pytest.mark.parametrize("suffix", ANIMATED)
def test_equal_neighbours_keep_the_length(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"clip{suffix}", gradient(4)[[0, 0, 1, 1, 1, 2, 3, 3]], 10)
    assert float(times(path)[-1]) == pytest.approx(0.8)


def test_gif_colours_do_not_jump(tmp_path: Path) -> None:
    frames = gradient(5)
    frames[:, :24] = frames[0, :24]  # dithering carries errors downwards, so what is above stays still
    found = read(write_video(tmp_path / "clip.gif", frames))
    assert (found[:, :24] == found[0, :24]).all()
    assert (found[1, 24:] != found[0, 24:]).any()


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "h264"), (".webm", "vp9")])
def test_codec_pixels_and_colours_are_what_browsers_play(tmp_path: Path, suffix: str, codec: str) -> None:
    words = stream(write_video(tmp_path / f"clip{suffix}", gradient(3)))
    assert f"Video: {codec}" in words
    assert re.search(r"yuv420p\(tv, bt709[,)]", words)  # not bt709/unknown/unknown


@pytest.mark.parametrize("suffix", ENCODED)
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 0, 255), (200, 120, 40), (255, 255, 255), (0, 0, 0)])
def test_colours_survive(tmp_path: Path, suffix: str, colour: tuple[int, int, int]) -> None:
    frames = np.full((2, 32, 32, 3), colour, np.uint8)
    found = read(write_video(tmp_path / f"clip{suffix}", frames))
    assert abs(found.astype(int) - frames).max() <= 3


def test_mp4_plays_before_it_is_all_there(tmp_path: Path) -> None:
    data = write_video(tmp_path / "clip.mp4", gradient(3)).read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 3), (33, 40), (32, 41), (37, 51)])
def test_odd_sizes(path: Path, height: int, width: int) -> None:
    frames = gradient(3, height, width)
    found = read(write_video(path, frames))
    if path.suffix in ENCODED:
        assert found.shape == (3, height + height % 2, width + width % 2, 3)
        assert psnr(found[:, -1], np.pad(frames, ((0, 0), (0, 0), (0, width % 2), (0, 0)), "edge")[:, -1]) > 30
    else:
        assert found.shape == frames.shape
    assert psnr(found[:, :height, :width], frames) > 26


sizes = st.integers(1, 20)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 6), height=sizes, width=sizes, seed=st.integers(0, 9))
def test_any_small_folder_is_lossless(count: int, height: int, width: int, seed: int) -> None:
    frames = np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        np.testing.assert_array_equal(read(write_video(Path(folder, "clip"), frames)), frames)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(2, 12),
    height=sizes,
    width=sizes,
    fps=st.floats(0.1, 240),
    suffix=st.sampled_from(ANIMATED),
)
def test_any_small_animation_has_its_size_and_length(
    count: int, height: int, width: int, fps: float, suffix: str
) -> None:
    # Greys far enough apart that no frame is merged with its neighbour.
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = np.linspace(0, 255, count).astype(np.uint8)[:, None, None, None]
    with tempfile.TemporaryDirectory() as folder:
        path = write_video(Path(folder, f"clip{suffix}"), frames, fps)
        starts = times(path)
        found = read(path)
    slow_enough = suffix == ".webp" or fps <= 50
    assert found.shape[1:] == frames.shape[1:]
    assert abs(float(starts[-1]) - count / fps) <= (0.005001 if slow_enough else 0.02)
    if slow_enough:
        assert psnr(found, frames) > 30
        assert len(starts) == count + 1


@pytest.fixture(params=[KeyboardInterrupt(), MemoryError(), OSError(errno.ENOSPC, "No space left on device")], ids=repr)
def trouble(request: pytest.FixtureRequest) -> BaseException:
    """What goes wrong; a full disk is reported as an `OutputError`."""
    assert isinstance(request.param, BaseException)
    return request.param


@pytest.fixture(params=["encoding", "moving"])
def in_trouble(request: pytest.FixtureRequest, trouble: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trouble begins once a file, or a folder's first, is encoded, or when all is moved into place."""

    def sabotage(owner: object, name: str, first: Callable[..., object]) -> None:
        def broken(*args: object, **kwargs: object) -> None:
            first(*args, **kwargs)
            raise trouble

        monkeypatch.setattr(owner, name, broken)

    if request.param == "encoding":
        sabotage(Image.Image, "save", Image.Image.save)
        sabotage(subprocess, "run", subprocess.run)
    else:
        sabotage(Path, "replace", lambda *_: None)


@pytest.mark.usefixtures("in_trouble")
def test_trouble_leaves_nothing(path: Path, trouble: BaseException) -> None:
    expected = OutputError if isinstance(trouble, OSError) else type(trouble)
    with pytest.raises(expected) as caught:
        write_video(path, gradient(3))
    assert left(path.parent) == set()
    if isinstance(trouble, OSError):
        assert "No space left on device" in str(caught.value)


@pytest.mark.usefixtures("in_trouble")
@pytest.mark.parametrize("suffix", FILES)
def test_trouble_leaves_an_old_file_as_it_was(tmp_path: Path, suffix: str, trouble: BaseException) -> None:
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(b"old")
    with pytest.raises((OutputError, type(trouble))):
        write_video(path, gradient(3))
    assert left(tmp_path) == {path.name}
    assert path.read_bytes() == b"old"


@posix
def test_interrupt_stops_ffmpeg_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import numpy as np, signal, sys; from svdkit.video import write_video;"
        "signal.signal(signal.SIGINT, signal.default_int_handler);"  # ignored in what a shell runs in the background
        "write_video(sys.argv[1], np.random.default_rng(0).integers(0, 256, (150, 512, 512, 3), np.uint8))"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "clip.mp4")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while not any(tmp_path.glob(".*/video.mp4")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=20)
    assert process.returncode != 0, words
    assert words.strip().endswith("KeyboardInterrupt")
    assert left(tmp_path) == set()
    time.sleep(0.2)  # an encoder that had been left running would write its file again
    assert left(tmp_path) == set()


@pytest.fixture
def umask() -> Iterator[int]:
    old = os.umask(0o027)
    yield 0o027
    os.umask(old)


@posix
def test_permissions_follow_the_umask(path: Path, umask: int) -> None:
    write_video(path, gradient(2))
    if path.suffix:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    else:
        assert stat.S_IMODE(path.stat().st_mode) == 0o777 & ~umask
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o666 & ~umask}


@pytest.mark.parametrize("suffix", FILES)
def test_old_file_is_replaced(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(b"old")
    write_video(check_output(path), gradient(4))
    assert len(read(path)) == 4


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    write_video(check_output(tmp_path / "clip"), gradient(2))
    assert len(read(tmp_path / "clip")) == 2


@posix
def test_a_link_to_itself_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "clip.gif").symlink_to(tmp_path / "clip.gif")
    write_video(tmp_path / "clip.gif", gradient(2))
    assert len(read(tmp_path / "clip.gif")) == 2


@posix
def test_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "clip.gif"
    link.symlink_to(tmp_path / "there" / "real.gif")
    write_video(link, gradient(2))
    assert link.is_symlink()
    assert len(read(tmp_path / "there" / "real.gif")) == 2


@pytest.mark.parametrize("function", [check_output, lambda path: write_video(path, gradient(2))])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clip.avi", r"\.avi files cannot be written.*\.mp4, \.webm, \.gif, \.webp, or .* folder of PNGs"),
        (".mp4", r"no name before its suffix.*video\.mp4"),
        ("nowhere/clip.mp4", "no folder .*nowhere"),
        ("nowhere/clip", "no folder .*nowhere"),
        ("file/clip.mp4", "no folder .*file"),
        ("folder.mp4", "not a file"),
        ("file", "is a file"),
        ("full", "not empty"),
        ("x" * 300 + ".mp4", "cannot be written: File name too long"),
    ],
)
def test_impossible_paths(tmp_path: Path, function: Callable[[Path], Path], name: str, message: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "frame_0000.png").write_bytes(b"old")
    before = left(tmp_path)
    with pytest.raises(OutputError, match=message):
        function(tmp_path / name)
    assert left(tmp_path) == before
    assert (tmp_path / "file").read_bytes() == (tmp_path / "full" / "frame_0000.png").read_bytes() == b"old"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
@pytest.mark.parametrize("name", ["clip.mp4", "clip"])
def test_unwritable_folder(name: str) -> None:
    with pytest.raises(OutputError, match=r"/proc/clip.* cannot be written"):
        check_output(Path("/proc", name))


def test_unwritable_folder_on_any_system(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(OutputError, match="cannot be written: Permission denied"):
        check_output(path)


def test_check_leaves_nothing(path: Path) -> None:
    assert check_output(str(path)) == path
    assert left(path.parent) == set()


@pytest.mark.parametrize(
    "fps", [0, -1, 240.5, float("nan"), float("inf"), 1e-9, 10**400, "7", None], ids=lambda fps: str(fps)[:9]
)
def test_impossible_rates(tmp_path: Path, fps: float) -> None:
    with pytest.raises(InputError, match=r"fps is .* above 0 and at most 240"):
        write_video(tmp_path / "clip.mp4", gradient(2), fps)
    with pytest.raises(InputError, match=r"fps is .* above 0 and at most 240"):
        check_output(tmp_path / "clip.mp4", fps=fps)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "no frames"),
        (np.empty((0, 8, 8, 3), np.uint8), "no frames"),
        ([Image.new("RGB", (8, 8)), Image.new("RGB", (8, 9))], r"Frame 1 is \(8, 9\) .* frame 0 is \(8, 8\)"),
        ([Image.new("RGB", (8, 8)), Image.new("RGBA", (8, 8))], "Frame 1 is an image of mode RGBA"),
        ([Image.new("YCbCr", (8, 8))], "Frame 0 is an image of mode YCbCr"),
        ([Image.new("RGB", (0, 8))], r"size \(0, 8\)"),
        (np.zeros((2, 8, 8, 3), np.float32), r"Frame 0 is an array of shape \(8, 8, 3\) and type float32"),
        (np.zeros((2, 8, 8, 4), np.uint8), r"shape \(8, 8, 4\)"),
        (np.zeros((1, 2, 8, 8, 3), np.uint8), r"shape \(2, 8, 8, 3\)"),
        (np.zeros((2, 0, 8, 3), np.uint8), r"shape \(0, 8, 3\)"),
        ([[Image.new("RGB", (8, 8))]], "Frame 0 is a list.*one video"),
    ],
)
def test_impossible_frames(path: Path, frames: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_video(path, frames)
    assert left(path.parent) == set()


@pytest.mark.parametrize(
    ("suffix", "shape", "fps"),
    [
        (".gif", (2, 1, 65536), 7),
        (".webp", (1, 1, 16384), 7),
        (".webp", (2, 1, 16384), 7),
        (".gif", (2, 2, 2), 1e-3),
    ],
)
def test_what_does_not_fit_the_format(tmp_path: Path, suffix: str, shape: tuple[int, int, int], fps: float) -> None:
    with pytest.raises(OutputError, match=rf"do not fit the {suffix} format"):
        write_video(tmp_path / f"clip{suffix}", np.zeros((*shape, 3), np.uint8), fps)
    assert left(tmp_path) == set()


@posix
@pytest.mark.parametrize("suffix", ENCODED)
@pytest.mark.parametrize(("says", "expected"), [("first\nthe reason\n\n", "the reason"), ("", "it gave no reason")])
def test_failing_ffmpeg_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, says: str, expected: str
) -> None:
    fake = tmp_path / "ffmpeg"
    fake.write_text(f"#!/bin/sh\nfor out; do :; done\necho partial > $out\nprintf '{says}' >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(fake))
    with pytest.raises(OutputError, match=rf"\{suffix} \(exit status 3\): {expected}$"):
        write_video(tmp_path / f"clip{suffix}", gradient(2))
    assert left(tmp_path) == {"ffmpeg"}


def test_ffmpeg_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(tmp_path / "missing"))
    with pytest.raises(OutputError, match="No such file"):
        write_video(tmp_path / "clip.mp4", gradient(2))
    assert left(tmp_path) == set()


def test_missing_ffmpeg_is_told_at_the_check(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", missing)
    if path.suffix in ENCODED:
        with pytest.raises(OutputError, match="IMAGEIO_FFMPEG_EXE"):
            check_output(path)
    else:
        assert check_output(path) == path


def test_import_is_light() -> None:
    code = "import sys, svdkit.video; sys.exit(any(name.startswith('imageio') for name in sys.modules))"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_suffixes() -> None:
    assert set(video.SUFFIXES) == {".mp4", ".webm", ".gif", ".webp", ""}

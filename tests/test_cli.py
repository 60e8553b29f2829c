"""The command line: what it makes, what it prints where, and how it fails."""

from __future__ import annotations

import importlib
import inspect
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import attrs
import imageio.v3 as iio
import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

import svdkit
from svdkit import cli, cli_demo, plugins
from svdkit.generation import generate
from svdkit.hookspecs import ComponentSpec, PluginSpec, hookimpl
from svdkit.output import StableVideoDiffusionPipelineOutput
from svdkit.pipeline import StableVideoDiffusionPipeline
from svdkit.sigmas import karras

GENERATE = importlib.import_module("svdkit.generation")
MAIN = [sys.executable, "-c", "from svdkit.cli import main; main()"]
SMALL = ["-m", "tiny-random", "-b", "numpy", "--height", "64", "--width", "64", "--num-frames", "3", "--steps", "2"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two pictures in it."""
    for i, name in enumerate(("a.png", "b.png")):
        coarse = np.random.default_rng(i).integers(0, 256, (5, 6, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((96, 80), Image.Resampling.BICUBIC).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "70")
    monkeypatch.delenv("SVDKIT_TRACEBACK", raising=False)
    return tmp_path


def run(*args: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(arg) for arg in args], prog_name="svdkit")


def made(*args: object) -> dict[str, Any]:
    """What a generation that succeeds prints as JSON."""
    result = run("generate", *SMALL, *args, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert isinstance(facts, dict)
    return facts


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def fails(status: int, *args: object) -> str:
    """The one paragraph that a failing command prints; it must leave every file as it was."""
    before = files()
    result = run(*args)
    assert files() == before
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    start = re.search(r"^(Error|Interrupted)", result.stderr, re.MULTILINE)
    assert start is not None, result.stderr
    paragraph = result.stderr[start.start() :]
    assert paragraph.endswith("\n")
    assert "\n\n" not in paragraph
    if not result.stderr.startswith("Usage:"):  # which click prints, and does not wrap
        assert all(len(line) <= 70 or " " not in line for line in paragraph.splitlines())
    return " ".join(paragraph.splitlines())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The options of each call of `svdkit.generate`, which makes nothing but black frames."""
    recorded = []

    def generate(image: Any, **options: Any) -> StableVideoDiffusionPipelineOutput:
        recorded.append({"image": image, **options})
        videos = len(image) * options["num_videos_per_prompt"]
        frames = [[Image.new("RGB", (16, 8))] * 2] * videos
        return StableVideoDiffusionPipelineOutput(frames, sigmas=(1.0, 0.0), seeds=tuple(range(videos)))

    monkeypatch.setattr(GENERATE, "generate", generate)
    return recorded


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def generate(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(GENERATE, "generate", generate)


def test_generate_writes_a_video_and_a_summary() -> None:
    result = run("generate", "a.png", "-o", "out.mp4", *SMALL, "--seed", 7, "--fps", 12)
    assert result.exit_code == 0, result.output
    assert iio.imread("out.mp4").shape == (3, 64, 64, 3)
    assert iio.immeta("out.mp4")["fps"] == 12
    video, steps, timings = result.stdout.splitlines()
    assert video == "out.mp4: 3 frames, 64x64, 12 fps, seed 7"
    assert steps == "2 steps of Euler() (2 evaluations) on numpy, cpu, float32"
    assert re.fullmatch(r"load .* s, encode .* s, denoise .* s, decode .* s, save .* s", timings)
    assert result.stderr.startswith("Loading tiny-random on numpy ...\n")
    for stage in ("encode", "denoise", "decode"):
        assert f"{stage}: 100%" in result.stderr


def test_json_is_all_that_stdout_holds() -> None:
    result = run("generate", "a.png", "-o", "out.gif", *SMALL, "--seed", 7, "--json")
    facts = json.loads(result.stdout)
    assert facts["paths"] == ["out.gif"]
    assert (facts["num_frames"], facts["height"], facts["width"], facts["fps"]) == (3, 64, 64, 7)
    assert facts["sigmas"] == pytest.approx([700, 0.002, 0])
    assert (facts["seeds"], facts["nfe"], facts["scheduler"]) == ([7], 2, "Euler()")
    assert (facts["backend"], facts["device"], facts["dtype"]) == ("numpy", "cpu", "float32")
    assert list(facts["timings"]) == ["load", "encode", "denoise", "decode", "save"]
    assert "denoise: 100%" in result.stderr


def test_quiet_prints_nothing() -> None:
    result = run("generate", "a.png", "-o", "out.gif", *SMALL, "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert Path("out.gif").is_file()


@pytest.mark.parametrize("quiet", [False, True])
def test_what_is_told_on_the_way_is_on_stderr(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(image: Any, **options: Any) -> StableVideoDiffusionPipelineOutput:
        logging.getLogger("svdkit.loops").info("compiling")
        return StableVideoDiffusionPipelineOutput([[Image.new("RGB", (8, 8))]])

    monkeypatch.setattr(GENERATE, "generate", generate)
    result = run("generate", "a.png", "-o", "out.gif", "--json", *["--quiet"] * quiet)
    assert ("compiling\n" in result.stderr) == (not quiet)
    assert "compiling" not in result.stdout


def test_quiet_leaves_json() -> None:
    result = run("generate", "a.png", "-o", "out.gif", *SMALL, "--quiet", "--json")
    assert json.loads(result.stdout)["paths"] == ["out.gif"]
    assert result.stderr == ""


@pytest.mark.parametrize(("seeds", "expected"), [([5], [5, 6, 7, 8]), ([9, 1, 7, 2], [9, 1, 7, 2])])
def test_two_videos_of_each_of_two_images(seeds: list[int], expected: list[int]) -> None:
    options = [arg for seed in seeds for arg in ("--seed", seed)]
    facts = made("a.png", "b.png", "-o", "out", "--num-videos", 2, *options)
    assert facts["paths"] == ["out_0", "out_1", "out_2", "out_3"]
    assert facts["seeds"] == expected
    alone = svdkit.StableVideoDiffusionPipeline.from_pretrained("tiny-random", backend="numpy")
    alone.set_progress_bar_config(disable=True)
    for path, image, seed in zip(facts["paths"], ("a.png", "a.png", "b.png", "b.png"), expected, strict=True):
        frames = alone(image, 64, 64, num_frames=3, num_inference_steps=2, generator=seed, output_type="np")[0]
        written = np.stack([iio.imread(Path(path, f"frame_000{i}.png")) for i in range(3)])
        assert np.abs(written - 255.0 * frames).max() < 1  # a batch rounds differently


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("700,54.5,.4", None),
        ("700, 54.5, 0.4, 0", None),
        ("levels.txt", "700\n54.5\n0.4\n"),
        ("levels.txt", "700, 54.5, 0.4, 0"),
        ("levels.json", "[700, 54.5, 0.4]"),
    ],
)
def test_sigmas_are_used_as_they_are(text: str, content: str | None) -> None:
    if content is not None:
        Path(text).write_text(content, encoding="utf-8")
    facts = made("a.png", "-o", "out.gif", "--sigmas", text)
    assert facts["sigmas"] == [700, 54.5, 0.4, 0]
    assert facts["nfe"] == 3


def test_sigmas_may_be_one_number() -> None:
    assert made("a.png", "-o", "out.gif", "--sigmas", "700")["sigmas"] == [700, 0]


def test_sigmas_may_be_a_schedule() -> None:
    facts = made("a.png", "-o", "out.gif", "--sigmas", "karras:rho=3", "--steps", 3)
    assert facts["sigmas"] == pytest.approx(karras(3, rho=3))


def test_latents_are_used() -> None:
    noise = np.random.default_rng(0).standard_normal((1, 3, 4, 8, 8), np.float32)
    np.save("noise.npy", noise)
    for name, seed in (("one", 1), ("two", 2)):
        options = ("--seed", seed, "--noise-aug-strength", 0, "--max-guidance-scale", 1)
        made("a.png", "-o", name, "--latents", "noise.npy", *options)
    first, second = (Path(name, "frame_0000.png").read_bytes() for name in ("one", "two"))
    assert first == second


def test_every_option_arrives(calls: list[dict[str, Any]]) -> None:
    np.save("noise.npy", np.ones(3))
    given = (
        "--model m --backend b --device d --dtype t --compile --seed 3 --height 8 --width 16 --num-frames 5 --fps 2.5 "
        "--motion-bucket-id 1.5 --num-videos-per-prompt 2 --num-inference-steps 4 --scheduler lms:order=3 --sigmas 2,1 "
        "--min-guidance-scale 1.25 --max-guidance-scale 2.25 --noise-aug-strength 0.5 --decode-chunk-size 6 --latents "
        "noise.npy --memory low --variant v --revision r --cache-dir c --local-files-only --component unet=u "
        "--component vae=default"
    )
    assert run("generate", "a.png", "b.png", "-o", "out.gif", *given.split()).exit_code == 0
    (call,) = calls
    assert [picture.size for picture in call.pop("image")] == [(96, 80), (96, 80)]
    assert call.pop("latents").tolist() == [1, 1, 1]
    assert call == {
        "model": "m",
        "backend": "b",
        "device": "d",
        "dtype": "t",
        "compile": True,
        "generator": 3,
        "height": 8,
        "width": 16,
        "num_frames": 5,
        "fps": 2.5,
        "motion_bucket_id": 1.5,
        "num_videos_per_prompt": 2,
        "num_inference_steps": 4,
        "scheduler": "lms:order=3",
        "sigmas": (2, 1, 0),
        "min_guidance_scale": 1.25,
        "max_guidance_scale": 2.25,
        "noise_aug_strength": 0.5,
        "decode_chunk_size": 6,
        "variant": "v",
        "memory": "low",
        "revision": "r",
        "cache_dir": Path("c"),
        "local_files_only": True,
        "components": {"unet": "u", "vae": "default"},
        "progress": True,
    }


def test_options_and_defaults_are_those_of_the_functions(calls: list[dict[str, Any]]) -> None:
    functions = (StableVideoDiffusionPipeline.__call__, generate)
    expected = {p.name: p.default for function in functions for p in inspect.signature(function).parameters.values()}
    # What cannot be written on a command line, must not be (a token), or has another form there.
    for name in (
        *("self", "image", "call", "progress", "generator", "seed", "components", "output_type", "token"),
        *("callback_on_step_end", "callback_on_step_end_tensor_inputs", "return_dict", "to_zero"),
    ):
        expected.pop(name)
    assert run("generate", "a.png", "-o", "out.gif").exit_code == 0
    (call,) = calls
    assert call.pop("image")
    assert call == expected | {"generator": None, "components": {}, "progress": True}


def test_help_shows_defaults() -> None:
    text = " ".join(run("generate", "--help").output.split())
    assert "[default: mindspore]" in text
    assert "[default: 25; x>=1]" in text
    assert text.count("[default: (the model's); x>=8]") == 2  # height and width


def test_python_runs_it_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "svdkit", "schedulers"], capture_output=True, text=True, check=True)
    assert "euler" in done.stdout


def test_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_demo, "CALL", cli_demo.CALL | {"num_inference_steps": 1, "max_guidance_scale": 1.0})
    result = run("demo", "--backend", "torch")
    assert result.exit_code == 0, result.output
    assert "boat, balls, windmill, photo; 8 frames of 96x96" in result.stdout
    sheet = iio.imread("svdkit-demo.png")
    assert sheet.shape == (4 * 192, 8 * 192, 3)
    video = iio.imread("svdkit-demo.mp4")
    assert video.shape == (8 * cli_demo.ROUNDS, 768, 768, 3)
    # The last picture of the last frame, in the two of them.
    shown = [Image.fromarray(part).resize((96, 96)) for part in (video[7, 384:, 384:], sheet[-192:, -192:])]
    assert np.corrcoef(*(np.asarray(part, float).ravel() for part in shown))[0, 1] > 0.95


def test_demo_needs_no_network_and_takes_what_ships(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def generate(images: Any, **options: Any) -> StableVideoDiffusionPipelineOutput:
        seen.update(options, images=images)
        return StableVideoDiffusionPipelineOutput([[Image.new("RGB", (96, 96))] * 8] * len(images))

    monkeypatch.setattr(GENERATE, "generate", generate)
    result = run("demo", "-o", "out.gif", "--json")
    assert json.loads(result.stdout)["paths"] == [str(Path(name).absolute()) for name in ("out.gif", "out.png")]
    assert iio.imread("out.gif").shape[1:] == (768, 768, 3)
    assert seen["backend"] == "mindspore"
    assert seen["model"] in svdkit.hub.shipped_models()
    assert [image.size for image in seen["images"]] == [(96, 96)] * 3 + [(360, 360)]


def test_demo_looks_first_where_its_pictures_go() -> None:
    Path("out.png").mkdir()
    result = run("demo", "-o", "out.gif")
    assert result.exit_code == 2
    assert "is a folder, and would be a picture" in result.stderr
    assert not Path("out.gif").exists()


@pytest.mark.parametrize(
    ("args", "phrases"),
    [
        (["none.png"], ["none.png", "does not exist"]),
        (["a.png", "text.txt"], ["text.txt", "image format"]),
        (["a.png", "--output", "out.avi"], [".avi", ".mp4"]),
        (["a.png", "--output", "none/out.mp4"], ["no folder", "none"]),
        (["a.png", "--output", "text.txt/out.mp4"], ["no folder"]),
        (["a.png", "--output", "full"], ["full is not empty"]),
        (["a.png", "b.png", "--output", "taken.gif"], ["taken_1.gif exists"]),
        (["a.png", "b.webp", "--output", "./b_0.webp", "--num-videos", "1"], None),
        (["b.webp", "--output", "./b.webp"], ["replace the image b.webp"]),
        (["a.png", "--height", "100"], ["height", "100", "96 or 104"]),
        (["a.png", "--width", "0"], ["--width", "x>=8"]),
        (["a.png", "--width", "wide"], ["--width", "'wide'"]),
        (["a.png", "--num-frames", "0"], ["--num-frames"]),
        (["a.png", "--steps", "0"], ["--steps"]),
        (["a.png", "--fps", "0"], ["--fps"]),
        (["a.png", "--seed", "-1"], ["--seed"]),
        (["a.png", "--seed", "1", "--seed", "2"], ["--seed is given 2 times", "expected one, or 1"]),
        (["a.png", "--sigmas", "1,2"], ["sigmas[1] is 2", "descend"]),
        (["a.png", "--sigmas", "2,x"], ["sigmas[1] is 'x'"]),
        (["a.png", "--sigmas", "karas"], ["no sigma schedule 'karas'", "Did you mean 'karras'"]),
        (["a.png", "--sigmas", "karras:rho=oh"], ["rho"]),
        (["a.png", "--sigmas", "none.txt"], ["none.txt", "cannot be read"]),
        (["a.png", "--sigmas", "text.txt"], ["text.txt[0] is 'no'"]),
        (["a.png", "--sigmas", "bad.json"], ["bad.json", "not JSON"]),
        (["a.png", "--sigmas", "object.json"], ["object.json", "holds a dict"]),
        (["a.png", "--latents", "none.npy"], ["none.npy", "No such file"]),
        (["a.png", "--latents", "text.txt"], ["text.txt", "numpy.save"]),
        (["a.png", "--latents", "objects.npy"], ["objects.npy", "allow_pickle=False"]),
        (["a.png", "--latents", "words.npy"], ["words.npy", "floats"]),
        (["a.png", "--latents", "several.npz"], ["several.npz", "floats"]),
        (["a.png", "--component", "unet"], ["'unet'", "PART=NAME"]),
        (["a.png", "--token", "secret"], ["No such option"]),
        ([], ["IMAGE"]),
    ],
)
def test_what_is_wrong_with_the_call_is_found_before_loading(args: list[str], phrases: list[str] | None) -> None:
    Path("text.txt").write_text("no numbers", encoding="utf-8")
    Path("bad.json").write_text("[1, ", encoding="utf-8")
    Path("object.json").write_text('{"a": 1}', encoding="utf-8")
    Path("full").mkdir()
    Path("full", "file").touch()
    Path("taken_1.gif").mkdir()
    Image.open("b.png").save("b.webp")
    np.save("objects.npy", np.array([{}], object))
    np.save("words.npy", np.array(["a"]))
    np.savez("several.npz", a=np.ones(2))
    if phrases is None:  # not wrong
        made(*args)
        return
    output = [] if "--output" in args else ["--output", "out.mp4"]
    text = fails(2, "generate", *SMALL, *args, *output)
    for phrase in phrases:
        assert phrase in text


def test_the_output_is_required() -> None:
    assert "'--output'" in fails(2, "generate", "a.png")


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="knows no other folder in which not even root can write")
def test_an_unwritable_output() -> None:
    assert "/proc/out.mp4 cannot be written" in fails(2, "generate", "a.png", "-o", "/proc/out.mp4", *SMALL)


def test_nothing_is_loaded_before_the_call_is_known_to_be_right(calls: list[dict[str, Any]]) -> None:
    for args in (["-o", "out.avi"], ["-o", "out.gif", "--sigmas", "1,2"], ["-o", "out.gif", "--width", "12"]):
        assert "Loading" not in run("generate", "a.png", *args).stderr
    assert calls == []


@pytest.mark.parametrize(
    ("status", "args", "phrases"),
    [
        (2, ["--backend", "mindspor"], ["no backend 'mindspor'", "Did you mean 'mindspore'", "numpy"]),
        (2, ["--scheduler", "eulr"], ["no scheduler 'eulr'", "Did you mean 'euler'"]),
        (2, ["--dtype", "float7"], ["float7", "float32"]),
        (2, ["--device", "abacus"], ["abacus", "cpu"]),
        (2, ["--component", "nose=x"], ["A component is 'nose=x'", "unet"]),
        (2, ["--component", "unet=x"], ["'x'", "default"]),
        (2, ["--model", "tiny-randm"], ["tiny-randm", "tiny-random"]),
        (2, ["--min-guidance-scale", "nan"], ["guidance"]),
        (2, ["--latents", "noise.npy"], ["latents have the shape (1, 2)", "(1, 3, 4, 8, 8)"]),
        (1, ["--model", "./empty"], ["model_index.json"]),
        (1, ["--model", "./none"], ["no folder none"]),
        (1, ["--max-guidance-scale", "1e38"], ["NaN or infinity"]),
    ],
)
def test_what_loading_and_generation_find_wrong(status: int, args: list[str], phrases: list[str]) -> None:
    Path("empty").mkdir()
    np.save("noise.npy", np.ones((1, 2)))
    Path("out.gif").write_text("was here before", encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of the overflow
        text = fails(status, "generate", "a.png", "-o", "out.gif", *SMALL, *args)
    for phrase in phrases:
        assert phrase in text


def test_errors_that_nobody_foresaw(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, RuntimeError("what\n\n  ever" + " and so on" * 999))
    text = fails(1, "generate", "a.png", "-o", "out.gif")
    assert text.startswith("Error: RuntimeError: what ever and so on and")
    assert "--traceback" in text
    assert len(text) < 1000


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, MemoryError())
    assert "--decode-chunk-size 1" in fails(1, "generate", "a.png", "-o", "out.gif")


@pytest.mark.parametrize("error", [RuntimeError("unforeseen"), svdkit.errors.CheckpointError("foreseen")])
def test_a_traceback_is_shown_if_asked_for(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    raising(monkeypatch, error)
    result = run("generate", "a.png", "-o", "out.gif", "--traceback")
    assert result.exit_code == 1
    assert "Traceback (most recent call last)" in result.stderr
    assert "\nError: " in result.stderr
    monkeypatch.setenv("SVDKIT_TRACEBACK", "1")
    assert "Traceback" in run("demo").stderr


def test_warnings_take_one_line(monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, Any]]) -> None:
    def warn(*_: Any) -> list[Any]:
        warnings.warn("two\n  lines", UserWarning, stacklevel=1)
        return [Image.new("RGB", (8, 8))]

    monkeypatch.setattr(importlib.import_module("svdkit.preprocess"), "load_images", warn)
    monkeypatch.setattr(sys, "warnoptions", ["default"])
    result = run("generate", "a.png", "-o", "out.gif")
    assert result.exit_code == 0
    assert result.stderr.splitlines()[0] == "Warning: two lines"


def interrupted_import() -> ImportError:
    error = ImportError("initialization failed")
    error.__cause__ = KeyboardInterrupt()
    return error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), interrupted_import()])
def test_interruptions(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    raising(monkeypatch, error)
    assert fails(130, "generate", "a.png", "-o", "out.gif") == "Interrupted; nothing was written."


def test_python_does_not_tidy_up_after_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    raising(monkeypatch, KeyboardInterrupt())  # in the import of a framework, after which that would crash
    monkeypatch.setattr(sys, "argv", ["svdkit", "generate", "a.png", "-o", "out.gif"])
    statuses: list[int] = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    with pytest.raises(SystemExit):
        cli.main()
    assert statuses == [130]


def test_an_interruption_while_videos_are_saved(monkeypatch: pytest.MonkeyPatch, calls: list[dict[str, Any]]) -> None:
    def save(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StableVideoDiffusionPipelineOutput, "save", save)
    text = fails(130, "generate", "a.png", "-o", "out.gif")
    assert text == "Interrupted; each video is either complete or not there."


def test_ctrl_c(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "scratch").mkdir()
    # Whatever runs the tests may have told its children to ignore the signal.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from svdkit.cli import main; main()"
    )
    args = ["generate", "a.png", "-o", "out/video.mp4", *SMALL[:-1], "100000"]
    env = os.environ | {"TMPDIR": str(folder / "scratch")}
    command = [sys.executable, "-c", code, *args]
    with Path("progress").open("wb") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, env=env)
    try:
        while b"denoise" not in Path("progress").read_bytes():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        stdout, _ = process.communicate()
    finally:
        process.kill()
    progress = Path("progress").read_text(encoding="utf-8")
    assert process.returncode == 130
    assert stdout == b""
    assert progress.endswith("\nInterrupted; nothing was written.\n")
    assert "Traceback" not in progress
    assert list((folder / "out").iterdir()) == []
    assert list((folder / "scratch").iterdir()) == []


def test_a_reader_that_leaves() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*MAIN, "backends"], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    ("args", "status"),
    [
        (["--version"], 0),
        (["generate", "none.png", "-o", "out.mp4"], 2),
        (["generate", "a.png", "-o", "out.mp4", "-b", "numpy", "-m", "./none"], 1),
        (["generate"], 2),
    ],
)
def test_exit_statuses(args: list[str], status: int) -> None:
    done = subprocess.run([*MAIN, *args], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "Traceback" not in done.stderr
    assert ("Error: " in done.stderr) == (status > 0)


def test_version() -> None:
    assert run("--version").output == f"svdkit {svdkit.__version__}\n"


@pytest.mark.parametrize(
    ("args", "absent"),
    [
        ("--help", "numpy PIL attrs pluggy tqdm huggingface_hub scipy mindspore torch svdkit.pipeline"),
        ("--version", "numpy PIL attrs pluggy tqdm huggingface_hub scipy mindspore torch svdkit.pipeline"),
        ("generate --help", "numpy PIL attrs pluggy tqdm huggingface_hub scipy mindspore torch svdkit.pipeline"),
        ("backends", "numpy PIL tqdm huggingface_hub scipy mindspore torch svdkit.pipeline"),
        ("schedulers --json", "numpy PIL tqdm huggingface_hub scipy mindspore torch svdkit.pipeline"),
        ("sigma-schedules", "numpy PIL tqdm huggingface_hub scipy mindspore torch svdkit.pipeline"),
    ],
)
def test_what_only_tells_imports_little(args: str, absent: str) -> None:
    code = (
        "import atexit, sys; atexit.register(lambda: sys.stderr.write(' '.join(sys.modules)));"
        "from svdkit.cli import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *args.split()], capture_output=True, text=True, check=True)
    modules = set(done.stderr.split())
    assert "svdkit.cli" in modules
    assert modules.isdisjoint(absent.split())


def test_an_empty_listing() -> None:
    assert run("components").stdout == "none\n"
    assert json.loads(run("components", "--json").stdout) == []


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("backends", plugins.list_backends),
        ("schedulers", plugins.list_schedulers),
        ("sigma-schedules", plugins.list_sigma_schedules),
    ],
)
def test_listings(command: str, expected: Any) -> None:
    infos = expected()
    assert infos
    listed = json.loads(run(command, "--json").stdout)
    assert [plugins.PluginInfo(**info) for info in listed] == infos
    lines = run(command).stdout.splitlines()
    for info in infos:
        (line,) = (line for line in lines if line.split()[0] == info.name)
        assert info.summary in line
        assert info.origin in line
        assert ("not available" in line) != info.available


class Needy:
    """A plugin whose framework nobody has."""

    @hookimpl
    def svdkit_backends(self) -> list[PluginSpec]:
        return [
            PluginSpec(
                name="abacus",
                target="abacus:Backend",
                summary="beads on rods",
                requires=("no_such_module",),
                install="pip install abacus",
            )
        ]

    @hookimpl
    def svdkit_components(self) -> list[ComponentSpec]:
        (backend,) = self.svdkit_backends()
        return [ComponentSpec(**attrs.asdict(backend), component="vae", backend="numpy")]


class Sick:
    """A plugin that fails."""

    @hookimpl
    def svdkit_backends(self) -> list[PluginSpec]:
        raise RuntimeError("first line\nsecond line")


@pytest.fixture
def strangers(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = plugins.Registry()
    registry.manager.register(Needy(), "needy (needy-svdkit)")
    registry.manager.register(Sick(), "sick (sick-svdkit)")
    monkeypatch.setattr(plugins, "registry", lambda: registry)


@pytest.mark.usefixtures("strangers")
@pytest.mark.filterwarnings("always::svdkit.errors.PluginWarning")
def test_a_listing_tells_what_is_missing_and_what_is_broken() -> None:
    result = run("backends")
    assert result.exit_code == 0
    (warning,) = result.stderr.splitlines()
    assert warning.startswith("Warning: The plugin sick (sick-svdkit) is broken")
    assert warning.endswith("RuntimeError: first line second line")
    first, second, *others = result.stdout.splitlines()
    assert first == "abacus     not available  beads on rods [needy (needy-svdkit)]"
    assert second == "           no_such_module is not installed; install it with: pip install abacus"
    assert [line.split()[:2] for line in others] == [[name, "available"] for name in ("mindspore", "numpy", "torch")]
    components = run("components").stdout
    assert components == "abacus  not available  vae of numpy: beads on rods [needy (needy-svdkit)]\n" + (
        "        no_such_module is not installed; install it with: pip install abacus\n"
    )


@pytest.mark.usefixtures("strangers")
@pytest.mark.filterwarnings("ignore::svdkit.errors.PluginWarning")
def test_a_backend_that_is_not_installed() -> None:
    text = fails(1, "generate", "a.png", "-o", "out.gif", *SMALL, "-b", "abacus")
    assert "needs no_such_module" in text
    assert "pip install abacus" in text


@pytest.mark.parametrize(("given", "expected"), [(None, "3"), ("1", "1")])
def test_the_framework_is_told_to_be_quiet(monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str) -> None:
    monkeypatch.setenv("GLOG_v", given or "")
    if given is None:
        monkeypatch.delenv("GLOG_v")
    monkeypatch.setattr(sys, "argv", ["svdkit", "--version"])
    with pytest.raises(SystemExit):
        cli.main()
    assert os.environ["GLOG_v"] == expected  # noqa: SIM112 (it is spelled so)


def test_sigmas_stand_beside_each_other(tmp_path: Path) -> None:
    printed = run(*["sigmas", "ays", "700,50,2", "--steps", "10"])
    rows = [line.split() for line in printed.stdout.splitlines()]
    assert rows[0] == ["ays", "700,50,2"]
    assert rows[1] == ["700", "700"]
    assert rows[2] == ["54.5", "50"]
    assert [row[0] for row in rows[-2:]] == ["0.034", "0"]
    assert len(rows) == 12

    as_json = json.loads(run(*["sigmas", "karras:rho=5", "--steps", "4", "--json"]).stdout)
    assert as_json == {"karras:rho=5": list(svdkit.sigma_schedule("karras", 4, rho=5))}

    drawn = run(*["sigmas", "karras", "ays", "--plot", str(tmp_path / "sigmas.png")])
    assert drawn.exit_code == 0
    with Image.open(tmp_path / "sigmas.png") as picture:
        assert picture.width > 500
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["karas"], "'karras'"),
        (["karras:roh=5"], "roh"),
        (["1,2"], "sigmas[1] is 2"),
        (["karras", "--plot", "sigmas.mp4"], ".png"),
    ],
)
def test_sigmas_that_cannot_be_printed(arguments: list[str], words: str) -> None:
    result = run("sigmas", *arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stdout == ""

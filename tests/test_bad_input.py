"""Bad input: a typed error that says what arrived and what was expected; nothing computed, nothing written."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import define, field, frozen
from PIL import Image
from reference import picture

import svdkit
from svdkit import errors
from svdkit.output import StableVideoDiffusionPipelineOutput
from svdkit.pipeline import StableVideoDiffusionPipeline
from svdkit.weights import STEMS, Weights, write_weights

SMALL = {"height": 64, "width": 64, "num_frames": 3, "num_inference_steps": 4, "generator": 7}
NAN, INFINITY = float("nan"), float("inf")


class Counting:
    """A component that counts how often it computes."""

    def __init__(self, component: Any) -> None:
        self.component = component
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        if name in ("encode", "decode", "prepare"):
            self.calls += 1
        return getattr(self.component, name)

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        return self.component(*args)


@define
class Bench:
    """What a case of bad input is made of: a pipeline, an empty folder, a checkpoint to spoil."""

    pipe: StableVideoDiffusionPipeline
    folder: Path
    patch: pytest.MonkeyPatch
    before: dict[Path, bytes | None] = field(factory=dict)

    def call(self, image: Any = None, **options: Any) -> Any:
        self.remember()
        return self.pipe(picture() if image is None else image, **{**SMALL, **options})

    def load(self, model: Any = "tiny-random", **options: Any) -> Any:
        self.remember()
        return StableVideoDiffusionPipeline.from_pretrained(model, **{"backend": "numpy", **options})

    def save(self, path: str, videos: int = 1, **options: Any) -> Any:
        """Save videos of two frames that are already there."""
        result = StableVideoDiffusionPipelineOutput([[picture(i) for i in range(2)]] * videos, **options)
        self.remember()
        return result.save(path)

    def checkpoint(self) -> Path:
        return Path(shutil.copytree(Path(svdkit.__file__).parent / "models" / "tiny-random", self.folder / "model"))

    def rewrite(self, change: Callable[[dict[str, np.ndarray]], object], component: str = "unet") -> Path:
        """A checkpoint with some of a component's tensors changed."""
        folder = self.checkpoint()
        with Weights.open(folder / component, STEMS[component]) as weights:
            tensors = {key: weights.read(key) for key in weights.keys()}
        change(tensors)
        write_weights(folder / component / f"{STEMS[component]}.safetensors", tensors)
        return folder

    def file(self, name: str, content: bytes) -> Path:
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def tree(self) -> dict[Path, bytes | None]:
        """Everything in the folder, which is also the working directory."""
        return {p: p.read_bytes() if p.is_file() else None for p in self.folder.rglob("*")}

    def remember(self) -> None:
        self.before = self.tree()


@pytest.fixture(scope="module")
def loaded() -> StableVideoDiffusionPipeline:
    return StableVideoDiffusionPipeline.from_pretrained("tiny-random", backend="numpy")


@pytest.fixture
def bench(loaded: StableVideoDiffusionPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    components = loaded.components
    counted = {name: Counting(components.pop(name)) for name in ("vae", "image_encoder", "unet")}
    pipe = StableVideoDiffusionPipeline(**counted, **components)
    pipe.set_progress_bar_config(disable=True)
    monkeypatch.chdir(tmp_path)
    return Bench(pipe, tmp_path, monkeypatch)


@frozen
class Case:
    """One line of bad input."""

    words: str
    error: type[Exception]
    says: tuple[str, ...]
    """What the message contains: what arrived, what was expected, what to do."""
    provoke: Callable[[Bench], object]
    steps: int = 0
    """How often the UNet is called all the same."""


def bomb(bench: Bench) -> Any:
    Image.new("L", (200, 200)).save(bench.folder / "bomb.png")
    bench.patch.setattr(Image, "MAX_IMAGE_PIXELS", 15_000)  # Pillow refuses what is larger than twice that
    return bench.call("bomb.png")


def not_installed(bench: Bench) -> Any:
    find = importlib.util.find_spec
    bench.patch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "mindspore" else find(name))
    return bench.load(backend="mindspore")


def another_pipeline(bench: Bench) -> Any:
    folder = bench.checkpoint()
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return bench.load(folder)


def misshaped(tensors: dict[str, np.ndarray]) -> None:
    tensors["conv_in.bias"] = np.zeros(31, np.float32)


def all_wrong(tensors: dict[str, np.ndarray]) -> None:
    misshaped(tensors)
    tensors["conv_in.extra"] = tensors.pop("conv_in.weight")


def truncated(bench: Bench, component: str, keep: float) -> Any:
    folder = bench.checkpoint()
    path = folder / component / f"{STEMS[component]}.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    return bench.load(folder)


def wrong_json(bench: Bench) -> Any:
    folder = bench.checkpoint()
    (folder / "unet" / "config.json").write_text('{"in_channels": 8,')
    return bench.load(folder)


def pickled(bench: Bench) -> Any:
    folder = bench.checkpoint()
    path = folder / "unet" / f"{STEMS['unet']}.safetensors"
    path.rename(path.with_suffix(".bin"))
    return bench.load(folder)


def taken(bench: Bench) -> Any:
    (bench.folder / "clip.mp4").mkdir()
    return bench.save("clip.mp4")


def second_taken(bench: Bench) -> Any:
    (bench.folder / "clip_1.gif").mkdir()
    return bench.save("clip.gif", videos=2)


def not_empty(bench: Bench) -> Any:
    (bench.folder / "frames").mkdir()
    bench.file("frames/mine.txt", b"mine")
    return bench.save("frames")


def nan_at_step_2(bench: Bench) -> Any:
    unet = bench.pipe.unet.component
    bench.pipe.unet.component = Failing(unet)
    return bench.call(output_type="np")


class Failing:
    """A UNet whose second output has one NaN."""

    def __init__(self, unet: Any) -> None:
        self.config, self.backend, self.prepare, self.unet = unet.config, unet.backend, unet.prepare, unet
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        output = self.unet(*args)
        if self.calls == 2:
            output[-1, -1, -1, -1, -1] = NAN
        return output


def latents(*shape: int, value: float = 0.5) -> np.ndarray:
    array = np.full(shape or (1, 3, 4, 8, 8), 0.5, np.float32)
    array[-1, -1, -1, -1, -1] = value
    return array


POSITIVE = "expected a positive number; only the last may be 0"
SHAPE = ("expected an array (1, 3, 4, 8, 8)", "videos, frames, channels, height / 8, width / 8")
NUMBER = "expected a finite number; 1.0 and 3.0 are usual"
LEAST_1 = "expected a whole number of at least 1"

CASES = [
    # The image
    Case("no such file", errors.ImageError, ("'no.jpg' does not exist", "Check"), lambda b: b.call("no.jpg")),
    Case(
        "a text file named .png",
        errors.ImageError,
        ("text.png' is not in an image format that Pillow can read", "PNG or JPEG"),
        lambda b: b.call(b.file("text.png", b"a photo of a cat")),
    ),
    Case(
        "a zero-byte image",
        errors.ImageError,
        ("empty.png' is empty (0 bytes)", "again"),
        lambda b: b.call(b.file("empty.png", b"")),
    ),
    Case("a decompression bomb", errors.ImageError, ("'bomb.png' has too many pixels", "40000", "30000"), bomb),
    Case("an empty list of images", errors.ImageError, ("empty list", "at least one image"), lambda b: b.call([])),
    Case(
        "an image with NaN",
        errors.ImageError,
        ("(1, 3, 8, 8)", "NaN or infinity"),
        lambda b: b.call(np.full((1, 3, 8, 8), NAN, np.float32)),
    ),
    Case("no image", errors.ImageError, ("type int, which is not an image", "Pass a PIL image"), lambda b: b.call(3)),
    # Sizes and counts
    *(
        Case(f"{name} {value}", errors.InputError, (f"`{name}` is {value}", "multiple of 8", nearest), provoke)
        for value, nearest in ((0, "use 8"), (-8, "use 8"), (100, "use 96 or 104"))
        for name, provoke in (
            ("height", lambda b, value=value: b.call(height=value)),
            ("width", lambda b, value=value: b.call(width=value)),
        )
    ),
    Case(
        "height 64.0", errors.InputError, ("`height` is 64.0", "whole number of pixels"), lambda b: b.call(height=64.0)
    ),
    Case("steps 0", errors.InputError, ("num_inference_steps is 0", "25"), lambda b: b.call(num_inference_steps=0)),
    Case("steps -1", errors.InputError, ("num_inference_steps is -1",), lambda b: b.call(num_inference_steps=-1)),
    Case("steps 2.5", errors.InputError, ("num_inference_steps is 2.5",), lambda b: b.call(num_inference_steps=2.5)),
    *(
        Case(
            f"{name} {value}",
            errors.InputError,
            (f"{name} is {value}", LEAST_1),
            lambda b, name=name, value=value: b.call(**{name: value}),
        )
        for name in ("num_frames", "num_videos_per_prompt", "decode_chunk_size")
        for value in (0, -2, 1.5, True)
    ),
    *(
        Case(
            f"{name} {value}",
            errors.InputError,
            (f"{name} is {value!r}", f"expected a finite number of at least {least}"),
            lambda b, name=name, value=value: b.call(**{name: value}),
        )
        for name, least in (("fps", 1), ("motion_bucket_id", 0), ("noise_aug_strength", 0))
        for value in (-1, NAN, INFINITY, "7", None)
    ),
    # Noise levels and guidance
    Case("NaN sigmas", errors.SigmasError, ("sigmas[1] is nan", "finite"), lambda b: b.call(sigmas=[9.0, NAN, 1.0])),
    Case("infinite sigmas", errors.SigmasError, ("sigmas[0] is inf", "finite"), lambda b: b.call(sigmas=[INFINITY, 1])),
    Case("negative sigmas", errors.SigmasError, ("sigmas[2] is -3", POSITIVE), lambda b: b.call(sigmas=[9, 1, -3])),
    Case("a zero among sigmas", errors.SigmasError, ("sigmas[1] is 0", POSITIVE), lambda b: b.call(sigmas=[9, 0, 1])),
    Case(
        "non-descending sigmas",
        errors.SigmasError,
        ("sigmas[2] is 5.5, which is not below sigmas[1] = 4", "descend"),
        lambda b: b.call(sigmas=np.array([9, 4, 5.5, 1])),
    ),
    Case(
        "equal sigmas",
        errors.SigmasError,
        ("sigmas[1] is 4, which is not below sigmas[0] = 4",),
        lambda b: b.call(sigmas=(4, 4)),
    ),
    Case("no sigmas", errors.SigmasError, ("empty", "at least one"), lambda b: b.call(sigmas=[])),
    Case(
        "sigmas that are no numbers", errors.SigmasError, ("sigmas[0] is 'a'", "number"), lambda b: b.call(sigmas=["a"])
    ),
    Case("sigmas that are a number", errors.SigmasError, ("sigmas is 7", "list"), lambda b: b.call(sigmas=7)),
    Case(
        "an unknown sigma schedule",
        errors.UnknownPluginError,
        ("no sigma schedule 'karas'", "Did you mean 'karras'"),
        lambda b: b.call(sigmas="karas"),
    ),
    *(
        Case(
            f"guidance {name} {value}",
            errors.InputError,
            (f"{name} is {value!r}", NUMBER),
            lambda b, name=name, value=value: b.call(**{name: value}),
        )
        for name in ("min_guidance_scale", "max_guidance_scale")
        for value in (NAN, INFINITY, "3", None)
    ),
    # Names
    Case(
        "unknown scheduler",
        errors.UnknownPluginError,
        ("no scheduler 'eular'", "Did you mean", "'euler'", "Known: "),
        lambda b: b.load(scheduler="eular"),
    ),
    Case(
        "unknown backend",
        errors.UnknownPluginError,
        ("no backend 'mindspor'", "Did you mean 'mindspore'?", "numpy"),
        lambda b: b.load(backend="mindspor"),
    ),
    Case(
        "a backend whose framework is not installed",
        errors.MissingDependencyError,
        ("'mindspore' needs mindspore", "Install it with: pip install 'svdkit[mindspore]'"),
        not_installed,
    ),
    Case("unknown device", errors.InputError, ("no device 'cuda'", "it has cpu"), lambda b: b.load(device="cuda")),
    Case(
        "unknown dtype",
        errors.InputError,
        ("does not compute in 'int8'", "choose one of float32, float64"),
        lambda b: b.load(dtype="int8"),
    ),
    Case(
        "unknown output type",
        errors.InputError,
        ("output_type is 'mp4'", "expected pil, np, tensor or latent"),
        lambda b: b.call(output_type="mp4"),
    ),
    Case(
        "an output type that is no name",
        errors.InputError,
        ("output_type is ['pil']", "expected pil, np, tensor or latent"),
        lambda b: b.call(output_type=["pil"]),
    ),
    # Noise
    Case(
        "latents of the wrong shape",
        errors.InputError,
        ("latents have the shape (1, 4, 3, 8, 8)", *SHAPE),
        lambda b: b.call(latents=latents(1, 4, 3, 8, 8)),
    ),
    Case(
        "latents of too few videos",
        errors.InputError,
        ("latents have the shape (1, 3, 4, 8, 8)", "expected an array (2, 3, 4, 8, 8)"),
        lambda b: b.call(latents=latents(), num_videos_per_prompt=2),
    ),
    Case(
        "latents with NaN",
        errors.InputError,
        ("NaN or infinity", "noise"),
        lambda b: b.call(latents=latents(value=NAN)),
    ),
    Case(
        "latents with infinity",
        errors.InputError,
        ("NaN or infinity", "noise"),
        lambda b: b.call(latents=latents(value=-INFINITY)),
    ),
    Case("latents in a list", errors.InputError, ("latents are a list", *SHAPE), lambda b: b.call(latents=[[0.5]])),
    Case(
        "latents that are no numbers",
        errors.InputError,
        ("latents are of type object", "expected real numbers"),
        lambda b: b.call(latents=latents().astype(object)),
    ),
    Case(
        "complex latents",
        errors.InputError,
        ("latents are of type complex64", "expected real numbers"),
        lambda b: b.call(latents=latents().astype(np.complex64)),
    ),
    Case(
        "a generator list of the wrong length",
        errors.InputError,
        ("generator is a list of 3", "expected 4"),
        lambda b: b.call([picture(), picture()], num_videos_per_prompt=2, generator=[1, 2, 3]),
    ),
    Case("an empty generator list", errors.InputError, ("list of 0", "expected 1"), lambda b: b.call(generator=[])),
    Case("a negative seed", errors.InputError, ("The seed is -1", "not negative"), lambda b: b.call(generator=-1)),
    Case(
        "a generator of another kind",
        errors.InputError,
        ("generator is a str", "expected an int seed, a numpy.random.Generator or a list"),
        lambda b: b.call(generator="seven"),
    ),
    # Checkpoints
    Case(
        "a checkpoint of another pipeline",
        errors.CheckpointError,
        ("checkpoint of StableDiffusionPipeline", "expected one of StableVideoDiffusionPipeline"),
        another_pipeline,
    ),
    Case(
        "a checkpoint with one tensor missing",
        errors.WeightsError,
        ("unet do not fit", "1 missing: conv_in.bias."),
        lambda b: b.load(b.rewrite(lambda t: t.pop("conv_in.bias"))),
    ),
    Case(
        "a checkpoint with one tensor extra",
        errors.WeightsError,
        ("vae do not fit", "1 unexpected: post_quant_conv.bias."),
        lambda b: b.load(b.rewrite(lambda t: t.update({"post_quant_conv.bias": np.zeros(4)}), "vae")),
    ),
    Case(
        "a checkpoint with one tensor of the wrong shape",
        errors.WeightsError,
        ("unet do not fit", "1 of the wrong shape: conv_in.bias (31,) instead of (32,)."),
        lambda b: b.load(b.rewrite(misshaped)),
    ),
    Case(
        "a checkpoint with all three",
        errors.WeightsError,
        ("1 missing: conv_in.weight", "1 of the wrong shape: conv_in.bias", "1 unexpected: conv_in.extra"),
        lambda b: b.load(b.rewrite(all_wrong)),
    ),
    *(
        Case(
            f"a truncated safetensors file of {component} at {keep}",
            errors.CheckpointError,
            (f"{STEMS[component]}.safetensors", says, "download it again"),
            lambda b, component=component, keep=keep: truncated(b, component, keep),
        )
        for component in STEMS
        for keep, says in ((0.9, "cut short or corrupt"), (0.01, "cut short or corrupt"), (0, "it is empty"))
    ),
    Case("wrong JSON", errors.CheckpointError, ("config.json is not readable as JSON", "again"), wrong_json),
    Case(
        "a pickle where safetensors was expected",
        errors.CheckpointError,
        ("only diffusion_pytorch_model.bin", "svdkit never unpickles", "safe_serialization=True"),
        pickled,
    ),
    Case(
        "no such folder",
        errors.CheckpointError,
        ("There is no folder nowhere/at/all",),
        lambda b: b.load("nowhere/at/all"),
    ),
    Case(
        "an empty folder", errors.CheckpointError, ("no model_index.json", "nothing at all"), lambda b: b.load(b.folder)
    ),
    Case(
        "an unknown model",
        errors.InputError,
        ("'tiny-randm' is no folder here", "shipped are tiny-random"),
        lambda b: b.load("tiny-randm"),
    ),
    # Where the video goes
    Case(
        "an output path in a folder that does not exist",
        errors.OutputError,
        ("nowhere/clip.mp4: there is no folder", "Create it or choose another"),
        lambda b: b.save("nowhere/clip.mp4"),
    ),
    Case("an output path that is a folder", errors.OutputError, ("clip.mp4 exists and is not a file",), taken),
    Case("the second of two output paths", errors.OutputError, ("clip_1.gif exists and is not a file",), second_taken),
    Case(
        "an output folder that is not empty", errors.OutputError, ("frames is not empty", "choose another"), not_empty
    ),
    Case(
        "an unknown suffix",
        errors.OutputError,
        (".avi files cannot be written", ".mp4, .webm, .gif, .webp"),
        lambda b: b.save("clip.avi"),
    ),
    Case("no output path", errors.OutputError, ("'.' does not name a file",), lambda b: b.save("")),
    Case(
        "a rate that no format has",
        errors.InputError,
        ("fps is 1000", "at most 240"),
        lambda b: b.save("clip.mp4", fps=1000),
    ),
    # While it runs
    Case(
        "NaN appearing during denoising",
        errors.NumericalError,
        ("NaN or infinity appeared in step 2 of 4, from sigma 70.5", "to 2.26912", "in float32"),
        nan_at_step_2,
        steps=2,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_bad_input(case: Case, bench: Bench, recwarn: pytest.WarningsRecorder) -> None:
    spies = [bench.pipe.unet, bench.pipe.vae, bench.pipe.image_encoder]
    with pytest.raises(errors.SvdkitError) as caught:
        case.provoke(bench)
    assert type(caught.value) is case.error
    message = str(caught.value)
    for part in case.says:
        assert part in message
    assert "\n" not in message, "one paragraph"
    assert bench.tree() == bench.before, "nothing is written"
    if case.steps == 0:
        assert [spy.calls for spy in spies] == [0, 0, 0], "nothing is computed"
    else:
        assert spies[0].component.calls == case.steps
    assert not recwarn.list


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that not even root can write to")
@pytest.mark.parametrize("path", ["/proc/clip.mp4", "/proc/clip"])
def test_an_output_path_that_cannot_be_written(bench: Bench, path: str) -> None:
    with pytest.raises(errors.OutputError, match=f"{path} cannot be written"):
        bench.save(path)


def test_good_input_is_computed(bench: Bench) -> None:
    """The call that the cases spoil is a good one, and the spies see it."""
    spies = [bench.pipe.unet, bench.pipe.vae, bench.pipe.image_encoder]
    assert bench.call(output_type="np").shape == (1, 3, 64, 64, 3)
    assert all(spy.calls > 0 for spy in spies)
    assert bench.load()
    assert bench.save("clip.gif") == [Path("clip.gif")]


def test_errors_are_what_they_also_are_in_python() -> None:
    """Code that catches Python's own kinds of error catches these too."""
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.MissingDependencyError, ImportError)
    assert issubclass(errors.NumericalError, ArithmeticError)
    assert issubclass(errors.WeightsError, errors.CheckpointError)

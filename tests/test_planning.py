"""Plans: against measured peaks, and as text, JSON and exit status."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from memory_peaks import write
from safetensors.numpy import load_file, save_file

from svdkit.backend import Backend, Call, itemsize
from svdkit.cli import cli
from svdkit.errors import InputError
from svdkit.memory import Memory
from svdkit.memory.meter import Meter
from svdkit.memory.planning import plan
from svdkit.plugins import make

SMALL: dict[str, Any] = {"height": 64, "width": 64, "num_frames": 4, "backend": "numpy"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("checkpoint"))


def ratio(folder: Path, backend: str, *size: int) -> float:
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "GLOG_v": "3"}
    command = [sys.executable, Path(__file__).parent / "memory_peaks.py", backend, *map(str, size), folder]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=500).stdout
    found = json.loads(out.splitlines()[-1])
    return float(found["planned"] / found["measured"])


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's record of resident memory is Linux's")
@pytest.mark.parametrize(
    ("backend", "size"), [("numpy", (128, 192, 4)), ("torch", (192, 256, 4)), ("mindspore", (256, 256, 5))]
)
def test_a_plan_is_within_15_percent_of_the_measured_peak(folder: Path, backend: str, size: tuple[int, ...]) -> None:
    """Measured: 1.00 (NumPy, torch), 1.01 (MindSpore); see docs/memory.md."""
    pytest.importorskip(backend)
    assert ratio(folder, backend, *size) == pytest.approx(1, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["numpy", "torch", "mindspore"])
def test_a_larger_plan_too(folder: Path, backend: str) -> None:
    assert ratio(folder, backend, 320, 320, 5) == pytest.approx(1, abs=0.15)


def planned(k: Backend, kernel: str, shape: tuple[int, ...], weight: tuple[int, ...], **options: int) -> int:
    """Bytes that a call of one argument, as large as its result, needs beside these."""
    return sum(k.scratch(Call(kernel, (shape,), ("linear",), shape, weight, options, itemsize(k.dtype))))


@pytest.mark.parametrize("backend", ["mindspore", "torch"])
def test_a_convolution_that_sees_one_position_is_planned_as_a_product(backend: str) -> None:
    pytest.importorskip(backend)
    k: Backend = make("backend", backend, None, "cpu", "float32")
    product = planned(k, "linear", (2, 1024, 320), (320, 320))
    assert product > 0
    assert planned(k, "conv2d", (2, 320, 32, 32), (320, 320, 1, 1), stride=1, padding=0) == product
    assert planned(k, "temporal_conv", (2, 320, 32, 32), (320, 320, 3, 1, 1), frames=1) == product
    assert planned(k, "temporal_conv", (2, 320, 32, 32), (320, 320, 3, 1, 1), frames=2) != product


def test_a_device_may_be_a_frameworks_own_object() -> None:
    torch = pytest.importorskip("torch")
    assert plan("tiny-random", **{**SMALL, "backend": "torch", "device": torch.device("cpu")}).device == "cpu"


def test_gated_layers_in_bfloat16_are_planned_as_they_are_multiplied() -> None:
    pytest.importorskip("torch")
    from svdkit_loops import direct, numbers, threads

    if not numbers.HAS_PAIRS:
        pytest.skip("this processor multiplies no bfloat16")
    rooms = direct.way(8192, 160, 1280, gated=True, halves=True).rooms
    k: Backend = make("backend", "torch", None, "cpu", "bfloat16")
    call = Call("geglu", ((1, 8192, 320),), ("linear",), (1, 8192, 1280), (2560, 320), {}, 2)
    assert sum(k.scratch(call)) == 4 * len(threads.allowed_processors()) * sum(rooms.values())
    tokens = (1, 4096, 64)
    call = Call("attention", (tokens,) * 3, ("linear",) * 3, tokens, (), {"heads": 1}, 2)
    # Of each key 64 channels in 32 pairs, twice, 32 scores, and 16 pairs of their shares; in float32 160 numbers.
    halves, whole = sum(k.scratch(call)), sum(k.with_dtype("float32").scratch(call))
    assert halves / whole == pytest.approx(112 / 160, abs=0.01)


def test_mindspore_copies_what_is_reshaped_and_no_tokens() -> None:
    pytest.importorskip("mindspore")
    k = Meter(make("backend", "mindspore", None, "cpu", "float32"))
    x = k.new((2, 320, 8, 8))
    of_tokens, of_reshaped = k.tokens(x), x.reshape(2, 64, 320)
    for array, copies in ((of_tokens, 0), (of_reshaped, x.nbytes), (k.to_map(x), x.nbytes), (x[:], x.nbytes)):
        before = k.ledger.alive
        k.ledger.peak = before
        result = k.gelu(array)
        assert k.ledger.peak - before == result.nbytes + copies
        del result


def test_a_variant_is_planned_as_it_is_stored(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "halves")
    for path in [*copy.rglob("*.safetensors")]:
        weights = {name: values.astype(np.float16) for name, values in load_file(path).items()}
        save_file(weights, path.with_name(f"{path.stem}.fp16.safetensors"))
        path.unlink()
    command = [
        "plan",
        str(copy),
        *["--height", "64", "--width", "64", "--num-frames", "2", "--backend", "torch", "--device", "cpu"],
    ]
    pytest.importorskip("torch")
    told = CliRunner().invoke(cli, [*command, "--variant", "fp16", "--json"])
    guessed = CliRunner().invoke(cli, [*command, "--json"])
    found, assumed = json.loads(told.stdout), json.loads(guessed.stdout)
    assert found["notes"] == []
    assert [note.partition(" are counted")[0] for note in assumed["notes"]] == [
        f"Weights of the {name}" for name in ("image_encoder", "vae", "unet")
    ]
    assert "only for variant='fp16'" in assumed["notes"][0]
    assert found["weights"]["unet"] < assumed["weights"]["unet"]


def test_what_a_plan_says() -> None:
    found = plan("tiny-random", **SMALL)
    assert found.fits
    assert found.needed == found.base + max(found.peaks.values())
    assert found.peaks["decode"] == found.weights["vae"] + found.activations["decode"], "as `generate` does it"
    together = plan("tiny-random", **SMALL, memory="max")
    assert together.peaks["decode"] == sum(found.weights.values()) + found.activations["decode"]
    low = plan("tiny-random", **SMALL, memory="low")
    assert low.peaks["denoise"] == low.weights["unet"] + low.activations["denoise"]
    assert low.activations["decode"] < found.activations["decode"] / 2
    assert "decoding: 4 of 4 frames" in str(found)
    assert "one after another" in str(low)
    single = plan("tiny-random", **SMALL, guided=False)
    assert single.activations["denoise"] < found.activations["denoise"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"memory": "much"}, "memory is"),
        ({"height": 65}, "65"),
        *(
            ({name: value}, f"{name} is {value}, expected a whole number of at least 1")
            for name in ("num_frames", "num_videos", "decode_chunk_size")
            for value in (0, -4, 2.5, True)
        ),
    ],
)
def test_what_cannot_be_planned(options: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        plan("tiny-random", **SMALL | options)


def test_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    small = ["plan", "tiny-random", "-b", "numpy", "--height", "64", "--width", "64", "--num-frames", "4"]
    result = CliRunner().invoke(cli, small)
    assert (result.exit_code, "It fits." in result.output) == (0, True)
    told = json.loads(CliRunner().invoke(cli, [*small, "--memory", "low", "--json"]).output)
    assert told["settings"] == {"on_demand": True, "forward_chunk": 1, "decode_chunk": 1}
    assert told["fits"] is True
    monkeypatch.setattr(Backend, "memory", lambda self: Memory(10**6, 0, 10**6))
    result = CliRunner().invoke(cli, [*small, "--memory", "max"])
    assert result.exit_code == 1
    assert "It does not fit. Less is needed with decode_chunk_size=2, then memory" in result.output

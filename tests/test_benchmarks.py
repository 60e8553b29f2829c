"""The benchmarks' machinery on tiny checkpoints: what is compared, in which order, and what is refused. No times."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attrs import evolve
from safetensors.numpy import load_file, save_file

import svdkit
from svdkit.checkpoint import component_config
from svdkit.errors import InputError, SvdkitError
from svdkit.memory.meter import Meter
from svdkit.memory.planning import Job, Settings, metered, run
from svdkit.plugins import make

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import chart
import gpu
import growth
import startup
from compare import compare
from profile_step import Profiler, profile
from record import ratio, spread
from sides import Svdkit, Task
from workers import Worker, alternate, disagreement, measure

BENCHMARKS = Path(chart.__file__).parent
TINY = Path(svdkit.__file__).parent / "models" / "tiny-random"
TASK = Task(
    parts=("image-encoder",), checkpoint=str(TINY), backend="numpy", height=64, width=64, frames=2, steps=2, threads=1
)


class Fake:
    """A side that notes when it runs, and may fail."""

    def __init__(self, name: str, log: list[str], fails: bool = False) -> None:
        self.name, self.log, self.fails = name, log, fails

    def run(self, part: str, save: Path | None = None) -> dict[str, Any]:
        self.log.append(self.name)
        if self.fails:
            raise SvdkitError("out of memory")
        return {"seconds": 1.0}


def test_who_begins_alternates() -> None:
    log: list[str] = []
    answers = alternate({name: Fake(name, log) for name in "ab"}, "unet", 3)
    assert "".join(log) == "abbaab"
    assert {name: len(told) for name, told in answers.items()} == {"a": 3, "b": 3}


def test_spread_and_ratio() -> None:
    assert list(spread([5, 1, 3, 2, 4]).values()) == [1, 2, 3, 4, 5]
    assert ratio([2.0] * 5, [4.0] * 5) == (0.5, 0.5, 0.5)
    rng = np.random.default_rng(0)
    middle, low, high = ratio(list(3 + rng.random(9)), list(9 + rng.random(9)))
    assert low < middle < high
    assert low < 3.5 / 9.5 < high
    assert high - low < 0.1


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x * 1.001,
        lambda x: x[:, :3],
        lambda x: np.where(x == x.max(), np.nan, x),
    ],
    ids=["scaled", "another shape", "nan"],
)
def test_outputs_that_differ_are_refused(tmp_path: Path, wrong: Any) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4), np.float32)
    paths = {name: tmp_path / f"{name}.npy" for name in ("svdkit", "diffusers")}
    np.save(paths["svdkit"], x)
    np.save(paths["diffusers"], x * np.float32(1 + 1e-6))
    assert 0 < disagreement(paths, "float32") < 1e-5
    np.save(paths["diffusers"], wrong(x))
    with pytest.raises(SvdkitError, match="do not compute the same"):
        disagreement(paths, "float32")


def test_another_checkpoint_is_not_timed(tmp_path: Path) -> None:
    """Planted: one tensor of one side's weights is one part in a thousand larger."""
    planted = tmp_path / "planted"
    shutil.copytree(TINY, planted)
    file = next((planted / "image_encoder").glob("*.safetensors"))
    weights = load_file(file)
    weights["visual_projection.weight"] = weights["visual_projection.weight"] * np.float16(1.001)
    file.unlink()
    save_file(weights, file)
    with pytest.raises(SvdkitError, match="Nothing was timed"):
        measure({"svdkit": TASK, "diffusers": evolve(TASK, checkpoint=str(planted))}, 1)


def test_a_worker_that_ends_is_told() -> None:
    with Worker(evolve(TASK, dtype="bfloat16")) as worker, pytest.raises(SvdkitError, match="ended with status 1"):
        worker.answer()


def test_compared_with_diffusers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = compare(TASK, evolve(TASK, side="diffusers"), 2, tmp_path)
    result = json.loads(path.read_text())
    assert path.name == "image-encoder-numpy-cpu-float32-64x64x2.json"
    assert 0 < result["error"] < 1e-5
    for side in ("svdkit", "diffusers"):
        assert result["seconds"][side] == [answer["seconds"] for answer in result["answers"][side]]
        assert len(result["seconds"][side]) == 2
        assert result["peak_resident"][side] > 0
    assert result["task"]["checkpoint"] == "tiny-random"  # and not where it lies
    assert set(result["machine"]["versions"]) >= {"numpy", "torch", "diffusers"}
    assert "outputs differ by" in capsys.readouterr().out
    drawn = chart.draw(tmp_path, tmp_path / "speed.png").read_bytes()
    assert drawn.startswith(b"\x89PNG")


def test_chart_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no comparison"):
        chart.draw(tmp_path, tmp_path / "speed.png")


def test_startup_is_measured_in_processes_of_its_own() -> None:
    assert [seconds > 0 for seconds in startup.whole(["-c", "pass"], 2)] == [True, True]
    assert {name: len(seconds) for name, seconds in startup.loading(TASK, 1).items()} == {"load": 1, "read": 1}


def test_profile_counts_every_operation() -> None:
    """As many as the meter, which runs the network on shapes; no call is counted twice or missed."""
    task = evolve(TASK, parts=("decode",), frames=3)
    measured = profile(task, runs=1, size=64)
    kernels = make("backend", "numpy", None, None, "float32")
    meter = Meter(kernels)
    network = metered("vae", component_config("vae", TINY, kernels)[0], meter)
    run("decode", network, Job(64, 64, 3, 1, True), Settings(decode_chunk=3))
    rows = measured.rows()
    assert sum(row["operations"] for row in rows) == sum(meter.ledger.flops.values())
    assert sum(row["seconds"] for row in rows) == pytest.approx(measured.total)
    assert {"conv2d", "temporal_conv", "mix", "between kernels"} <= {row["kernel"] for row in rows}
    assert len(measured.rows("shape")) > len(rows)
    assert "| conv2d |" in measured.table()


def test_profiled_step_computes_the_same() -> None:
    class Profiled(Svdkit):
        def _backend(self) -> Any:
            return Profiler(super()._backend())

    task = evolve(TASK, parts=("unet",))
    plain, side = Svdkit(task, {}).run("unet"), Profiled(task, {})
    profiled = side.run("unet")
    side.networks.unet.backend.on = True
    assert np.array_equal(plain(), profiled())
    calls = side.networks.unet.backend.calls
    assert {"geglu", "temporal_attention", "add_rows"} <= {call.kernel for call in calls}
    assert all(call.moved > 0 for call in calls)


def test_lines() -> None:
    line = growth.Line.fit([1, 2, 4], [3.0, 5.0, 9.0])
    assert (line.slope, line.start, line.residual) == pytest.approx((2, 1, 0), abs=1e-9)
    assert growth.Line.fit([1, 2, 4, 8], [1, 4, 16, 64]).residual > 0.05


def test_growth_runs_each_size_in_turn() -> None:
    side = Svdkit(evolve(TASK, parts=("generate",), steps=1, frames=1, height=32, width=32), {})
    side.networks.set_progress_bar_config(disable=True)
    measured = growth.times(side, "steps", (1, 2), 1)
    assert {stage: len(seconds) for stage, seconds in measured.items()} == {"denoise": 2, "decode": 2}


def test_gpu_sides_go_on_without_what_fails(capsys: pytest.CaptureFixture[str]) -> None:
    log: list[str] = []
    with ExitStack() as stack:
        sides = gpu.Sides(TASK, (), stack, time.monotonic() + 60)
        sides.workers = {name: Fake(name, log, name == "svdkit compiled") for name in gpu.SIDES}
        result = sides.time("unet", 2, 0.5)
    assert log == ["svdkit", "svdkit compiled", "diffusers", "diffusers compiled", *log[4:]]
    assert log[4:] == ["diffusers compiled", "diffusers", "svdkit"]
    assert sides.failed == {"svdkit compiled": "out of memory"}
    assert {name: len(times) for name, times in result["seconds"].items()} == dict.fromkeys(sides.workers, 2)
    assert "2.00 times the floor" in capsys.readouterr().out


def test_gpu_sides_begin_no_round_after_their_time() -> None:
    log: list[str] = []
    with ExitStack() as stack:
        sides = gpu.Sides(TASK, (), stack, time.monotonic() - 1)
        sides.workers = {"svdkit": Fake("svdkit", log)}
        assert sides.time("unet", 3, None)["seconds"] == {}
    assert log == []


def test_operations_of_a_step_grow_with_its_frames() -> None:
    two, four = (gpu.step_operations(evolve(TASK, frames=frames)) for frames in (2, 4))
    assert 1.9 < four / two < 2.1


@pytest.mark.slow
def test_gpu_script_on_a_cpu(tmp_path: Path) -> None:
    small = "--device cpu --dtype float32 --height 64 --width 64 --frames 2 --decode-chunk 1 --steps 2 --matrix 64"
    some = "--runs 1 --generations 1 --sides svdkit diffusers --seconds 1800"
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), *small.split(), *some.split()]
    subprocess.run([*command, "--checkpoint", str(TINY), "--results", str(tmp_path)], check=True)
    result = json.loads((tmp_path / "gpu-torch-cpu-float32-64x64x2.json").read_text())
    assert result["failed"] == {}
    assert 0 < result["errors"]["unet"]["diffusers"] < 1e-4
    assert set(result["generate"]["spread"]) == {"svdkit", "diffusers"}
    assert (tmp_path / "profile-unet-torch-cpu-float32-64x64x2.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["mindspore", "torch"])
def test_whole_generations(tmp_path: Path, backend: str) -> None:
    task = evolve(TASK, parts=("generate",), backend=backend)
    result = json.loads(compare(task, evolve(task, side="diffusers"), 1, tmp_path).read_text())
    reached = result["answers"]["diffusers"][0]["reached"]
    assert list(reached) == ["loaded", "first step", "last step", "frames"]
    assert sorted(reached.values()) == list(reached.values())
    assert reached["frames"] < result["seconds"]["diffusers"][0]

"""A study on the NumPy backend: the grid, what is computed and kept, and what its table tells."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from attrs import evolve, frozen
from click.testing import CliRunner
from PIL import Image
from reference import picture

import svdkit
from svdkit import ComponentSpec, PluginSpec, StableVideoDiffusionPipeline, hookimpl
from svdkit.backend import Device
from svdkit.checkpoint import load_component
from svdkit.cli import cli
from svdkit.errors import (
    CheckpointError,
    DuplicatePluginError,
    InputError,
    OutputError,
    SigmasError,
    UnknownPluginError,
)
from svdkit.hub import resolve_model
from svdkit.memory import malloc
from svdkit.plugins import registry
from svdkit.sampling import get_scheduler
from svdkit.schedules import sigma_schedule
from svdkit.stages import Stages
from svdkit.study.cells import expand, fingerprint
from svdkit.study.grid import Study, guidance_ends, read_toml
from svdkit.study.measures import flicker, measure, motion
from svdkit.study.metadata import describe
from svdkit.study.schedulers import evaluations, make_scheduler, within
from svdkit.study.store import Store
from svdkit.study.table import COLUMNS, COSTS, IDENTITY, MEASURES, read_table
from svdkit.study.worker import Task, Worker, peak_memory
from svdkit.testing.inputs import relative_error
from svdkit_numpy.backend import NumpyBackend

ROOT = Path(__file__).parents[1]
SMALL: dict[str, Any] = {
    "model": "tiny-random",
    "backend": "numpy",
    "height": 32,
    "width": 32,
    "num_frames": 3,
    "reference_budget": 6,
}
"""Cells of a tenth of a second."""


@frozen
class Failing:
    """Fails in its second step."""

    def step(self, denoise: Any, x: Any, i: int, sigmas: Any, history: Any, noise: Any) -> tuple[Any, Any]:
        if i == 1:
            raise ZeroDivisionError("the second step is one too many")
        return denoise(x, sigmas[i]), None


@frozen
class Between:
    """Euler's method, with a step more between every two levels."""

    def levels(self, sigmas: Sequence[float]) -> list[float]:
        return [*(level for a, b in pairwise(sigmas) for level in (a, (a + b) / 2)), sigmas[-1]]

    def step(self, denoise: Any, x: Any, i: int, sigmas: Any, history: Any, noise: Any) -> tuple[Any, Any]:
        return get_scheduler("euler").step(denoise, x, i, sigmas, history, noise)


@frozen
class SchedulerPlugin:
    """Registers a scheduler of this module."""

    name: str

    @hookimpl
    def svdkit_schedulers(self) -> list[PluginSpec]:
        return [PluginSpec(name=self.name, target=f"{__name__}:{self.name.capitalize()}", summary=self.name)]


class Dim:
    """A VAE that decodes half as bright as svdkit's own."""

    def __init__(self, folder: Path, backend: Any, variant: str | None) -> None:
        own = load_component("vae", folder.parent, backend, variant=variant, choice="default")
        self.config, self.backend, self.encode = own.config, own.backend, own.encode
        self.decode = lambda z: own.decode(z) / 2 - 0.5


class DimPlugin:
    @hookimpl
    def svdkit_components(self) -> list[ComponentSpec]:
        return [ComponentSpec(name="dim", target=f"{__name__}:Dim", summary="dim", component="vae", backend="numpy")]


@pytest.fixture
def register() -> Iterator[Callable[[Any, str], None]]:
    """`register(plugin, origin)`, until the test ends."""
    plugins: list[Any] = []

    def register(plugin: Any, origin: str) -> None:
        registry().manager.register(plugin, origin)
        plugins.append(plugin)

    yield register
    for plugin in plugins:
        registry().manager.unregister(plugin)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Paths of two pictures."""
    folder = tmp_path_factory.mktemp("images")
    for i, name in enumerate(("left", "right")):
        picture(i).save(folder / f"{name}.png")
    return [str(folder / "left.png"), str(folder / "right.png")]


@pytest.fixture
def small(images: list[str]) -> Callable[..., Study]:
    """A study with one image and seed, unless asked for otherwise."""

    def small(**values: Any) -> Study:
        return Study(**{"images": images[:1], "schedulers": "euler", "budgets": 2, "seeds": 0, **SMALL, **values})

    return small


@pytest.fixture(scope="module")
def asked(images: list[str]) -> dict[str, Any]:
    """What the study of this module compares."""
    return {
        "images": images,
        "schedulers": ["euler_ancestral", "heun", "dpm_adaptive:rtol=0.5,atol=0.5"],
        "schedules": ["karras", "ays"],
        "budgets": [2, 3],
        "seeds": 11,
        **SMALL,
    }


@pytest.fixture(scope="module")
def done(asked: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """Its folder and table."""
    folder = tmp_path_factory.mktemp("study") / "done"
    return folder, svdkit.study(folder, progress=False, **asked)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Keys of the cells that are computed from now on."""
    keys: list[str] = []
    original = Worker.attempt

    def attempt(self: Worker, task: Any) -> Any:
        keys.append(task.cell.key)
        return original(self, task)

    monkeypatch.setattr(Worker, "attempt", attempt)
    return keys


# What is asked


def test_a_study_survives_its_file(small: Callable[..., Study], tmp_path: Path) -> None:
    study = small(
        schedules=["ays", [700.0, 20.0, 0.5], Path("levels.txt")],
        guidance=["1-3", "2"],
        seeds=[3, 1, 3],
        components={"vae": "default"},
        perceptual=True,
    )
    assert study.seeds == (3, 1)
    assert study.schedules == ("ays", "700.0,20.0,0.5", "levels.txt")
    (tmp_path / "study.toml").write_text(study.as_toml(), encoding="utf-8")
    assert Study.of(read_toml(tmp_path / "study.toml")) == study


def test_schedules_of_many_numbers_are_no_files(
    small: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ays", "levels.txt"):
        (tmp_path / name).write_text("3, 2, 1")
    schedules = [[float(i) + 1 / 3 for i in reversed(range(25))], "ays", "levels.txt"]
    found = small(schedules=schedules).absolute().schedules
    assert found == (",".join(map(repr, schedules[0])), "ays", str(tmp_path / "levels.txt"))


def test_numbers_of_numpy_are_pythons(small: Callable[..., Study], tmp_path: Path) -> None:
    sizes = {"height": np.int64(32), "num_frames": np.int32(2), "fps": np.float32(8)}
    study = small(seeds=list(np.arange(3)), budgets=np.array([2, 3]), schedules=np.array([9.0, 1.0]), **sizes)
    assert study == small(seeds=[0, 1, 2], budgets=[2, 3], schedules=[9.0, 1.0], height=32, num_frames=2, fps=8.0)
    assert len({cell.key for cell in expand(study).cells}) == 3
    (tmp_path / "study.toml").write_text(study.as_toml(), encoding="utf-8")
    assert Study.of(read_toml(tmp_path / "study.toml")) == study


def test_cells_take_turns_with_other_generations(small: Callable[..., Study], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a backend of which one may compute at a time."""
    inside: list[bool] = []

    @contextmanager
    def exclusive(self: Any) -> Iterator[None]:
        inside.append(True)
        yield
        inside.pop()

    def denoise(self: Stages, *args: Any, **options: Any) -> Any:
        assert inside, "another may compute"
        return original(self, *args, **options)

    original = Stages.denoise
    monkeypatch.setattr(NumpyBackend, "exclusive", exclusive)
    monkeypatch.setattr(Stages, "denoise", denoise)
    grid = expand(small())
    result = Worker(grid).attempt(Task(grid.references[0]))
    assert not isinstance(result, str), result


def test_looking_at_memory_gives_none_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what is timed meanwhile takes it again, and is slower than a generation is."""
    threads: list[int] = []
    backend, libc = NumpyBackend(), SimpleNamespace(malloc_trim=lambda padding: threads.append(threading.get_ident()))
    monkeypatch.setattr(malloc, "_glibc", lambda: libc)
    with peak_memory(backend, seconds=0.01) as held:
        time.sleep(0.2)
    assert len(held) > 3
    assert set(threads) == {threading.get_ident()}


def test_a_damaged_result_is_named(small: Callable[..., Study], tmp_path: Path) -> None:
    grid = small().absolute().as_toml()
    (tmp_path / "grid.toml").write_text(grid)
    svdkit.study(tmp_path / "results", tmp_path / "grid.toml", progress=False)
    (cell,) = (tmp_path / "results" / "cells").glob("*.npz")
    whole = cell.read_bytes()
    cell.write_bytes(whole[:2000])
    with pytest.raises(OutputError, match=f"{cell.name} is damaged .*Remove it, and the study computes it again"):
        svdkit.study(tmp_path / "results", tmp_path / "grid.toml", progress=False)
    cell.unlink()
    assert (svdkit.study(tmp_path / "results", tmp_path / "grid.toml", progress=False)["status"] == "done").all()


def test_images_in_a_file_are_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "study.toml").write_text('images = ["a.png", "/b.png"]', encoding="utf-8")
    assert read_toml(tmp_path / "study.toml")["images"] == [str(tmp_path / "a.png"), "/b.png"]
    monkeypatch.chdir(tmp_path.parent)  # a report tells no folder that was not told
    path = Path(tmp_path.name) / "study.toml"
    assert read_toml(path)["images"] == [str(Path(tmp_path.name) / "a.png"), "/b.png"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"schedulers": []}, "no schedulers"),
        ({"budgets": [4, 0]}, "A budget is 0"),
        ({"seeds": -1}, "A seed is -1"),
        ({"guidance": "much"}, "'much', expected FIRST-LAST"),
        ({"budgets": [[5]]}, r"A budget is \[5\]"),
        ({"budgts": 4}, "no 'budgts'"),
        ({"schedules": []}, "no schedules"),
        ({"schedules": [None]}, "A schedule is None, expected a name"),
        ({"schedules": [5, "karras"]}, "A schedule is 5, expected a name"),
        ({"schedules": [["a", "b"]]}, r"A schedule is \['a', 'b'\], expected a name"),
        ({"components": "vae"}, "'vae', expected PART=NAME"),
        ({"components": {"decoder": "mine"}}, "'decoder=mine', expected PART=NAME with a part of unet"),
        ({"components": ["vae=mine", "vae=yours"]}, "vae is chosen twice"),
    ],
)
def test_what_cannot_be_asked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Study.of({"images": ["a.png"], "schedulers": ["euler"], **values})


def test_the_size_is_the_models_own_unless_given(images: list[str]) -> None:
    asked: dict[str, Any] = {"images": images[:1], "schedulers": "euler", "budgets": 2, "model": "tiny"}
    asked |= {"backend": "numpy", "reference_budget": 2}
    grid = expand(Study(**asked))
    assert grid.size == (96, 96)
    assert grid.cells[0].key == expand(Study(**asked, height=96, width=96)).cells[0].key
    assert expand(Study(**asked, height=64)).size == (64, 96)
    assert expand(Study(**asked, width=32)).size == (96, 32)
    with pytest.raises(InputError, match="`width` is 30"):
        expand(Study(**asked, width=30))


def test_a_file_that_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "study.toml").write_text("images = [", encoding="utf-8")
    with pytest.raises(InputError, match="not TOML"):
        read_toml(tmp_path / "study.toml")


def test_guidance_reads_as_its_ends() -> None:
    assert guidance_ends("1-3") == (1, 3)
    assert guidance_ends("2.5") == (2.5, 2.5)
    assert guidance_ends("-1--0.5") == (-1, -0.5)


# Budgets and levels


@pytest.mark.parametrize("name", [info.name for info in svdkit.list_schedulers() if info.name != "dpm_adaptive"])
@pytest.mark.parametrize("budget", [1, 6, 7])
def test_steps_are_the_most_within_the_budget(name: str, budget: int) -> None:
    scheduler = make_scheduler(name, {})

    def levels(steps: int) -> tuple[float, ...]:
        return sigma_schedule("karras", steps)

    sigmas = within(scheduler, levels, budget)
    assert evaluations(scheduler, sigmas) <= budget
    assert evaluations(scheduler, levels(len(sigmas))) > budget
    two = {"heun", "dpm_2", "dpm_2_ancestral", "edm_stochastic", "dpmpp_2s_ancestral", "dpmpp_sde"}
    assert len(sigmas) - 1 == ((budget + 1) // 2 if name in two else budget)


def test_a_table_of_levels_gives_what_it_has() -> None:
    assert len(within(make_scheduler("lcm", {}), lambda steps: sigma_schedule("lcm", steps), 100)) == 41


def test_a_budget_below_one_step_is_an_error() -> None:
    class Five:
        def step(self, denoise: Any, x: Any, i: int, sigmas: Any, history: Any, noise: Any) -> tuple[Any, Any]:
            for _ in range(4):
                denoise(x, sigmas[i])
            return denoise(x, sigmas[i]), None

    with pytest.raises(InputError, match="more than the budget of 4 evaluations"):
        within(Five(), lambda steps: sigma_schedule("karras", steps), 4)


def columns(study: Study) -> list[tuple[str, str, int, int]]:
    return [(cell.label, cell.schedule, cell.budget, len(cell.stepped) - 1) for cell in expand(study).cells]


def test_explicit_levels_have_the_budget_that_they_take(small: Callable[..., Study], tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text("[700, 10, 1]")
    schedules = ["karras:rho=5", "700,10,1,0.1", str(tmp_path / "mine.json")]
    assert columns(small(schedulers=["heun"], schedules=schedules, budgets=[3])) == [
        ("heun", "karras(rho=5)", 3, 2),
        ("heun", "700…0.1 (4)", 7, 4),
        ("heun", "mine", 5, 3),
    ]
    with pytest.raises(InputError, match="both be called"):
        expand(small(schedules=["700,10,1", "700,20,1"]))


def test_levels_of_a_solvers_own_are_called_so(small: Callable[..., Study]) -> None:
    assert columns(small(schedulers=["dpm_adaptive", "lcm"], schedules=["ays", "karras"], budgets=[2, 4])) == [
        ("dpm_adaptive", "own", 2, 2),
        ("dpm_adaptive", "own", 4, 2),
        *[("lcm", schedule, budget, budget) for schedule in ("ays", "karras") for budget in (2, 4)],
    ]


def test_levels_are_chosen_once(small: Callable[..., Study], register: Callable[..., None], tmp_path: Path) -> None:
    register(SchedulerPlugin("between"), "between (nobody)")
    (row,) = svdkit.study(
        tmp_path, study_file(small(schedulers="between", budgets=4), tmp_path), progress=False
    ).itertuples()
    assert (row.steps, row.evaluations) == (4, 4)
    assert list(row.sigmas) == Between().levels(sigma_schedule("karras", 2))
    explicit = small(schedules=[list(row.sigmas)])
    (same,) = svdkit.study(tmp_path, study_file(explicit, tmp_path), progress=False).itertuples()
    assert np.array_equal(*(Store(tmp_path).latents(key) for key in (row.key, same.key)))


def test_the_models_own_levels_are_those_of_a_generation(small: Callable[..., Study]) -> None:
    cells = expand(small(schedulers=["euler", "lcm"], budgets=3)).cells
    assert [cell.sigmas for cell in cells] == [sigma_schedule("karras", 3), sigma_schedule("lcm", 3)]


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"schedulers": "eulr"}, UnknownPluginError),
        ({"schedulers": "unipc:ordr=3"}, InputError),
        ({"schedulers": "diffusers.DDPMScheduler"}, UnknownPluginError),
        ({"schedulers": "diffusers.HeunDiscreteScheduler:ordr=3"}, InputError),
        ({"schedules": "karas"}, UnknownPluginError),
        ({"schedules": "1,2,3"}, SigmasError),
        ({"images": "none.png"}, InputError),
        ({"model": "tny-random"}, InputError),
        ({"backend": "nmpy"}, UnknownPluginError),
    ],
)
def test_nothing_is_computed_of_what_cannot_be_made(
    small: Callable[..., Study], values: dict[str, Any], error: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(error):
        svdkit.study(tmp_path / "study", **{"images": small().images, "schedulers": "euler", **SMALL, **values})
    assert not (tmp_path / "study").exists()


# Keys


def key(study: Study) -> str:
    (cell,) = expand(study).cells
    return cell.key


def test_keys_follow_what_changes_the_result(small: Callable[..., Study], tmp_path: Path) -> None:
    study = small()
    assert key(study) == key(small())
    other = tmp_path / "left.png"
    picture(7).save(other)
    changes: list[dict[str, Any]] = [
        *({"schedulers": name} for name in ("ddim", "euler_ancestral", "euler_ancestral:eta=0.5")),
        *({"schedules": "ays"}, {"budgets": 3}, {"images": str(other)}, {"seeds": 1}, {"guidance": "1-2"}),
        *({"height": 40}, {"num_frames": 4}, {"fps": 8}, {"motion_bucket_id": 3}, {"noise_aug_strength": 0.1}),
        *({"dtype": "float64"}, {"decode_chunk_size": 1}, {"reference": "heun"}, {"reference_budget": 8}),
        {"perceptual": True},
    ]
    keys = [key(study), *(key(evolve(study, **change)) for change in changes)]
    assert len(set(keys)) == len(keys)


def test_keys_follow_the_contents_not_the_names(
    small: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy.bmp"
    Image.open(small().images[0]).save(copy)
    # A name for the same levels, and the default of an option that is spelled out.
    changes: list[dict[str, Any]] = [{"images": str(copy)}, {"schedules": "karras"}, {"guidance": "1.0-3"}]
    assert {key(small(**change)) for change in changes} == {key(small())}
    before = key(small())
    monkeypatch.setattr("svdkit.study.cells.supplier", lambda text: "svdkit 99")
    assert key(small()) != before


def test_keys_follow_the_weights(small: Callable[..., Study], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(resolve_model("tiny-random"), copy)
    assert key(small(model=str(copy))) == key(small())
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert key(small(model=str(copy))) != key(small())


@pytest.mark.parametrize("part", ["vae", "image_encoder"])
def test_a_checkpoint_that_lacks_a_part(small: Callable[..., Study], tmp_path: Path, part: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(resolve_model("tiny-random"), copy)
    shutil.rmtree(copy / part)
    with pytest.raises(CheckpointError, match=part):
        expand(small(model=str(copy)))
    with pytest.raises(CheckpointError, match=part):
        fingerprint(copy)


def test_keys_follow_the_networks_that_stand_in(small: Callable[..., Study], register: Callable[..., None]) -> None:
    own = key(small())
    assert key(small(components="vae=default")) == own
    register(DimPlugin(), "dim (click)")  # the name of some distribution that is installed
    assert key(small(components={"vae": "default"})) == own
    assert key(small(components={"vae": "dim"})) == key(small()) != own
    register(DimPlugin(), "more (pluggy)")
    with pytest.raises(DuplicatePluginError):
        expand(small())


# What is computed


def test_the_table_has_a_row_for_every_cell(done: tuple[Path, pd.DataFrame]) -> None:
    folder, table = done
    assert tuple(table.columns) == COLUMNS
    assert len(table) == 2 * (2 * 2 * 2 + 2)
    assert not table.duplicated(list(IDENTITY)).any()
    assert set(table["status"]) == {"done"}
    assert set(table["schedule"]) == {"karras", "ays", "own"}
    assert table["perceptual"].isna().all()  # not asked for
    measured = table[[*MEASURES, "evaluations", *COSTS]].drop(columns="perceptual")
    assert np.isfinite(measured.to_numpy()).all()
    fixed = table[table["schedule"] != "own"]
    assert (fixed["evaluations"] <= fixed["budget"]).all()
    assert (fixed[fixed["scheduler"] == "heun"].groupby("budget")["steps"].unique().map(list)).to_dict() == {
        2: [1],
        3: [2],
    }
    pd.testing.assert_frame_equal(read_table(folder), table, check_dtype=False)
    plain = pd.read_csv(folder / "table.csv")
    assert list(plain["key"]) == list(table["key"])
    assert [float(s) for s in plain["sigmas"][0].split(" ")] == pytest.approx(table["sigmas"][0])


def test_a_cell_is_what_a_generation_makes(done: tuple[Path, pd.DataFrame], images: list[str]) -> None:
    folder, table = done
    pipe = StableVideoDiffusionPipeline.from_pretrained("tiny-random", backend="numpy")
    pipe.set_progress_bar_config(disable=True)
    for row in table[(table["image"] == "right") & (table["budget"] == 3)].itertuples():
        pipe.scheduler = make_scheduler(row.scheduler.replace("(", ":").replace(")", "").replace(", ", ","), {})
        frames = pipe(images[1], 32, 32, 3, sigmas=row.sigmas, generator=row.seed)[0]
        assert np.array_equal(Store(folder).frames(row.key), np.stack([np.asarray(frame) for frame in frames]))


def test_references_and_how_far_they_have_converged(done: tuple[Path, pd.DataFrame], images: list[str]) -> None:
    folder, table = done
    store = Store(folder)
    pipe = StableVideoDiffusionPipeline.from_pretrained("tiny-random", backend="numpy", scheduler="dpmpp_2m")
    pipe.set_progress_bar_config(disable=True)
    full, half = (
        pipe(images[0], 32, 32, 3, steps, generator=11, output_type="latent")[0].astype(np.float64) for steps in (6, 3)
    )
    (told,) = (r for r in store.metadata["references"] if (r["image"], r["seed"]) == ("left", 11))
    assert told["convergence"] == pytest.approx(relative_error(half, full), rel=1e-5)
    assert told["evaluations"] == 6
    row = table[(table["image"] == "left") & (table["seed"] == 11)].iloc[0]
    assert row["latent_error"] == pytest.approx(relative_error(store.latents(row["key"]), full), rel=1e-5)
    difference = store.frames(row["key"]).astype(float) - store.reference("left", 11, "1-3")
    assert row["rmse"] == pytest.approx(np.sqrt((difference**2).mean()))


def test_what_is_needed_to_run_it_again(done: tuple[Path, pd.DataFrame], asked: dict[str, Any]) -> None:
    folder, _ = done
    told = Store(folder).metadata
    assert told["command"] == f"svdkit study {folder / 'study.toml'} -o {folder}"
    assert Study.of(read_toml(folder / "study.toml")) == Study.of(asked)
    assert told["versions"]["numpy"] == np.__version__
    assert told["machine"]["cores"] >= 1
    assert Image.open(folder / "images" / "left.png").size == (32, 32)


@pytest.mark.parametrize(
    ("device", "told"), [("cpu", "cpu"), ("cuda", "the first"), ("cuda:1", "the second"), ("cuda:2", "cuda:2")]
)
def test_the_device_is_the_one_that_is_used(
    small: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, told: str
) -> None:
    found = [Device("cpu"), Device("cuda:0", "the first"), Device("cuda:10", "another"), Device("cuda:1", "the second")]
    backend = SimpleNamespace(device=device, found_devices=lambda: found)
    grid = expand(small())
    monkeypatch.setattr("svdkit.study.metadata.make_backend", lambda *_: backend)
    assert describe(grid, Store(tmp_path), "")["machine"]["device"] == told


def test_only_what_is_new_is_computed(
    done: tuple[Path, pd.DataFrame], asked: dict[str, Any], computed: list[str], tmp_path: Path
) -> None:
    folder, table = done
    again = svdkit.study(folder, progress=False, **asked)
    assert not computed
    pd.testing.assert_frame_equal(again, table)
    more = svdkit.study(folder, folder / "study.toml", progress=False, schedulers=["ddim", "heun"], budgets=[3, 4])
    assert sorted(computed) == sorted(set(more["key"]) - set(table["key"]))
    assert set(more["key"]) & set(table["key"])
    assert len(more) == 2 * 2 * 2 * 2
    svdkit.study(folder, progress=False, **asked)


def test_the_image_is_encoded_once(
    small: Callable[..., Study], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = []
    original = svdkit.stages.embed
    monkeypatch.setattr("svdkit.stages.embed", lambda *args: embedded.append(args[2]) or original(*args))
    study = small(seeds=[0, 1], schedulers=["euler", "ddim"], guidance=["1-3", "1"])
    svdkit.study(tmp_path, study_file(study, tmp_path), progress=False)
    assert len(embedded) == 1


def test_the_schedulers_configuration_is_read_once(
    small: Callable[..., Study], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    original = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda path, **options: read.append(path.name) or original(path, **options))
    worker = Worker(expand(small(schedulers=["euler", "heun"], budgets=[2, 3])))
    assert read.count("scheduler_config.json") == 1
    assert worker.pipe.scheduler  # loading the model reads it, too
    assert not isinstance(worker.attempt(Task(worker.grid.references[0])), str)
    assert read.count("scheduler_config.json") == 2


def study_file(study: Study, folder: Path) -> Path:
    path = folder / "asked.toml"
    path.write_text(study.as_toml(), encoding="utf-8")
    return path


def test_a_failing_scheduler_is_recorded_and_stops_nothing(
    small: Callable[..., Study], register: Callable[..., None], computed: list[str], tmp_path: Path
) -> None:
    register(SchedulerPlugin("failing"), "failing (nobody)")
    file = study_file(small(schedulers=["failing", "euler"], budgets=[1, 2]), tmp_path)
    table = svdkit.study(tmp_path, file, progress=False)
    rows = table.set_index(["scheduler", "budget"])
    assert rows["status"].to_dict() == {
        ("failing", 1): "done",
        ("failing", 2): "failed",
        ("euler", 1): "done",
        ("euler", 2): "done",
    }
    assert rows.loc[("failing", 2), "error"] == "ZeroDivisionError: the second step is one too many"
    assert np.isnan(rows.loc[("failing", 2), "latent_error"])
    before = len(computed)
    svdkit.study(tmp_path, file, progress=False)
    assert len(computed) == before
    svdkit.study(tmp_path, file, progress=False, retry_failed=True)
    assert computed[before:] == [rows.loc[("failing", 2), "key"]]


def test_a_failure_may_be_forgotten_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, original = Store(tmp_path), Path.read_bytes
    store.save_failure("key", "why")
    assert store.failure("key") == "why"
    monkeypatch.setattr(Path, "read_bytes", lambda path: store.forget_failure("key") or original(path))
    assert store.failure("key") is None


def test_without_a_reference_its_cells_fail(small: Callable[..., Study], register: Any, tmp_path: Path) -> None:
    register(SchedulerPlugin("failing"), "failing (nobody)")
    table = svdkit.study(tmp_path, study_file(small(reference="failing"), tmp_path), progress=False)
    assert list(table["error"]) == ["Its reference failed: ZeroDivisionError: the second step is one too many"]


def test_a_third_partys_scheduler_and_schedule(
    small: Callable[..., Study], register: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ROOT / "examples" / "svdkit-example-scheduler")
    register(importlib.import_module("svdkit_example_scheduler.plugin"), "example (svdkit-example-scheduler)")
    study = small(schedulers=["rk2", "rk2:alpha=1", "heun"], schedules=["karras", "lognormal"], budgets=3)
    table = svdkit.study(tmp_path, study_file(study, tmp_path), progress=False)
    assert set(table["scheduler"]) == {"rk2", "rk2(alpha=1)", "heun"}
    assert set(table["status"]) == {"done"}
    errors = table.pivot(index="schedule", columns="scheduler", values="latent_error")
    assert np.allclose(errors["rk2(alpha=1)"], errors["heun"], rtol=1e-3)
    assert not np.allclose(errors["rk2"], errors["heun"], rtol=1e-3)
    for name in [name for name in sys.modules if name.startswith("svdkit_example_scheduler")]:
        del sys.modules[name]


def test_a_network_that_stands_in_makes_the_videos(
    small: Callable[..., Study], register: Callable[..., None], tmp_path: Path
) -> None:
    bright, _ = frames_of(small(), tmp_path / "own")
    register(DimPlugin(), "dim (click)")
    dim, metadata = frames_of(small(components="vae=dim"), tmp_path / "dim")
    inside = (bright > 0) & (bright < 255)  # others were clipped
    assert inside.mean() > 0.9
    assert np.abs(dim - bright / 2)[inside].max() <= 0.5
    assert metadata["components"]["vae"].startswith("dim of click ")


def frames_of(study: Study, folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """The video of a study's only cell, and the study's metadata."""
    folder.mkdir()
    table = svdkit.study(folder, study_file(study, folder), progress=False)
    store = Store(folder)
    return store.frames(table["key"][0]).astype(float), store.metadata


def test_the_perceptual_measure_is_of_the_image_encoders_embeddings(
    small: Callable[..., Study], tmp_path: Path
) -> None:
    study = small(budgets=6, schedulers=["euler", "dpmpp_2m"], num_frames=2, perceptual=True, memory="low")
    table = svdkit.study(tmp_path, study_file(study, tmp_path), progress=False)
    found = table.set_index("scheduler")["perceptual"]
    assert found["dpmpp_2m"] == pytest.approx(0, abs=1e-6)  # the reference itself
    pipe = StableVideoDiffusionPipeline.from_pretrained("tiny-random", backend="numpy")
    store = Store(tmp_path)

    def embedded(frames: np.ndarray) -> np.ndarray:
        pictures = [Image.fromarray(frame) for frame in frames]
        return svdkit.stages.embed(pipe.image_encoder, pipe.feature_extractor, pictures, 1, lambda count: None)

    key = table.set_index("scheduler")["key"]["euler"]
    a, b = embedded(store.frames(key)), embedded(store.reference("left", 0, "1-3"))
    angles = [np.arccos(x @ y / np.sqrt((x @ x) * (y @ y))) for x, y in zip(a, b, strict=True)]
    assert found["euler"] == pytest.approx(np.mean(1 - np.cos(angles)), rel=1e-3)
    assert found["euler"] > 1e-4


def test_eulers_method_of_diffusers_agrees_cell_by_cell(small: Callable[..., Study], tmp_path: Path) -> None:
    theirs = "diffusers.EulerDiscreteScheduler"
    # Guided, this random network takes an ulp of float32, in which theirs computes, to 1e-3 in six steps.
    options: dict[str, Any] = {"schedules": ["model", "ays"], "budgets": [4, 6], "seeds": [0, 1], "guidance": "1"}
    study = small(schedulers=["euler", theirs], **options)
    table = svdkit.study(tmp_path, study_file(study, tmp_path), progress=False)
    store = Store(tmp_path)
    keys = table.pivot(index=["schedule", "budget", "seed"], columns="scheduler", values="key")
    assert len(keys) == 8
    for ours, other in zip(keys["euler"], keys[theirs], strict=True):
        assert ours != other
        assert relative_error(store.latents(other), store.latents(ours)) < 1e-4
    values = table.pivot(index=["schedule", "budget", "seed"], columns="scheduler", values="latent_error")
    assert np.allclose(values[theirs], values["euler"], atol=1e-4)


# Measures


def moving(pixels: int, frames: int = 4) -> np.ndarray:
    """A pattern that moves to the right by so many pixels a frame."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 24, 3), np.uint8))
    wide = np.asarray(coarse.resize((192, 96), Image.Resampling.BICUBIC))
    return np.stack([wide[:, 40 - pixels * i : 136 - pixels * i] for i in range(frames)])


def test_motion_is_in_pixels_and_warping_explains_it() -> None:
    still, moved = motion(moving(0)), motion(moving(2))
    assert still == {"motion": pytest.approx(0, abs=1e-6), "warping_error": pytest.approx(0, abs=1e-6)}
    assert moved["motion"] == pytest.approx(2, rel=0.02)
    noisy = np.clip(moving(2) + np.random.default_rng(1).normal(0, 20, moving(2).shape), 0, 255).astype(np.uint8)
    assert moved["warping_error"] < 1 < 15 < motion(noisy)["warping_error"]


def test_frames_too_small_for_a_flow_have_no_motion() -> None:
    assert np.isnan(list(motion(moving(1)[:, :8, :8]).values())).all()
    assert np.isfinite(list(motion(moving(1)[:, :8, :16]).values())).all()


def test_flicker_is_of_the_brightness_and_not_of_a_fade() -> None:
    fade = np.stack([np.full((8, 8, 3), 20 * i, np.uint8) for i in range(5)])
    assert flicker(fade) == pytest.approx(0)
    assert flicker(fade[[0, 1, 0, 1, 0]]) == pytest.approx(40)
    assert np.isnan(flicker(fade[:2]))


def test_a_video_against_itself_and_another() -> None:
    frames = moving(1)
    latents = np.ones((4, 4, 12, 12), np.float32)
    same = measure(frames, latents, frames, latents, frames[0])
    assert (same["latent_error"], same["rmse"], same["ssim"]) == (0, 0, 1)
    assert same["psnr"] == same["first_frame_psnr"] == float("inf")
    darker = measure(frames // 2, 1.5 * latents, frames, latents, frames[0])
    assert darker["latent_error"] == pytest.approx(0.5)
    squares = (frames.astype(float) - frames // 2) ** 2
    assert darker["rmse"] == pytest.approx(np.sqrt(squares.mean()))
    assert darker["psnr"] == pytest.approx(10 * np.log10(255**2 / squares.mean()))
    assert darker["first_frame_psnr"] == pytest.approx(10 * np.log10(255**2 / squares[0].mean()))
    assert 0 < darker["ssim"] < 1


# The command


def test_the_command(images: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["study", "-o", str(out), "--no-report", "--image", images[0], "--scheduler", "euler"]
    arguments += ["--scheduler", "heun", "--budget", "2", "--seed", "0", "--seed", "5", "--model", "tiny-random"]
    arguments += ["--backend", "numpy", "--height", "32", "--width", "32", "--num-frames", "2"]
    result = CliRunner().invoke(cli, [*arguments, "--reference-budget", "4"])
    assert result.exit_code == 0, result.output
    assert "Not separated at 2 evaluations, over 2 blocks" in result.stdout
    assert "6/6 cells, best so far at 2 evaluations: " in result.stderr
    result = CliRunner().invoke(cli, ["study", str(out / "study.toml"), "-o", str(out), "--json"])
    assert json.loads(result.stdout)["cells"] == 4
    assert "heun" in (out / "report.html").read_text(encoding="utf-8")
    result = CliRunner().invoke(cli, [*arguments, "--guidance", "lots"])
    assert result.exit_code == 2
    assert "expected FIRST-LAST" in result.stderr


def test_the_command_when_every_cell_fails(small: Callable[..., Study], register: Any, tmp_path: Path) -> None:
    register(SchedulerPlugin("failing"), "failing (nobody)")
    arguments = ["study", str(study_file(small(schedulers="failing"), tmp_path)), "-o", str(tmp_path / "out")]
    for options in ([], ["--no-report"], ["--no-report", "--quiet"], ["--json"]):
        result = CliRunner().invoke(cli, [*arguments, *options])
        assert result.exit_code == 1, result.output
        assert "1 of 1 cells failed, the first with ZeroDivisionError: the second step is one too many" in result.stderr
        assert not (tmp_path / "out" / "report.html").exists()
    assert json.loads(result.stdout)["failed"] == 1

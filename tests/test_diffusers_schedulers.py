"""Schedulers of diffusers: run as they are by the adapter, and what a checkpoint's configuration of one maps to."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from reference import SCHEDULER, picture

import svdkit
import svdkit.sampling
from svdkit.errors import CheckpointError, InputError, UnknownPluginError
from svdkit.pipeline import StableVideoDiffusionPipeline
from svdkit.scheduler_config import SCHEDULERS, SVD, SchedulerConfig
from svdkit.sigmas import karras
from svdkit.testing.inputs import relative_error
from svdkit_schedulers.from_diffusers import NOISY, FromDiffusers, by_class

SIGMAS = [60.0, 20.0, 7.0, 2.5, 0.8, 0.2, 0.05, 0.0]


def denoise(x: Any, sigma: float) -> Any:
    """An x0 that is not linear, for arrays of any framework."""
    shrunk = x * (1 / (sigma**2 + 1))
    return shrunk - shrunk**3 * 0.05 * sigma / (1 + sigma)


def start(sigma: float, dtype: Any = np.float64) -> Any:
    return (np.random.default_rng(1).standard_normal((2, 3, 4, 4)) * sigma).astype(dtype)


def make(name: str, **options: Any) -> Any:
    """A diffusers scheduler with Stable Video Diffusion's configuration, as far as its class has one."""
    kind = getattr(diffusers, f"{name}Scheduler")
    if name.startswith("EDM"):
        return kind(**{"sigma_max": 700.0, "sigma_data": 1.0, "prediction_type": "v_prediction", **options})
    return kind.from_config({**SCHEDULER, **options})


# The adapter

ALIKE = {
    "EulerDiscrete": "euler",
    "EDMEuler": "euler",
    "HeunDiscrete": "heun",
    "LMSDiscrete": "lms",
    "KDPM2Discrete": "dpm_2",
    "EDMDPMSolverMultistep": "dpmpp_2m",
    "DPMSolverMultistep": "dpmpp_2m",
    "UniPCMultistep": "unipc:order=2",
    "DEISMultistep": "deis:order=2",
}


def adapted(name: str, steps: int = 20, **options: Any) -> tuple[FromDiffusers, tuple[float, ...]]:
    """A scheduler in the adapter, and the levels that it has for so many steps."""
    if name == "DEISMultistep":  # which otherwise ends by a step from its last level to itself
        options["use_karras_sigmas"] = False
    scheduler = FromDiffusers(make(name, **options))
    return scheduler, tuple(scheduler.levels(karras(steps)))


@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon", "sample"])
@pytest.mark.parametrize("name", ALIKE)
def test_theirs_and_ours_agree(name: str, prediction_type: str) -> None:
    """To what rounding leaves of float32, in which they hold their noise levels and weights."""
    if prediction_type == "sample" and name in ("KDPM2Discrete", "EDMEuler", "EDMDPMSolverMultistep"):
        pytest.skip("diffusers has not implemented it")
    scheduler, sigmas = adapted(name, prediction_type=prediction_type)
    x = start(sigmas[0])
    theirs, ours = (
        svdkit.sample(denoise, x, sigmas=sigmas, scheduler=s, to_zero=False) for s in (scheduler, ALIKE[name])
    )
    assert theirs.sigmas == ours.sigmas == sigmas
    assert len(sigmas) == 21
    assert theirs.nfe == ours.nfe
    assert relative_error(theirs.x, ours.x) < 2e-6
    assert theirs.x.dtype == np.float64
    others = {"euler", "heun", "deis:order=2"} - {ALIKE[name]}
    for other in others:
        there = svdkit.sample(denoise, x, sigmas=sigmas, scheduler=other, to_zero=False)
        assert relative_error(there.x, ours.x) > 1e-5, "the bound tells methods apart"


@pytest.mark.parametrize("name", ["EulerAncestralDiscrete", "KDPM2AncestralDiscrete", "EDMDPMSolverMultistep"])
def test_stochastic_ones_with_the_same_noise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {"algorithm_type": "sde-dpmsolver++"} if name.startswith("EDM") else {}
    ours = {"EulerAncestralDiscrete": "euler_ancestral", "KDPM2AncestralDiscrete": "dpm_2_ancestral"}
    scheduler, sigmas = adapted(name, **options)
    module = type(scheduler.scheduler).__module__
    steps = iter(range(100))

    def drawn(step: int, draw: int) -> Any:
        return np.random.default_rng([step, draw]).standard_normal((2, 3, 4, 4))

    monkeypatch.setattr(f"{module}.randn_tensor", lambda *_, **__: torch.from_numpy(drawn(next(steps), 0)))
    theirs, expected = (
        svdkit.sample(denoise, start(sigmas[0]), sigmas=sigmas, scheduler=s, noise=drawn)
        for s in (scheduler, ours.get(name, "dpmpp_2m_sde"))
    )
    assert relative_error(theirs.x, expected.x) < 1e-6


def test_the_noise_of_theirs_follows_the_seed() -> None:
    scheduler, sigmas = adapted("EulerAncestralDiscrete")
    state = torch.random.get_rng_state()

    def run(seed: int) -> Any:
        return svdkit.sample(denoise, start(sigmas[0]), sigmas=sigmas, scheduler=scheduler, seed=seed).x

    first = run(3)
    torch.randn(5)
    assert np.array_equal(run(3), first)
    assert relative_error(run(4), first) > 0.01
    torch.random.set_rng_state(state)
    run(3)
    assert torch.equal(torch.random.get_rng_state(), state), "torch's own noise is left alone"


@pytest.mark.parametrize("name", [name for name in ALIKE if name != "EulerDiscrete"])
def test_deterministic_ones_draw_no_noise(name: str) -> None:
    scheduler, sigmas = adapted(name, steps=4)

    def noise(step: int, draw: int) -> Any:
        raise AssertionError("noise was drawn")

    svdkit.sample(denoise, start(sigmas[0]), sigmas=sigmas, scheduler=scheduler, noise=noise, to_zero=False)


def test_custom_noise_levels_are_honoured_where_the_class_takes_them() -> None:
    scheduler = FromDiffusers(make("EulerDiscrete"))
    for sigmas in (SIGMAS, SIGMAS[:-1]):
        theirs = svdkit.sample(denoise, start(60.0), sigmas=sigmas, scheduler=scheduler, to_zero=False)
        assert theirs.sigmas == tuple(float(np.float32(sigma)) for sigma in sigmas)
        ours = svdkit.sample(denoise, start(60.0), sigmas=sigmas, to_zero=False)
        assert relative_error(theirs.x, ours.x) < 1e-6
    others = FromDiffusers(make("HeunDiscrete"))
    own = svdkit.sample(denoise, start(60.0), sigmas=SIGMAS, scheduler=others).sigmas
    assert own == pytest.approx(karras(7), rel=1e-6), "as many of its own, and the result says so"


def test_a_model_data_scale_of_their_own() -> None:
    """An x0 is an x0, whatever sigma_data they have in mind."""
    scheduler, sigmas = adapted("EDMEuler", sigma_data=0.5)
    theirs, ours = (
        svdkit.sample(denoise, start(sigmas[0]), sigmas=sigmas, scheduler=s).x for s in (scheduler, "euler")
    )
    assert relative_error(theirs, ours) < 1e-6


@pytest.mark.parametrize("name", ALIKE)
def test_runs_do_not_touch_each_other(name: str) -> None:
    """Not interleaved ones, not a run that goes on from another's middle, and not the object handed in."""
    scheduler, sigmas = adapted(name, steps=6)
    before = json.dumps(dict(scheduler.scheduler.config), default=str), scheduler.scheduler.sigmas.clone()

    def run(sigma: float = 1.0, **options: Any) -> Any:
        return svdkit.sample(
            denoise,
            **{"x": start(sigmas[0]) * sigma, "sigmas": sigmas, "scheduler": scheduler, "to_zero": False, **options},
        )

    whole, other = run(), run(sigma=0.9)
    part = run(stop=3)
    other_part = run(sigma=0.9, stop=2)
    for _ in range(2):  # the history that a part handed back can be gone on with again
        rest = run(x=part.x, start=part.step, history=part.history)
        other_rest = run(x=other_part.x, start=other_part.step, history=other_part.history)
        assert np.array_equal(rest.x, whole.x)
        assert np.array_equal(other_rest.x, other.x)
    assert json.dumps(dict(scheduler.scheduler.config), default=str) == before[0]
    assert torch.equal(scheduler.scheduler.sigmas, before[1])


def test_torch_arrays() -> None:
    scheduler = FromDiffusers(make("EulerDiscrete"))
    for dtype in (torch.float32, torch.float64):
        x = torch.from_numpy(start(60.0)).to(dtype)
        found = svdkit.sample(denoise, x, sigmas=SIGMAS, scheduler=scheduler).x
        assert found.dtype == dtype
        assert relative_error(found, svdkit.sample(denoise, start(60.0), sigmas=SIGMAS).x) < 1e-6


@pytest.mark.parametrize("name", ["DDIM", "DDPM", "PNDM", "LCM", "IPNDM"])
def test_classes_without_noise_levels_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}Scheduler cannot be run here: .* no noise levels. There are Euler"):
        FromDiffusers(getattr(diffusers, f"{name}Scheduler")())


def test_what_is_no_scheduler_of_diffusers_is_refused() -> None:
    with pytest.raises(InputError, match="A str cannot be run here"):
        FromDiffusers("euler")
    with pytest.raises(InputError, match="rectified flow"):
        FromDiffusers(make("DPMSolverMultistep", use_flow_sigmas=True, prediction_type="flow_prediction"))


def test_every_class_that_the_adapter_runs_is_tried() -> None:
    tried = {*ALIKE, "EulerAncestralDiscrete", "KDPM2AncestralDiscrete"}
    assert {f"{name}Scheduler" for name in tried} == set(NOISY)


@pytest.fixture(scope="module")
def plain(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("plain")


def video(folder: Path, scheduler: Any = None, **options: Any) -> Any:
    pipe = StableVideoDiffusionPipeline.from_pretrained(folder, backend="numpy", scheduler=scheduler)
    pipe.set_progress_bar_config(disable=True)
    small = {"height": 16, "width": 24, "num_frames": 2, "num_inference_steps": 4, "generator": 7}
    return pipe(picture(), **{**small, "output_type": "latent", "return_dict": True, **options})


@pytest.mark.parametrize("sigmas", [None, (80.0, 9.0, 1.0)])
def test_through_the_pipeline(plain: Path, sigmas: Any) -> None:
    size = {"height": 64, "width": 64}
    theirs = video(plain, FromDiffusers(make("EulerDiscrete")), sigmas=sigmas, **size)
    ours = video(plain, "euler", sigmas=sigmas, **size)
    assert theirs.sigmas == pytest.approx(ours.sigmas, rel=1e-6)
    assert relative_error(theirs.frames, ours.frames) < 1e-4  # 3e-6 is usual: the network enlarges float32's rounding
    assert "EulerDiscreteScheduler" in theirs.scheduler


def test_heun_through_the_pipeline(plain: Path) -> None:
    scheduler = FromDiffusers(make("HeunDiscrete"))
    theirs, ours = (video(plain, s, height=64, width=64) for s in (scheduler, "heun"))
    assert theirs.nfe == ours.nfe == 7
    assert relative_error(theirs.frames, ours.frames) < 1e-4


# A checkpoint's configuration

BETAS = [
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "linear"},
    {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 500},
    {"trained_betas": [0.0001 * 1.01**i for i in range(400)], "num_train_timesteps": 400},
]
KINDS: list[dict[str, Any]] = [
    {"use_karras_sigmas": True},
    {"use_exponential_sigmas": True},
    {"use_beta_sigmas": True},
    {},
]


def configured(scheduler: Any) -> SchedulerConfig:
    """From the JSON that diffusers writes."""
    return SchedulerConfig.from_json(json.loads(scheduler.to_json_string()))


def check_levels(scheduler: Any, steps: int) -> None:
    scheduler.set_timesteps(steps)
    expected = scheduler.sigmas.tolist()
    # diffusers rounds levels to float32 (6e-8), and betas and their products before.
    assert configured(scheduler)(steps) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("steps", [1, 2, 7, 25, 50])
@pytest.mark.parametrize("ends", [(None, None), (0.002, 700.0), (0.01, None), (None, 90.0)])
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("betas", BETAS, ids=lambda betas: next(iter(betas.values())) if len(betas) < 3 else "svd")
def test_noise_levels_of_an_euler_configuration(betas: Any, kind: Any, ends: Any, steps: int) -> None:
    low, high = ends
    options = {**SCHEDULER, "use_karras_sigmas": False, **betas, **kind, "sigma_min": low, "sigma_max": high}
    check_levels(EulerDiscreteScheduler(**options), steps)


@pytest.mark.parametrize("steps", [1, 3, 25, 30])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_noise_levels_by_timesteps(kind: Any, spacing: str, offset: int, steps: int) -> None:
    options = {**SCHEDULER, "use_karras_sigmas": False, **kind, "sigma_min": None, "sigma_max": None}
    check_levels(EulerDiscreteScheduler(**{**options, "timestep_spacing": spacing, "steps_offset": offset}), steps)


@pytest.mark.parametrize("steps", [2, 25])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_log_linear_noise_levels(kind: Any, steps: int) -> None:
    options = {**SCHEDULER, "use_karras_sigmas": False, **kind, "sigma_min": None, "sigma_max": None}
    check_levels(EulerDiscreteScheduler(**{**options, "interpolation_type": "log_linear"}), steps)


def test_a_configuration_of_defaults() -> None:
    """Timesteps and prediction type are of the model, and the one exception."""
    scheduler = EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    check_levels(scheduler, 10)
    scheduler.set_timesteps(10)
    told = SchedulerConfig.from_json({"_class_name": "EulerDiscreteScheduler"})
    assert told(10) == pytest.approx(scheduler.sigmas.tolist(), rel=2e-6)
    assert SVD(10) == karras(10)


@pytest.mark.parametrize("kind", ["karras", "exponential"])
@pytest.mark.parametrize("name", ["EDMEuler", "EDMDPMSolverMultistep"])
def test_noise_levels_of_edm(name: str, kind: str) -> None:
    check_levels(make(name, sigma_schedule=kind, sigma_max=90.0, rho=5.0), 12)


@pytest.mark.parametrize("name", ["HeunDiscrete", "KDPM2Discrete", "DPMSolverMultistep", "UniPCMultistep"])
def test_noise_levels_of_other_classes_with_this_configuration(name: str) -> None:
    """Of those that keep to it: in diffusers, Euler's ancestral form and LMS go by their betas whatever it says."""
    scheduler = FromDiffusers(make(name))
    levels = scheduler.levels(karras(9))
    assert configured(scheduler.scheduler)(9) == pytest.approx(levels, rel=2e-6)


def test_ending_at_the_least_noise_of_training() -> None:
    """Their last step is from that level to itself where the one before reaches it: it is left out."""
    options = {**SCHEDULER, "use_karras_sigmas": False, "final_sigmas_type": "sigma_min", "steps_offset": 0}
    scheduler = EulerDiscreteScheduler(**{**options, "timestep_spacing": "leading"})
    scheduler.set_timesteps(10)
    expected = scheduler.sigmas.tolist()
    assert expected[-1] == expected[-2] > 0
    assert configured(scheduler)(10) == pytest.approx(expected[:-1], rel=2e-6)
    assert not configured(scheduler).to_zero
    check_levels(EulerDiscreteScheduler(**{**options, "timestep_spacing": "leading", "steps_offset": 1}), 10)
    up = configured(EulerDiscreteScheduler(**{**SCHEDULER, "final_sigmas_type": "sigma_min"}))
    with pytest.raises(CheckpointError, match=r"going up from 0.002 to 0.0291\d*, .* Pass `sigmas`"):
        up(10)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"prediction_type": "epsilon"}, "prediction_type 'epsilon'"),
        ({"timestep_type": "discrete"}, "timestep_type 'discrete'"),
        ({"sigma_data": 0.5}, "sigma_data 0.5"),
        ({"use_karras_sigmas": False, "rescale_betas_zero_snr": True}, "rescale_betas_zero_snr True"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas True"),
        ({"use_lu_lambdas": True}, "use_lu_lambdas True"),
        ({"timestep_spacing": "odd"}, "timestep_spacing 'odd', expected 'linspace' or 'leading' or 'trailing'"),
        ({"final_sigmas_type": "one"}, "final_sigmas_type 'one'"),
        ({"beta_schedule": "exp"}, "beta_schedule 'exp'"),
    ],
    ids=str,
)
def test_noise_levels_of_another_kind_of_model(values: Any, message: str) -> None:
    config = SchedulerConfig.from_json({**SCHEDULER, "_class_name": "EulerDiscreteScheduler", **values})
    with pytest.raises(CheckpointError, match=f"{message}.*Pass `sigmas`"):
        config(5)


@pytest.mark.parametrize("options", [{"use_beta_sigmas": True}, {"beta_schedule": "nope"}])
def test_what_diffusers_refuses(options: Any) -> None:
    with pytest.raises(InputError, match="HeunDiscreteScheduler of diffusers refuses its options"):
        by_class("HeunDiscreteScheduler", options, SCHEDULER)


@pytest.mark.parametrize("values", [{"num_train_timesteps": "1000"}, {"steps_offset": 0.5}, {"solver_order": 0}])
def test_settings_that_are_no_whole_numbers(values: Any) -> None:
    with pytest.raises(CheckpointError, match=next(iter(values))):
        SchedulerConfig.from_json({**SCHEDULER, **values})


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("EulerDiscrete", {}, "euler"),
        ("EulerAncestralDiscrete", {}, "euler_ancestral"),
        ("HeunDiscrete", {}, "heun"),
        ("LMSDiscrete", {}, "lms"),
        ("KDPM2Discrete", {}, "dpm_2"),
        ("KDPM2AncestralDiscrete", {}, "dpm_2_ancestral"),
        ("EDMEuler", {}, "euler"),
        ("DDIM", {}, "ddim"),
        ("IPNDM", {}, "ipndm"),
        ("LCM", {}, "lcm"),
        ("DEISMultistep", {"solver_order": 3}, "deis:order=3"),
        ("UniPCMultistep", {}, "unipc:order=2,variant=bh2"),
        ("UniPCMultistep", {"solver_order": 3, "solver_type": "bh1"}, "unipc:order=3,variant=bh1"),
        *(
            (name, options, expected)
            for name in ("DPMSolverMultistep", "EDMDPMSolverMultistep")
            for options, expected in (
                ({}, "dpmpp_2m"),
                ({"solver_order": 1}, "euler"),
                ({"solver_type": "heun"}, "dpmpp_2m_sde:eta=0,solver_type=heun"),
                ({"solver_order": 3}, "dpmpp_3m_sde:eta=0"),
                ({"algorithm_type": "sde-dpmsolver++"}, "dpmpp_2m_sde:eta=1,solver_type=midpoint"),
                ({"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}, "dpmpp_2m_sde:eta=1,solver_type=heun"),
                ({"algorithm_type": "sde-dpmsolver++", "solver_order": 1}, "euler_ancestral"),
            )
        ),
    ],
    ids=str,
)
def test_the_scheduler_that_a_class_stands_for(name: str, options: Any, expected: str) -> None:
    config = configured(make(name, **options))
    assert config.scheduler == expected
    solver = svdkit.sampling.get_scheduler(config.scheduler)
    if f"{name}Scheduler" not in NOISY:
        return
    # It is what diffusers computes, where that is deterministic.
    theirs, sigmas = adapted(name, **options)
    if "sde" in options.get("algorithm_type", "") or "Ancestral" in name or options.get("solver_order") == 3:
        return
    runs = [
        svdkit.sample(denoise, start(sigmas[0]), sigmas=sigmas, scheduler=s, to_zero=False) for s in (theirs, solver)
    ]
    assert relative_error(runs[0].x, runs[1].x) < 2e-6


def test_the_sde_solver_of_torchsde_by_name() -> None:
    """Making one asks for torchsde, so its configuration is written by hand."""
    assert SchedulerConfig.from_json({"_class_name": "DPMSolverSDEScheduler"}).scheduler == "dpmpp_sde"
    assert set(SCHEDULERS) >= {*NOISY, "DPMSolverSDEScheduler"}


@pytest.mark.parametrize(
    "values",
    [
        {"_class_name": "RePaintScheduler"},
        {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "dpmsolver"},
        {"_class_name": "DPMSolverMultistepScheduler", "solver_order": 4},
        {"_class_name": "UniPCMultistepScheduler", "predict_x0": False},
    ],
    ids=str,
)
def test_schedulers_that_none_here_stands_for(values: Any) -> None:
    with pytest.raises(CheckpointError, match=f"scheduler is '{values['_class_name']}'.*scheduler='euler'"):
        _ = SchedulerConfig.from_json(values).scheduler


# Keys of svdkit's own


def copied(plain: Path, folder: Path, **values: Any) -> Path:
    copy = Path(shutil.copytree(plain, folder / "copy"))
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return copy


def test_a_scheduler_and_a_schedule_by_name(plain: Path, tmp_path: Path) -> None:
    copy = copied(plain, tmp_path, svdkit_scheduler="dpmpp_2m_sde:eta=0.5,s_noise=0.9", svdkit_sigmas="karras:rho=5")
    made = video(copy)
    assert "DPMpp2MSDE(eta=0.5, s_noise=0.9" in made.scheduler
    assert made.sigmas == tuple(svdkit.sigma_schedule("karras:rho=5", 4))
    expected = video(plain, "dpmpp_2m_sde:eta=0.5,s_noise=0.9", sigmas="karras:rho=5")
    assert np.array_equal(made.frames, expected.frames)
    chosen = video(copy, "euler", sigmas=[14.0, 1.0])
    assert chosen.sigmas == (14.0, 1.0, 0.0), "what the caller says comes first"
    assert "Euler" in chosen.scheduler
    read = EulerDiscreteScheduler.from_pretrained(copy, subfolder="scheduler")
    read.set_timesteps(4)
    assert read.sigmas.tolist() == pytest.approx(karras(4), rel=1e-6), "diffusers goes on as before"


def test_a_list_of_noise_levels(plain: Path, tmp_path: Path) -> None:
    copy = copied(plain, tmp_path, svdkit_scheduler="lcm", svdkit_sigmas=[300, 20.5, 1])
    assert video(copy).sigmas == (300.0, 20.5, 1.0, 0.0), "not those that lcm prefers"


def test_another_class_in_the_checkpoint(plain: Path, tmp_path: Path) -> None:
    copy = copied(plain, tmp_path, _class_name="HeunDiscreteScheduler")
    made = video(copy)
    assert (made.scheduler, made.nfe) == ("Heun()", 7)


def test_a_checkpoint_that_does_not_end_at_zero(plain: Path, tmp_path: Path) -> None:
    values = {"final_sigmas_type": "sigma_min", "sigma_min": 0.5, "_class_name": "EDMEulerScheduler", "sigma_data": 1}
    made = video(copied(plain, tmp_path, **values))
    assert made.sigmas == pytest.approx(karras(4, 0.5)[:-1])
    assert made.nfe == 3


def test_a_schedule_of_the_callers_ends_where_the_call_says(plain: Path) -> None:
    pipe = StableVideoDiffusionPipeline.from_pretrained(plain, backend="numpy")
    pipe.sigma_schedule = lambda steps: [9.0, 1.0]
    pipe.set_progress_bar_config(disable=True)
    small = {"height": 16, "width": 16, "num_frames": 1, "output_type": "latent", "return_dict": True}
    assert pipe(picture(), to_zero=False, **small).sigmas == (9.0, 1.0)
    assert pipe(picture(), **small).sigmas == (9.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"svdkit_scheduler": "eular"}, UnknownPluginError, "no scheduler 'eular'"),
        ({"svdkit_scheduler": "euler_ancestral:eta=-1"}, InputError, "does not take eta=-1"),
        ({"svdkit_scheduler": 7}, CheckpointError, "svdkit_scheduler is 7, expected a name"),
        ({"svdkit_sigmas": [1, 2]}, CheckpointError, r"svdkit_sigmas\[1\] is 2, which is not below"),
        ({"svdkit_sigmas": 7}, CheckpointError, "svdkit_sigmas is 7, expected a list"),
        ({"use_beta_sigmas": True}, CheckpointError, "more than one of use_karras_sigmas, use_exp"),
    ],
    ids=str,
)
def test_keys_that_cannot_be_used(plain: Path, tmp_path: Path, values: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        StableVideoDiffusionPipeline.from_pretrained(copied(plain, tmp_path, **values), backend="numpy")


def test_a_schedule_that_is_not_known(plain: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownPluginError, match="no sigma schedule 'karas'"):
        video(copied(plain, tmp_path, svdkit_sigmas="karas"))

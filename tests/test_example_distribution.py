"""The distribution under examples/, as its users meet it: built, installed in a fresh environment, used by name.

It is also the tutorial, whose code, prompts and commands are checked to be the example's and to do what it says.
"""

from __future__ import annotations

import importlib
import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from example_environment import EXAMPLES, ROOT, Environment, blocks, make_environment

import svdkit

NAME = "svdkit-example-scheduler"
EXAMPLE = EXAMPLES / NAME
TUTORIAL = (ROOT / "docs" / "write-a-scheduler.md").read_text(encoding="utf-8")
ORIGIN = f"example-scheduler ({NAME})"
SMALL = ["-m", "tiny-random", "-b", "numpy", "--steps", "2", "--height", "64", "--width", "64", "--num-frames", "2"]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("example"), NAME)


# The wheels


def test_svdkit_s_wheel(environment: Environment) -> None:
    info = f"svdkit-{svdkit.__version__}.dist-info"
    with zipfile.ZipFile(environment.wheels["svdkit"]) as wheel:
        names = wheel.namelist()
        points = wheel.read(f"{info}/entry_points.txt").decode()
    tops = {name.partition("/")[0] for name in names}
    packages = {"svdkit", "svdkit_loops", "svdkit_numpy", "svdkit_mindspore", "svdkit_torch", "svdkit_schedulers"}
    assert tops == packages | {info}
    assert {"svdkit/py.typed", "svdkit/assets/photo.jpg", "svdkit/assets/boat.png"} <= set(names)
    for name in ("tiny", "tiny-random"):
        shipped = ROOT / "svdkit" / "models" / name
        model = {path.relative_to(ROOT).as_posix() for path in shipped.rglob("*") if path.is_file()}
        assert len(model) >= 8
        assert model <= set(names)
    assert all(f"svdkit_{name}.plugin" in points for name in ("numpy", "mindspore", "torch", "schedulers"))


def test_the_example_s_wheel(environment: Environment) -> None:
    with zipfile.ZipFile(environment.wheels[NAME]) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
        metadata = wheel.read("svdkit_example_scheduler-0.1.0.dist-info/METADATA").decode()
    files = ("__init__.py", "lognormal.py", "plugin.py", "py.typed", "rk2.py")
    assert sorted(names) == [f"svdkit_example_scheduler/{file}" for file in files]
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert needed == ["Requires-Dist: attrs<27,>=24.2", "Requires-Dist: svdkit<0.2,>=0.1"]


# Where both are installed


def test_the_environment_is_a_fresh_one(environment: Environment) -> None:
    code = """
import importlib.util as u, json, svdkit, svdkit_example_scheduler as e
print(json.dumps([svdkit.__file__, e.__file__, [n for n in ("mindspore", "torch", "diffusers") if u.find_spec(n)]]))
"""
    *files, frameworks = environment.python(code)
    assert all(Path(file).is_relative_to(environment.root / "env") for file in files)
    assert frameworks == []


def test_listed_with_its_origin(environment: Environment) -> None:
    for listing, name in (("schedulers", "rk2"), ("sigma-schedules", "lognormal")):
        infos = {info["name"]: info for info in json.loads(environment.run("svdkit", listing, "--json").stdout)}
        assert infos[name]["origin"] == ORIGIN
        assert infos[name]["available"]
        assert infos["euler" if name == "rk2" else "karras"]["origin"] == "schedulers (svdkit)"


def test_listing_imports_neither(environment: Environment) -> None:
    code = """
import json, sys, svdkit
svdkit.list_schedulers(), svdkit.list_sigma_schedules()
print(json.dumps(sorted(name for name in sys.modules if name.startswith("svdkit_example_scheduler."))))
"""
    assert environment.python(code) == ["svdkit_example_scheduler.plugin"]


def test_by_name_from_python(environment: Environment) -> None:
    code = """
import json, math, numpy, svdkit
errors = {}
for scheduler in ("rk2", "rk2:alpha=0.25", "rk2:alpha=1", "heun"):
    for steps in (32, 64):
        sigmas = svdkit.sigma_schedule("karras", steps + 1, sigma_min=0.5, sigma_max=8.0)[:-1]
        x = numpy.ones(3)
        x = svdkit.sample(lambda x, s: x / (1 + s * s), x, sigmas=sigmas, scheduler=scheduler, to_zero=False).x
        errors.setdefault(scheduler, []).append(float(abs(x - math.sqrt(1.25 / 65)).max()))
print(json.dumps([errors, svdkit.sigma_schedule("lognormal", 10), svdkit.sigma_schedule("lognormal:std=1", 10)]))
"""
    errors, levels, narrow = environment.python(code)
    for scheduler, (coarse, fine) in errors.items():
        assert coarse < 1e-3, scheduler
        assert 3.5 < coarse / fine < 4.5, scheduler
    assert errors["rk2:alpha=1"] == pytest.approx(errors["heun"], rel=1e-6)
    assert errors["rk2"][0] != pytest.approx(errors["rk2:alpha=0.25"][0], rel=0.1)  # the option does something
    for sigmas in (levels, narrow):
        assert (len(sigmas), sigmas[0], sigmas[-2], sigmas[-1]) == (11, 700, 0.002, 0)
        assert (np.diff(sigmas) < 0).all()
    assert levels[1] > narrow[1]


def test_by_name_from_the_command_line(environment: Environment) -> None:
    def made(*options: str) -> tuple[dict[str, Any], bytes]:
        photo, out = ("generate", "photo.jpg", *SMALL, "--seed", "3"), environment.folder / "x.gif"
        done = environment.run("svdkit", *photo, *options, "-o", out, "--quiet", "--json")
        return json.loads(done.stdout), out.read_bytes()

    facts, video = made("--scheduler", "rk2", "--sigmas", "lognormal")
    assert video.startswith(b"GIF8")
    assert facts["sigmas"] == [700, 0.002, 0]
    assert facts["scheduler"].startswith("RK2(alpha=0.666")
    assert facts["nfe"] == 3
    facts, other = made("--scheduler", "rk2:alpha=0.5", "--sigmas", "lognormal:sigma_max=80,sigma_min=1")
    assert (facts["sigmas"], facts["scheduler"]) == ([80, 1, 0], "RK2(alpha=0.5)")
    assert other != video


def test_a_misspelt_name_and_a_wrong_option(environment: Environment) -> None:
    photo = ("svdkit", "generate", "photo.jpg", *SMALL, "-o", "never.gif")
    for options, text in (
        (("--scheduler", "rk_2"), "There is no scheduler 'rk_2'. Did you mean 'rk2'?"),
        (("--sigmas", "log_normal"), "There is no sigma schedule 'log_normal'. Did you mean 'lognormal'"),
        (("--scheduler", "rk2:alpha=2"), "'alpha' must be <= 1: 2.0. It takes alpha=0.66"),
        (("--sigmas", "lognormal:std=0"), "std is 0, expected a positive number. It takes sigma_min=0.002"),
    ):
        assert text in environment.run(*photo, *options, status=2).stderr
    assert not (environment.folder / "never.gif").exists()


@pytest.fixture
def without_the_example(environment: Environment) -> Iterator[Environment]:
    environment.pip("uninstall", "--yes", NAME)
    yield environment
    environment.pip("install", "--no-compile", "--no-deps", environment.wheels[NAME])


def test_uninstalled_its_names_are_gone(without_the_example: Environment) -> None:
    code = """
import json, svdkit, svdkit.errors
errors = []
for ask in (
    lambda: svdkit.sample(lambda x, s: x, 0.0, sigmas=[2.0, 1.0], scheduler="rk2"),
    lambda: svdkit.sample(lambda x, s: x, 0.0, sigmas=[2.0, 1.0], scheduler="rk_2"),
    lambda: svdkit.sigma_schedule("lognormal", 10),
):
    try:
        ask()
    except svdkit.errors.UnknownPluginError as error:
        errors.append(str(error))
names = [info.name for info in svdkit.list_schedulers() + svdkit.list_sigma_schedules()]
print(json.dumps([errors, names]))
"""
    done = without_the_example.run("python", "-c", code)
    (gone, misspelt, levels), names = json.loads(done.stdout)
    assert gone.startswith("There is no scheduler 'rk2'. Known: ")
    assert "'rk2'" not in misspelt
    assert "heun" in misspelt
    assert levels.startswith("There is no sigma schedule 'lognormal'. Did you mean 'uniform' or 'sgm_uniform'? Known: ")
    assert not {"rk2", "lognormal"} & set(names)
    assert {"euler", "karras"} <= set(names)
    assert done.stderr == ""  # no broken plugin is left behind
    photo = ("svdkit", "generate", "photo.jpg", *SMALL, "-o", "never.gif", "--scheduler", "rk2")
    assert "There is no scheduler 'rk2'" in without_the_example.run(*photo, status=2).stderr


# The class on other arrays


@pytest.mark.parametrize("framework", ["torch", "mindspore"])
def test_other_frameworks_arrays(framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(framework)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    scheduler = importlib.import_module("svdkit_example_scheduler.rk2").RK2(0.5)
    x = np.linspace(-80, 80, 6, dtype=np.float32).reshape(2, 3)
    module = importlib.import_module(framework)
    theirs = module.from_numpy(x.copy()) if framework == "torch" else module.Tensor(x)

    def run(x: Any) -> Any:
        return svdkit.sample(lambda x, s: x / (1 + s**2), x, sigmas=[80, 9, 1, 0.1], scheduler=scheduler)

    result = run(theirs)
    assert type(result.x) is type(theirs)
    values = result.x.numpy() if framework == "torch" else result.x.asnumpy()
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, run(x).x, rtol=1e-5)


# The tutorial


def section(title: str) -> str:
    return TUTORIAL.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_tutorial_s_code_is_the_example_s() -> None:
    files = [path.read_text(encoding="utf-8") for path in EXAMPLE.rglob("*.py")]
    elsewhere = [code for code in blocks(TUTORIAL, "python") if not any(code in file for file in files)]
    assert elsewhere == [*blocks(section("Noise"), "python"), *blocks(section("History"), "python")]
    (toml,) = blocks(TUTORIAL, "toml")
    assert toml in (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    # Who types it all has the whole of the package, but for the first lines of the levels.
    rk2, levels, plugin = (
        (EXAMPLE / "svdkit_example_scheduler" / file).read_text(encoding="utf-8")
        for file in ("rk2.py", "lognormal.py", "plugin.py")
    )
    assert {rk2, plugin, levels.partition("annotations\n\n")[2]} <= set(blocks(TUTORIAL, "python"))


def test_the_tutorial_s_files_exist() -> None:
    (tree,) = blocks(TUTORIAL, "")
    named = {line.split()[0] for line in tree.splitlines()[1:]}
    kinds = (".py", ".toml", ".md")
    assert {name for name in named if name.endswith(kinds)} == {p.name for p in EXAMPLE.rglob("*") if p.suffix in kinds}
    assert {name for name in named if name.endswith("/")} == {"svdkit_example_scheduler/", "tests/"}
    for link in re.findall(r"\]\((\.\./[^)#]+)\)", TUTORIAL):
        assert (ROOT / "docs" / link).exists()


def test_the_tutorial_s_python_prompt(environment: Environment) -> None:
    prompt = environment.root / "prompt.txt"
    prompt.write_text("\n\n".join(blocks(TUTORIAL, "pycon")), encoding="utf-8")
    assert prompt.read_text(encoding="utf-8").count(">>> ") > 10
    environment.run("python", "-m", "doctest", prompt, cwd=environment.source)


def test_the_tutorial_s_commands(environment: Environment) -> None:
    """Those that install are the fixture's, in other words; the others are run, and print what the tutorial shows."""
    assert blocks(TUTORIAL, "sh") == ["pip install 'svdkit[numpy]'\n", "pip install -e '.[test]'\n"]

    def without_seconds(text: str) -> str:
        return re.sub(r"\d+\.\d+( ?s\b)", r"0.0\1", text)

    assert len(blocks(TUTORIAL, "console")) == 4
    for block in blocks(TUTORIAL, "console"):
        command, _, shown = block.removeprefix("$ ").partition("\n")
        printed = environment.run("sh", "-c", command, cwd=environment.source).stdout
        assert without_seconds(printed).split() == without_seconds(shown).split()


def class_of(title: str) -> Any:
    """The class that a section of the tutorial shows."""
    names: dict[str, Any] = {}
    (code,) = blocks(section(title), "python")
    exec(code, names)
    return next(value for key, value in names.items() if isinstance(value, type) and key[0].isupper())


def shown(title: str, svdkits: str, **options: Any) -> tuple[Any, Any, Any]:
    """The scheduler of a section, its result, and that of svdkit's on the same problem."""
    scheduler = class_of(title)(**options)
    sigmas = svdkit.sigma_schedule("karras", 20, sigma_max=80.0)
    x = np.random.default_rng(0).standard_normal((3, 4)) * 80
    problem: dict[str, Any] = {"denoise": lambda x, s: np.tanh(x / (1 + s**2)), "x": x, "sigmas": sigmas, "seed": 5}
    ours, theirs = (svdkit.sample(**problem, scheduler=s) for s in (scheduler, svdkits))
    assert np.ptp(ours.x) > 0.1
    return (scheduler, problem), ours, theirs


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_the_tutorial_s_noise(eta: float) -> None:
    _, ours, theirs = shown("Noise", f"euler_ancestral:eta={eta}", eta=eta)
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-9)
    assert (np.abs(ours.x - shown("Noise", "euler")[2].x).max() > 1e-3) == (eta > 0)


def test_the_tutorial_s_history() -> None:
    (scheduler, problem), ours, theirs = shown("History", "lms:order=2")
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-9)
    assert not math.isclose(ours.x.sum(), shown("History", "euler")[2].x.sum(), rel_tol=1e-6)
    part = svdkit.sample(**problem, scheduler=scheduler, stop=7)
    rest = svdkit.sample(**{**problem, "x": part.x}, scheduler=scheduler, start=part.step, history=part.history)
    np.testing.assert_array_equal(rest.x, ours.x)

"""The JAX backend under examples/, as its users meet it: built, installed in a fresh environment, used by name.

It is also the tutorial, whose code, prompts and commands are checked to be the example's and to do what it says.
JAX compiles for every shape anew, which takes most of the time here. So of the conformance suite only the tutorial's
first command is run, kernels in float32; `python -m pytest` in the example's folder runs it all.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator

import pytest
from example_environment import EXAMPLES, ROOT, Environment, blocks, make_environment

NAME = "svdkit-jax"
EXAMPLE = EXAMPLES / NAME
TUTORIAL = (ROOT / "docs" / "write-a-backend.md").read_text(encoding="utf-8")
SMALL = ["-m", "tiny-random", "-b", "jax", "--steps", "2", "--height", "64", "--width", "64", "--num-frames", "2"]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """JAX comes from pip's cache: 5 s of the 15 s that the whole takes."""
    made = make_environment(tmp_path_factory.mktemp("jax"), NAME)
    made.pip("install", "--no-compile", "-c", ROOT / "constraints.txt", "hypothesis")  # the rest of svdkit[testing]
    return made


@pytest.fixture(autouse=True)
def compile_once(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes share what was compiled, without optimisation, which takes half of the time: the runs are short."""
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(environment.root / "cache"))
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")


# The wheel


def test_the_wheel(environment: Environment) -> None:
    with zipfile.ZipFile(environment.wheels[NAME]) as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
        metadata = wheel.read("svdkit_jax-0.1.0.dist-info/METADATA").decode()
    assert sorted(names) == [f"svdkit_jax/{file}" for file in ("__init__.py", "backend.py", "plugin.py", "py.typed")]
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    assert needed == [
        "Requires-Dist: jax<0.8,>=0.6",
        "Requires-Dist: numpy<3,>=1.26",
        "Requires-Dist: svdkit<0.2,>=0.1",
    ]


def test_it_is_one_small_file() -> None:
    assert len((EXAMPLE / "svdkit_jax" / "backend.py").read_text(encoding="utf-8").splitlines()) < 200


# Where it is installed


def test_listed_without_being_imported(environment: Environment) -> None:
    code = """
import json, sys, svdkit
infos = {info.name: [info.origin, info.available] for info in svdkit.list_backends()}
print(json.dumps([infos["jax"], sorted({"jax", "svdkit_jax.backend", "mindspore", "torch"} & set(sys.modules))]))
"""
    assert environment.python(code) == [["jax (svdkit-jax)", True], []]


def test_by_name_from_python(environment: Environment) -> None:
    """The same frames as NumPy's, eager and compiled; 1.1e-5 measured, of values from 0 to 1."""
    code = """
import json, numpy, svdkit

def frames(backend, **options):
    made = svdkit.generate("photo.jpg", model="tiny-random", backend=backend, height=64, width=64, num_frames=2,
                           num_inference_steps=2, seed=3, output_type="np", **options)
    return made.frames

expected = frames("numpy")
errors = [abs(frames("jax", **options) - expected).max() for options in ({}, {"compile": True})]
print(json.dumps([float(error) for error in errors + [numpy.ptp(expected)]]))
"""
    eager, compiled, spread = environment.python(code)
    assert spread > 0.1
    assert max(eager, compiled) < 1e-4


def test_by_name_from_the_command_line(environment: Environment) -> None:
    done = environment.run("svdkit", "generate", "photo.jpg", *SMALL, "-o", "x.gif", "--quiet", "--json")
    facts = json.loads(done.stdout)
    assert (facts["backend"], facts["device"], facts["dtype"]) == ("jax", "cpu", "float32")
    assert (environment.folder / "x.gif").read_bytes().startswith(b"GIF8")


def test_a_device_that_is_not_there(environment: Environment) -> None:
    photo = ("svdkit", "generate", "photo.jpg", *SMALL, "-o", "never.gif")
    for device, text in (
        ("cpu:7", "JAX finds no device 'cpu:7' here; it finds cpu:0"),
        ("tpu", "JAX finds no device 'tpu' here"),
        ("cpu:one", "Backend 'jax' has no device 'cpu:one'"),
        ("npu", "Backend 'jax' has no device 'npu'; it has cpu, gpu, cuda, tpu."),
    ):
        assert text in environment.run(*photo, "--device", device, status=2).stderr
    assert not (environment.folder / "never.gif").exists()


def test_its_own_tests(environment: Environment) -> None:
    *_, suite = blocks(TUTORIAL, "sh")
    assert suite.startswith("python -m pytest ")
    for command, least in ((suite, 50), ("python -m pytest -q tests/test_pieces.py tests/test_gradients.py", 5)):
        (passed,) = re.findall(r"(\d+) passed", environment.run("sh", "-c", command, cwd=environment.source).stdout)
        assert int(passed) >= least


@pytest.fixture
def without_the_example(environment: Environment) -> Iterator[Environment]:
    environment.pip("uninstall", "--yes", NAME)
    yield environment
    environment.pip("install", "--no-compile", "--no-deps", environment.wheels[NAME])


def test_uninstalled_its_name_is_gone(without_the_example: Environment) -> None:
    done = without_the_example.run("svdkit", "backends", "--json")
    assert "jax" not in {info["name"] for info in json.loads(done.stdout)}
    assert done.stderr == ""  # no broken plugin is left behind
    photo = ("svdkit", "generate", "photo.jpg", *SMALL, "-o", "never.gif")
    assert "There is no backend 'jax'." in without_the_example.run(*photo, status=2).stderr


# The tutorial


def test_the_tutorial_s_code_is_the_example_s() -> None:
    """Who types it all has the whole backend, and all else that is needed to use and to test it."""
    files = [path.read_text(encoding="utf-8") for path in EXAMPLE.rglob("*.py")]
    assert [code for code in blocks(TUTORIAL, "python") if not any(code in file for file in files)] == []
    (toml,) = blocks(TUTORIAL, "toml")
    assert toml in (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    rest = (EXAMPLE / "svdkit_jax" / "backend.py").read_text(encoding="utf-8")
    for code in blocks(TUTORIAL, "python"):
        rest = rest.replace(code, "")
    assert rest.strip() == ""
    for file in ("conftest.py", "test_conformance.py"):
        assert (EXAMPLE / "tests" / file).read_text(encoding="utf-8") in blocks(TUTORIAL, "python")
    plugin = (EXAMPLE / "svdkit_jax" / "plugin.py").read_text(encoding="utf-8")
    assert plugin.partition("annotations\n\n")[2] in blocks(TUTORIAL, "python")


def test_the_tutorial_s_files_exist() -> None:
    (tree,) = blocks(TUTORIAL, "")
    named = {line.split()[0] for line in tree.splitlines()[1:]}
    kinds = (".py", ".toml", ".md")
    assert {name for name in named if name.endswith(kinds)} == {p.name for p in EXAMPLE.rglob("*") if p.suffix in kinds}
    for link in re.findall(r"\]\((\.\./[^)#]+)\)", TUTORIAL):
        assert (ROOT / "docs" / link).exists()


def test_the_tutorial_s_python_prompt(environment: Environment) -> None:
    prompt = environment.root / "prompt.txt"
    prompt.write_text("\n\n".join(blocks(TUTORIAL, "pycon")), encoding="utf-8")
    assert prompt.read_text(encoding="utf-8").count(">>> ") > 10
    environment.run("python", "-m", "doctest", prompt, cwd=environment.source)


def test_the_tutorial_s_commands(environment: Environment) -> None:
    """Those that install are the fixture's, in other words; the last is run above; the others print what it shows."""
    installs = blocks(TUTORIAL, "sh")[:-1]
    assert installs == ["pip install 'svdkit[testing]'\n", "pip install -e '.[test]'\n"]

    def without_seconds(text: str) -> str:
        return re.sub(r"\d+\.\d+( ?s\b)", r"0.0\1", text)

    assert len(blocks(TUTORIAL, "console")) == 2
    for block in blocks(TUTORIAL, "console"):
        command, _, shown = block.removeprefix("$ ").partition("\n")
        printed = environment.run("sh", "-c", command, cwd=environment.source).stdout
        assert without_seconds(printed).split() == without_seconds(shown).split()

"""The component under examples/svdkit-onnx as its users meet it: installed beside svdkit, used, refused, removed."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from example_environment import ROOT, Environment, make_environment

from svdkit.testing.inputs import relative_error

NAME = "svdkit-onnx"
VIDEO = ["photo.jpg", "-m", "tiny-random", "--steps", "2", "--height", "64", "--width", "64", "--num-frames", "2"]
GENERATE = ["svdkit", "generate", *VIDEO, "-b", "numpy", "--seed", "3", "--quiet", "--json"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make_environment(tmp_path_factory.mktemp("onnx"), NAME)


@pytest.fixture
def without_onnxruntime(environment: Environment) -> Iterator[Environment]:
    """As where the plugin was installed without its dependencies; hidden, since installing it again takes long."""
    (package,) = (environment.root / "env" / "lib").glob("python*/site-packages/onnxruntime")
    hidden = package.rename(package.with_name("hidden-onnxruntime"))
    yield environment
    hidden.rename(package)


@pytest.fixture
def without_the_example(environment: Environment) -> Iterator[Environment]:
    environment.pip("uninstall", "--yes", NAME)
    yield environment
    environment.pip("install", "--no-compile", "--no-deps", environment.wheels[NAME])


def unets(environment: Environment, *components: dict[str, str] | None, **options: Any) -> list[list[str]]:
    """The module and the name of each pipeline's UNet, or the name and the text of the error that loading raised."""
    code = f"""
import json, svdkit
found = []
for components in {components!r}:
    try:
        pipe = svdkit.StableVideoDiffusionPipeline.from_pretrained(
            "tiny-random", backend="numpy", components=components, **{options!r}
        )
        found.append([type(pipe.unet).__module__, type(pipe.unet).__name__])
    except svdkit.errors.SvdkitError as error:
        found.append([type(error).__name__, str(error)])
print(json.dumps(found))
"""
    found: list[list[str]] = environment.python(code)
    return found


def frames(environment: Environment, *components: dict[str, str] | None) -> list[Any]:
    """Frames of a short generation with each."""
    code = f"""
import json, svdkit
call = dict(height=128, width=192, num_frames=3, num_inference_steps=2, generator=5, output_type="np", progress=False)
call |= dict(model="tiny-random", backend="numpy")
print(json.dumps([svdkit.generate("photo.jpg", components=c, **call).frames.tolist() for c in {components!r}]))
"""
    return [np.array(made) for made in environment.python(code)]


def test_the_wheel(environment: Environment) -> None:
    with zipfile.ZipFile(environment.wheels[NAME]) as wheel:
        names = sorted(name for name in wheel.namelist() if ".dist-info/" not in name)
        metadata = wheel.read("svdkit_onnx-0.1.0.dist-info/METADATA").decode()
    files = ("__init__.py", "backend.py", "formula.py", "graph.py", "plugin.py", "py.typed", "unet.py")
    assert names == [f"svdkit_onnx/{file}" for file in files]
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line]
    names = sorted(re.split(r"[<> ]", line)[1] for line in needed)
    assert names == ["attrs", "numpy", "onnx", "onnxruntime", "svdkit[numpy]"]
    assert all("<2" in line for line in needed if "onnx" in line)


def test_the_environment_is_a_fresh_one(environment: Environment) -> None:
    code = """
import importlib.util as u, json, svdkit, svdkit_onnx as e
print(json.dumps([svdkit.__file__, e.__file__, [n for n in ("mindspore", "torch", "jax") if u.find_spec(n)]]))
"""
    *files, frameworks = environment.python(code)
    assert all(file.startswith(str(environment.root / "env")) for file in files)
    assert frameworks == []


def test_listing_imports_nothing(environment: Environment) -> None:
    code = """
import json, sys
from svdkit.plugins import registry
(info,) = registry().infos("component")
imported = sorted({name.split(".")[0] for name in sys.modules if "onnx" in name} - {"svdkit_onnx"})
print(json.dumps([info.name, info.available, info.origin, imported, "svdkit_onnx.unet" in sys.modules]))
"""
    assert environment.python(code) == ["onnx", True, "onnx (svdkit-onnx)", [], False]


def test_by_name_from_python(environment: Environment) -> None:
    """It is used where it is asked for, and where nothing is."""
    choices = ({"unet": "onnx"}, None, {"unet": "default"})
    assert unets(environment, *choices) == [*[["svdkit_onnx.unet", "OnnxUNet"]] * 2, ["svdkit.arch.unet", "UNet"]]
    named, own = frames(environment, choices[0], choices[2])
    # Two ways of rounding in float32: 1e-6 was seen, relative to all frames. (Of pictures of 64x64 the deepest maps are
    # single pixels, and norms over few numbers amplify that, NumPy's own rounding too, to 4e-5.)
    assert 0 < relative_error(named, own) < 1e-5
    assert named.std() > 0.01


def test_a_misspelt_name(environment: Environment) -> None:
    (misspelt,) = unets(environment, {"unet": "onx"})
    message = "There is no unet for numpy 'onx'. Did you mean 'onnx'? Known: default, onnx."
    assert misspelt == ["UnknownPluginError", message]


def test_the_example_s_own_tests(environment: Environment) -> None:
    """Among them svdkit's conformance suites, for which its tests' requirements are installed."""
    testing = "hypothesis>=6.120,<7"
    environment.pip("install", "--no-compile", "-c", ROOT / "constraints.txt", testing)
    environment.run("python", "-m", "pytest", "-q", "-x", cwd=environment.source)


def test_float64_is_refused(environment: Environment) -> None:
    refused, own = unets(environment, None, {"unet": "default"}, dtype="float64")
    assert refused[0] == "InputError"
    assert "computes in float32, not in 'float64'" in refused[1]
    assert own[0] == "svdkit.arch.unet"


def test_by_name_from_the_command_line(environment: Environment) -> None:
    out = environment.folder / "x.gif"
    for options in (["--component", "unet=onnx"], [], ["--component", "unet=default", "--dtype", "float64"]):
        facts = json.loads(environment.run(*GENERATE, *options, "-o", out).stdout)
        assert (facts["backend"], facts["dtype"]) == ("numpy", options[-1] if "--dtype" in options else "float32")
        assert out.read_bytes().startswith(b"GIF8")
        out.unlink()

    for options, text in (
        (["--component", "unet=onx"], "There is no unet for numpy 'onx'. Did you mean 'onnx'?"),
        (["--component", "unet=onnx", "--dtype", "float64"], "The unet 'onnx' computes in float32, not in 'float64'."),
        (["--dtype", "float64"], "or take svdkit's own: components={'unet': 'default'}, or --component unet=default."),
    ):
        assert text in environment.run(*GENERATE, *options, "-o", out, status=2).stderr
        assert not out.exists()


def test_without_onnxruntime(without_onnxruntime: Environment) -> None:
    """Who asks for it is told what to install; who does not has svdkit's own."""
    asked, unasked = unets(without_onnxruntime, {"unet": "onnx"}, None)
    assert asked[0] == "MissingDependencyError"
    assert asked[1].startswith("The component 'onnx' needs onnxruntime. Install it with: pip install ")
    assert unasked[0] == "svdkit.arch.unet"
    done = without_onnxruntime.run(*GENERATE, "--component", "unet=onnx", "-o", "never.gif", status=1)
    assert "The component 'onnx' needs onnxruntime." in done.stderr


def test_uninstalled_its_name_is_gone(without_the_example: Environment) -> None:
    asked, unasked = unets(without_the_example, {"unet": "onnx"}, None)
    assert asked[0] == "UnknownPluginError"
    assert asked[1] == "There is no unet for numpy 'onnx'. Known: default."
    assert unasked[0] == "svdkit.arch.unet"
    done = without_the_example.run(*GENERATE, "--component", "unet=onnx", "-o", "never.gif", status=2)
    assert "There is no unet for numpy 'onnx'." in done.stderr

"""The core imports no framework, says what it is, and its small mathematics is right."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import json
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import svdkit
from svdkit.arch.embeddings import sinusoid
from svdkit.config import CLIPVisionConfig, UNetConfig, VAEConfig, from_dict, read_json
from svdkit.errors import CheckpointError, InputError, SvdkitError
from svdkit.guidance import guidance_scales
from svdkit.precondition import scalings

several = settings(max_examples=100, deadline=None, derandomize=True, database=None)
ROOT = Path(__file__).parent.parent
FRAMEWORKS = ("torch", "mindspore", "jax", "jaxlib", "tensorflow", "diffusers", "transformers", "scipy", "mindone")
PACKAGES = ("svdkit", "svdkit_numpy", "svdkit_mindspore", "svdkit_schedulers")


def modules_of(package: str) -> list[str]:
    """A package and all below it, but what runs when it is imported."""
    root = importlib.import_module(package)
    names = [module.name for module in pkgutil.walk_packages(root.__path__, f"{package}.")]
    return [package, *(name for name in names if not name.endswith("__main__"))]


def run(code: str, *arguments: str, cwd: Path | None = None) -> Any:
    """What a new process prints, as JSON."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


# What is imported, and what is installed


def test_no_module_of_the_core_imports_a_framework() -> None:
    code = """if True:
        import importlib, json, sys
        names, frameworks = sys.argv[1].split(), set(sys.argv[2].split())
        guilty = {}
        for name in names:
            importlib.import_module(name)
            if found := frameworks & {key.partition(".")[0] for key in sys.modules}:
                guilty.setdefault(min(found), name)
        print(json.dumps(guilty))
    """
    names = modules_of("svdkit")
    assert {"svdkit.pipeline", "svdkit.arch.unet", "svdkit.testing"} <= set(names)
    assert run(code, " ".join(names), " ".join(FRAMEWORKS)) == {}


def test_plugin_modules_import_no_framework() -> None:
    code = """if True:
        import importlib.metadata, json, sys
        for point in importlib.metadata.entry_points(group="svdkit"):
            point.load()
        print(json.dumps(sorted(set(sys.argv[1].split()) & sys.modules.keys())))
    """
    assert run(code, " ".join(FRAMEWORKS)) == []


def test_importing_svdkit_imports_next_to_nothing() -> None:
    code = "import json, sys, svdkit; print(json.dumps([m for m in sys.modules if m.startswith('svdkit')]))"
    assert run(code) == ["svdkit"]
    assert run("import json, sys, svdkit; print(json.dumps('numpy' in sys.modules))") is False


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that source code imports, wherever it does."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in ("import_module", "__import__"):
                yield str(node.args[0].value)


@pytest.mark.parametrize("path", sorted((ROOT / "svdkit").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_of_the_core_names_a_framework_even_lazily(path: Path) -> None:
    found = {name.partition(".")[0] for name in imports(ast.parse(path.read_text(encoding="utf-8")))}
    statistics = {"scipy"} if "study" in path.parts else set()  # no tensors, and an extra that only studies need
    assert not (found - statistics) & set(FRAMEWORKS)


def test_lazy_imports_would_be_found() -> None:
    source = """if True:
        def f():
            import torch.nn as nn
            from jax import numpy
            importlib.import_module("mindspore.ops")
            __import__("scipy")
            from .torch import nothing
    """
    assert set(imports(ast.parse(source))) == {"torch.nn", "jax", "mindspore.ops", "scipy"}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """`pyproject.toml`."""
    tomllib = pytest.importorskip("tomllib")
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_a_wheel_holds_all_packages_and_nothing_else(project: dict[str, Any]) -> None:
    folders = ("", "backends", "schedulers")
    packages = {path.parent for folder in folders for path in (ROOT / folder).glob("svdkit*/__init__.py")}
    listed = {ROOT / package for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert listed == packages
    assert {path.name for path in listed} >= set(PACKAGES)
    assert all(path.name.startswith("svdkit") for path in listed), "a name that is not ours at top level"
    for folder in ("backends", "schedulers"):
        assert not list((ROOT / folder).glob("*.py")), f"{folder} is a folder, not a package"


def test_entry_points_lead_into_the_wheel(project: dict[str, Any]) -> None:
    listed = {Path(package).name for package in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    for target in project["project"]["entry-points"]["svdkit"].values():
        assert target.partition(".")[0] in listed
        assert importlib.import_module(target)
    module, _, attribute = project["project"]["scripts"]["svdkit"].partition(":")
    assert callable(getattr(importlib.import_module(module), attribute))


def test_the_core_depends_on_no_framework(project: dict[str, Any]) -> None:
    needed = " ".join(project["project"]["dependencies"])
    assert not [name for name in FRAMEWORKS if name in needed]


def test_the_version_is_one(project: dict[str, Any]) -> None:
    assert svdkit.__version__ == project["project"]["version"] == importlib.metadata.version("svdkit")


# What is documented


def test_public_names_resolve_and_are_documented() -> None:
    assert svdkit.__all__ == sorted(svdkit.__all__)
    for name in svdkit.__all__:
        assert getattr(svdkit, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'generat'"):
        svdkit.generat  # noqa: B018


def test_a_package_that_can_be_called_keeps_its_modules() -> None:
    code = """
import svdkit
assert callable(svdkit.study)
import svdkit.study.table as table, svdkit.study.statistics
import json
print(json.dumps([svdkit.study.statistics.__name__, table.__name__]))
"""
    assert run(code) == ["svdkit.study.statistics", "svdkit.study.table"]


def test_public_names_are_seen_by_type_checkers() -> None:
    tree = ast.parse(inspect.getsource(svdkit))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    assert sorted(alias.name for node in block.body for alias in node.names) == svdkit.__all__


def undocumented(module: ModuleType) -> Iterator[str]:
    """Public functions, classes and methods without a docstring; overriding methods may inherit theirs."""
    if not module.__doc__:
        yield module.__name__
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(value) and not inspect.getdoc(value):
            yield f"{module.__name__}.{name}"
        if inspect.isclass(value):
            if not value.__dict__.get("__doc__"):
                yield f"{module.__name__}.{name}"
            for attribute, member in vars(value).items():
                if attribute.startswith("_") and attribute != "__call__":
                    continue
                if inspect.isfunction(member) or isinstance(member, (property, classmethod, staticmethod)):
                    inherited = (vars(base).get(attribute) for base in value.__mro__)
                    if not any(inspect.getdoc(method) for method in inherited if method is not None):
                        yield f"{module.__name__}.{name}.{attribute}"


@pytest.mark.parametrize("package", PACKAGES)
def test_everything_public_is_documented(package: str) -> None:
    if package == "svdkit_mindspore":
        pytest.importorskip("mindspore")
    assert [name for module in modules_of(package) for name in undocumented(importlib.import_module(module))] == []


def test_what_is_undocumented_is_found() -> None:
    module = ModuleType("fake")
    code = """if True:
        def function(): pass
        def documented(): "x"
        def _private(): pass
        class Base:
            "x"
            def inherited(self): "x"
            def method(self): pass
            def _private(self): pass
            @property
            def value(self): pass
            @classmethod
            def make(cls): pass
        class Child(Base):
            def inherited(self): pass
            def __call__(self): pass
    """
    exec(code, vars(module))
    assert list(undocumented(module)) == [
        "fake",
        "fake.function",
        "fake.Base.method",
        "fake.Base.value",
        "fake.Base.make",
        "fake.Child",
        "fake.Child.__call__",
    ]


def test_errors_have_one_base() -> None:
    from svdkit import errors

    classes = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
    assert len(classes) > 10
    for cls in classes:
        assert issubclass(cls, (SvdkitError, Warning)), cls


# Preconditioning

SIGMA = st.floats(0.002, 700.0)


@several
@given(sigma=SIGMA)
def test_scalings_are_the_published_ones(sigma: float) -> None:
    c_skip, c_out, c_in, c_noise = scalings(sigma)
    assert c_skip == pytest.approx(1 / (sigma**2 + 1), rel=1e-14)
    assert c_out == pytest.approx(-sigma / (sigma**2 + 1) ** 0.5, rel=1e-14)
    assert c_in == pytest.approx(1 / (sigma**2 + 1) ** 0.5, rel=1e-14)
    assert c_noise == pytest.approx(np.log(sigma) / 4, rel=1e-12, abs=1e-15)
    assert all(type(c) is float for c in scalings(sigma))


def test_c_noise_spans_what_the_network_was_trained_on() -> None:
    assert scalings(0.002).c_noise == pytest.approx(-1.5537, abs=1e-4)
    assert scalings(700.0).c_noise == pytest.approx(1.6378, abs=1e-4)


@several
@given(sigma=SIGMA, clean=st.floats(-3, 3), noise=st.floats(-3, 3))
def test_the_true_v_gives_the_clean_sample(sigma: float, clean: float, noise: float) -> None:
    """V = cos * noise - sin * clean at the angle whose tangent is sigma (arXiv:2202.00512)."""
    angle = np.arctan(sigma)
    x, v = clean + sigma * noise, np.cos(angle) * noise - np.sin(angle) * clean
    s = scalings(sigma)
    assert s.c_skip * x + s.c_out * v == pytest.approx(clean, abs=1e-12 * (1 + sigma))
    assert s.c_in * x == pytest.approx(np.cos(angle) * clean + np.sin(angle) * noise, abs=1e-12)


@several
@given(sigma=SIGMA, mean=st.floats(-2, 2), spread=st.floats(0.1, 3), x=st.floats(-100, 100))
def test_the_best_network_for_a_gaussian_makes_its_denoiser(sigma: float, mean: float, spread: float, x: float) -> None:
    """Of normal data, the expected v given x is linear in x, and the denoiser must be the posterior mean."""
    covariance = np.diag([spread**2, 1.0])  # of the clean sample and the noise
    x_of = np.array([1.0, sigma])
    v_of = np.array([-np.sin(np.arctan(sigma)), np.cos(np.arctan(sigma))])
    variance = x_of @ covariance @ x_of
    expected_v = v_of[0] * mean + (v_of @ covariance @ x_of) / variance * (x - mean)
    s = scalings(sigma)
    posterior_mean = (spread**2 * x + sigma**2 * mean) / (spread**2 + sigma**2)
    assert s.c_skip * x + s.c_out * expected_v == pytest.approx(posterior_mean, abs=1e-9)


@several
@given(sigma=SIGMA)
def test_the_network_sees_and_makes_numbers_of_order_one(sigma: float) -> None:
    s = scalings(sigma)
    assert s.c_in**2 * (1 + sigma**2) == pytest.approx(1)
    # What remains for it to predict, (clean - c_skip * x) / c_out, has variance 1 for data of variance 1.
    assert ((1 - s.c_skip) ** 2 + s.c_skip**2 * sigma**2) / s.c_out**2 == pytest.approx(1)


# Guidance


@pytest.mark.parametrize(
    ("first", "last", "frames", "expected"),
    [
        (1.0, 3.0, 5, [1, 1.5, 2, 2.5, 3]),
        (3.0, 1.0, 3, [3, 2, 1]),
        (2, 2, 4, [2, 2, 2, 2]),
        (-1.0, 1.0, 2, [-1, 1]),
        (1.5, 3.0, 1, [1.5]),
    ],
)
def test_guidance_is_linear_over_the_frames(first: float, last: float, frames: int, expected: list[float]) -> None:
    scales = guidance_scales(first, last, frames)
    assert scales.dtype == np.float64
    np.testing.assert_array_equal(scales, expected)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, True, "1", None, [1.0], 1j])
def test_what_is_no_guidance_scale(value: Any) -> None:
    with pytest.raises(InputError, match="min_guidance_scale"):
        guidance_scales(value, 3.0, 2)
    with pytest.raises(InputError, match="max_guidance_scale"):
        guidance_scales(1.0, value, 2)


# Embeddings of scalars


@pytest.mark.parametrize("dim", [2, 3, 16, 33, 256, 320])
@pytest.mark.parametrize("values", [[0.0], [6.0, 127.0, 0.02], [-1.55, 1.64, 0.3], list(range(25)), [255.0, 29.0]])
def test_sinusoids_are_those_of_the_reference(values: list[float], dim: int) -> None:
    torch = pytest.importorskip("torch")
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    result = sinusoid(values, dim)
    assert result.shape == (len(values), dim)
    assert result.dtype == np.float64
    expected = embeddings.get_timestep_embedding(
        torch.tensor(values), dim, flip_sin_to_cos=True, downscale_freq_shift=0
    ).numpy()
    # The reference rounds frequencies and angles to float32: of 255 by 1.1e-5.
    np.testing.assert_allclose(result, expected, atol=1e-7 * (1 + max(map(abs, values))))


def test_sinusoids_of_any_shape() -> None:
    values = np.array([[6.0, 127.0, 0.02], [7.0, 30.0, 0.5]])
    result = sinusoid(values, 10)
    assert result.shape == (2, 3, 10)
    for i, j in np.ndindex(2, 3):
        np.testing.assert_array_equal(result[i, j], sinusoid(values[i, j], 10))
    np.testing.assert_allclose(sinusoid(2.0, 4), [np.cos(2), np.cos(0.02), np.sin(2), np.sin(0.02)])
    np.testing.assert_array_equal(sinusoid(2.0, 5), [*sinusoid(2.0, 4), 0])


# Configurations


def test_defaults_are_those_of_the_published_classes() -> None:
    unet = UNetConfig()
    assert unet.block_out_channels == (320, 640, 1280, 1280)
    assert unet.num_attention_heads == (5, 10, 20, 20)
    assert unet.layers_per_block == (2, 2, 2, 2)
    assert unet.cross_attention_dim == (1024,) * 4
    assert (unet.in_channels, unet.out_channels, unet.num_frames) == (8, 4, 25)
    assert [unet.down_attends(i) for i in range(4)] == [True, True, True, False]
    assert [unet.up_attends(i) for i in range(4)] == [False, True, True, True]
    assert VAEConfig().scaling_factor == 0.18215


def test_values_for_all_levels_or_one_each() -> None:
    unet = UNetConfig(layers_per_block=[1, 2, 3, 4], transformer_layers_per_block=[1, 2, [3, 4, 5, 6], 1])
    assert unet.layers_per_block == (1, 2, 3, 4)
    assert unet.depths(1) == (2, 2)
    assert unet.depths(1, up=True) == (2, 2, 2)
    assert unet.depths(2) == (3, 4, 5)
    assert unet.depths(2, up=True) == (3, 4, 5, 6)


def test_a_level_with_too_few_depths() -> None:
    with pytest.raises((ValueError, SvdkitError), match=r"transformer_layers_per_block has 1 depths for 3 layers"):
        UNetConfig(transformer_layers_per_block=[[1], 1, 1, 1])


@pytest.mark.parametrize(
    ("cls", "values", "words"),
    [
        (UNetConfig, {"num_attention_heads": [5, 10]}, "num_attention_heads has 2 entries, block_out_channels has 4"),
        (UNetConfig, {"down_block_types": ["DownBlockSpatioTemporal"]}, "down_block_types has 1"),
        (UNetConfig, {"down_block_types": ["UNetMidBlock"] * 4}, "unknown block type 'UNetMidBlock'"),
        (UNetConfig, {"up_block_types": ["DownBlockSpatioTemporal"] * 4}, "unknown block type"),
        (UNetConfig, {"block_out_channels": [320, 640, 1280, 1000]}, "1000 channels"),
        (UNetConfig, {"num_attention_heads": 7}, "320 channels"),
        (UNetConfig, {"in_channels": 0}, "in_channels is 0"),
        (UNetConfig, {"in_channels": 8.0}, r"in_channels is 8\.0"),
        (UNetConfig, {"num_frames": True}, "num_frames is True"),
        (UNetConfig, {"layers_per_block": "2"}, "layers_per_block"),
        (UNetConfig, {"block_out_channels": [320, -640, 1280, 1280]}, "block_out_channels"),
        (VAEConfig, {"down_block_types": ["AttnDownEncoderBlock2D"]}, "AttnDownEncoderBlock2D"),
        (VAEConfig, {"block_out_channels": [64, 64]}, "differ in length"),
        (VAEConfig, {"latent_channels": None, "layers_per_block": 0}, "layers_per_block is 0"),
        (CLIPVisionConfig, {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        (CLIPVisionConfig, {"patch_size": "14"}, "patch_size is '14'"),
    ],
)
def test_configurations_that_cannot_be(cls: type, values: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as raised:
        from_dict(cls, values)
    assert cls.__name__ in str(raised.value)


def test_unknown_settings_are_named_and_private_ones_are_not() -> None:
    values = {"novelty": 1, "another": "x", "_class_name": "X", "absent": None, "num_frames": 7}
    with pytest.warns(UserWarning, match="UNetConfig ignores another, novelty") as caught:
        config = from_dict(UNetConfig, values)
    assert len(caught) == 1
    assert config.num_frames == 7


def test_json_files(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(CheckpointError, match=r"lacks config\.json"):
        read_json(path)
    for content, words in (("{", "not readable as JSON"), ("[1]", "holds list"), ("\x00", "not readable")):
        path.write_text(content)
        with pytest.raises(CheckpointError, match=words):
            read_json(path)
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(CheckpointError, match="not readable"):
        read_json(path)
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}

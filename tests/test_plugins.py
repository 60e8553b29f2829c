"""Plugins are found, listed without being imported, kept apart when broken, and used by name.

Third parties' distributions are laid out as an installer leaves them, in a folder on `sys.path`.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from PIL import Image

import svdkit
from svdkit import ComponentSpec, PluginSpec, StableVideoDiffusionPipeline, hookspecs
from svdkit.checkpoint import load_component
from svdkit.errors import (
    BrokenPluginError,
    DuplicatePluginError,
    InputError,
    MissingDependencyError,
    PluginWarning,
    UnknownPluginError,
)
from svdkit.hub import resolve_model
from svdkit.plugins import KINDS, Registry, make, registry

Install = Callable[..., None]
HOOKS = [name for name, value in vars(hookspecs).items() if hasattr(value, "svdkit_spec")]
SPEC = {"name": "name", "target": "package.module:attribute", "summary": "a line"}


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """`install(distribution, code)`: a distribution whose plugin is a module of that code."""
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    registry.cache_clear()

    def install(distribution: str, code: str, entry_point: str = "") -> None:
        module = distribution.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(
            "from svdkit import ComponentSpec, PluginSpec, hookimpl\n" + dedent(code)
        )
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[svdkit]\nof-{distribution} = {entry_point or module}\n")
        importlib.invalidate_caches()

    yield install
    registry.cache_clear()
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def hook(kind: str, *specs: str) -> str:
    """The code of a plugin that registers what these keyword arguments say."""
    cls = "ComponentSpec" if kind == "components" else "PluginSpec"
    items = ", ".join(f"{cls}(summary='a fake', {spec})" for spec in specs)
    return f"@hookimpl\ndef svdkit_{kind}():\n    return [{items}]\n"


HEALTHY = hook("schedulers", "name='healthy', target='healthy_one:Same'") + dedent(
    """
    class Same:
        def step(self, denoise, x, i, sigmas, history, noise):
            return denoise(x, sigmas[i]), None
    """
)


def assert_usable(plugins: Registry) -> None:
    """Nothing keeps first-party plugins, and a third party's that is in order, from their work."""
    for kind, names in {"backend": ["numpy"], "scheduler": ["euler", "healthy"]}.items():
        infos = {info.name: info for info in plugins.infos(kind)}
        for name in names:
            assert infos[name].available, infos[name]
    assert plugins.load("scheduler", "euler")() == plugins.load("scheduler", "euler")()
    assert hasattr(plugins.load("scheduler", "healthy")(), "step")
    assert callable(plugins.load("sigma schedule", "karras"))


# What comes with svdkit


def test_first_party_plugins_are_found_through_entry_points() -> None:
    points = {point.name: point for point in importlib.metadata.entry_points(group="svdkit")}
    assert points.keys() >= {"numpy", "mindspore", "schedulers"}
    for name in ("numpy", "mindspore", "schedulers"):
        assert points[name].dist.name == "svdkit"
    origins = {info.name: info.origin for info in svdkit.list_backends()}
    assert origins["numpy"] == "numpy (svdkit)"
    assert origins["mindspore"] == "mindspore (svdkit)"
    assert {info.name for info in svdkit.list_schedulers()} >= {"euler"}
    assert {info.name for info in svdkit.list_sigma_schedules()} >= {"karras"}


def test_listings_say_what_is_there() -> None:
    for infos in (svdkit.list_backends(), svdkit.list_schedulers(), svdkit.list_sigma_schedules()):
        assert [info.name for info in infos] == sorted(info.name for info in infos)
        for info in infos:
            assert info.summary
            assert "\n" not in info.summary
            assert info.available is not bool(info.reason)
            assert not (info.available and info.install)


def test_listings_import_no_framework() -> None:
    code = """if True:
        import sys, svdkit
        print(len(svdkit.list_backends()), len(svdkit.list_schedulers()), len(svdkit.list_sigma_schedules()))
        frameworks = {"mindspore", "torch", "scipy", "jax", "tensorflow", "diffusers"}
        print(sorted(frameworks & sys.modules.keys()))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    counts, imported = done.stdout.splitlines()
    assert min(map(int, counts.split())) >= 1
    assert imported == "[]"


@pytest.mark.parametrize("name", HOOKS)
def test_every_hook_is_documented_and_tested(name: str) -> None:
    documentation = inspect.getdoc(getattr(hookspecs, name)) or ""
    assert len(documentation) > 40, f"{name} has no docstring"
    assert "target is called" in documentation, f"{name} does not say how its target is called"
    assert any(test.startswith(f"test_hook_{name}") for test in globals()), f"there is no test_hook_{name}"
    assert name in KINDS.values(), f"nothing asks for {name}"


def test_every_kind_has_a_hook() -> None:
    assert sorted(KINDS.values()) == sorted(HOOKS)


# Each hook, from a third party's distribution to its use


@pytest.fixture
def generate() -> Callable[..., Any]:
    """A short generation on the NumPy backend, unless another is asked for."""

    def generate(backend: str = "numpy", components: dict[str, str] | None = None, **call: Any) -> Any:
        pipe = StableVideoDiffusionPipeline.from_pretrained("tiny-random", backend=backend, components=components)
        pipe.set_progress_bar_config(disable=True)
        size = {"height": 64, "width": 64, "num_frames": 1, "num_inference_steps": 2, "output_type": "latent"}
        return pipe(Image.new("RGB", (64, 64), "teal"), **{**size, **call}, generator=0, return_dict=True)

    return generate


def test_hook_svdkit_backends(install: Install, generate: Callable[..., Any]) -> None:
    code = """
    def create(device, dtype):
        from svdkit_numpy.backend import NumpyBackend
        class Fake(NumpyBackend):
            name = "fake"
            devices = ("toaster",)
        return Fake(device, dtype)
    """
    install("fake-backend", hook("backends", "name='fake', target='fake_backend:create'") + dedent(code))
    assert "fake" in [info.name for info in svdkit.list_backends() if info.available]
    video, expected = generate("fake"), generate("numpy")
    assert (video.backend, video.device, video.dtype) == ("fake", "toaster", "float32")
    np.testing.assert_array_equal(video.frames, expected.frames)


def test_hook_svdkit_components(install: Install, generate: Callable[..., Any]) -> None:
    code = """
    class Still:
        def __init__(self, folder, backend, variant):
            from svdkit.config import UNetConfig, from_dict, read_json
            self.config = from_dict(UNetConfig, read_json(folder / "config.json"))
            self.backend, Still.variant = backend, variant
        def prepare(self, image_embeddings, added_time_ids, frames):
            return ()
        def __call__(self, sample, c_noise, prepared):
            return sample[:, :, :4] * 0
    """
    spec = "name='still', target='fake_unet:Still', component='unet', backend='numpy'"
    install("fake-unet", hook("components", spec) + dedent(code))
    own = generate(components={"unet": "default"}).frames
    still = generate().frames
    np.testing.assert_array_equal(generate(components={"unet": "still"}).frames, still)
    assert not np.allclose(own, still)
    # A network that answers 0 everywhere makes the denoiser x / (sigma ** 2 + 1), and so x0 of the last step small.
    assert np.abs(still).max() < 10
    assert registry().component("unet", "mindspore", None) is None
    numpy = registry().load("backend", "numpy")("cpu", "float32")
    found = load_component("unet", resolve_model("tiny-random"), numpy, variant="fp16")
    assert (type(found).__name__, found.variant) == ("Still", "fp16")
    (info,) = svdkit.list_components()
    assert (info.name, info.replaces, info.available) == ("still", "unet of numpy", True)
    assert registry().component("vae", "numpy", None) is None
    with pytest.raises(UnknownPluginError, match=r"unet for numpy 'stil'.*'still'.*default"):
        generate(components={"unet": "stil"})


def test_hook_svdkit_schedulers(install: Install) -> None:
    code = """
    class Scaled:
        def __init__(self, gain=1.0):
            self.gain = gain
        def step(self, denoise, x, i, sigmas, history, noise):
            return denoise(x, sigmas[i]) * self.gain, None
    """
    install("fake-scheduler", hook("schedulers", "name='scaled', target='fake_scheduler:Scaled'") + dedent(code))
    call = {"sigmas": [5.0, 1.0]}
    assert svdkit.sample(lambda x, sigma: x + sigma, np.array([1.0]), scheduler="scaled", **call).x == 7
    assert svdkit.sample(lambda x, sigma: x + sigma, np.array([1.0]), scheduler="scaled:gain=2", **call).x == 26
    with pytest.raises(InputError, match=r"'scaled' does not take loss=2.*gain"):
        svdkit.sample(lambda x, sigma: x, np.array([1.0]), scheduler="scaled:loss=2", **call)


def test_hook_svdkit_sigma_schedules(install: Install, generate: Callable[..., Any]) -> None:
    code = """
    def halves(steps, first=8.0):
        return [first / 2**i for i in range(steps)] + [0.0]
    """
    install("fake-sigmas", hook("sigma_schedules", "name='halves', target='fake_sigmas:halves'") + dedent(code))
    assert "halves" in [info.name for info in svdkit.list_sigma_schedules()]
    assert svdkit.sigma_schedule("halves", 3) == (8, 4, 2, 0)
    assert svdkit.sigma_schedule("halves", 2, first=3) == (3, 1.5, 0)
    assert generate(sigmas="halves").sigmas == (8, 4, 0)


# Plugins that are broken, each in its way

BROKEN = {
    "import raises": ("raise RuntimeError('on purpose')", "RuntimeError: on purpose"),
    "import ends Python": ("import sys; sys.exit(0)", "SystemExit: 0"),
    "import lacks a module": ("import there_is_no_such_module", "No module named 'there_is_no_such_module'"),
    "syntax error": ("def :", "SyntaxError"),
    "hook raises": ("@hookimpl\ndef svdkit_schedulers():\n    return 1 / 0", "ZeroDivisionError"),
    "hook returns nothing": ("@hookimpl\ndef svdkit_schedulers(): pass", "'NoneType' object is not iterable"),
    "hook returns numbers": ("@hookimpl\ndef svdkit_backends(): return [42]", "returned 42, expected a PluginSpec"),
    "hook returns a name": (
        "@hookimpl\ndef svdkit_schedulers(): return 'euler'",
        "returned 'e', expected",
    ),
    "component is none": (
        "@hookimpl\ndef svdkit_components(): return [PluginSpec(name='a', target='a:b', summary='')]",
        "expected a ComponentSpec",
    ),
    "unknown hook": ("@hookimpl\ndef svdkit_shedulers(): return []", "unknown hook 'svdkit_shedulers'"),
    "unknown argument": ("@hookimpl\ndef svdkit_schedulers(config): return []", "config"),
    "invalid name": (
        hook("schedulers", "name='Not a name', target='a:b'"),
        "ValueError: name is 'Not a name', expected",
    ),
    "requires a word": (
        hook("schedulers", "name='a', target='a:b', requires='torch'"),
        "ValueError: requires is 'torch'",
    ),
}


def listed() -> Registry:
    """A registry that has listed everything."""
    plugins = Registry()
    for kind in KINDS:
        plugins.infos(kind)
    return plugins


@pytest.mark.parametrize(("code", "error"), BROKEN.values(), ids=BROKEN)
def test_a_broken_plugin_disturbs_no_other(install: Install, code: str, error: str) -> None:
    install("broken-one", code)
    install("healthy-one", HEALTHY)
    with pytest.warns(PluginWarning) as caught:
        plugins = listed()
    assert len(caught) == 1
    message = str(caught[0].message)
    assert "of-broken-one (broken-one)" in message
    assert error in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        assert_usable(plugins)
        for kind in KINDS:
            assert "broken-one" not in str(plugins.infos(kind))
            with pytest.raises(BrokenPluginError) as raised:
                plugins.load(kind, "of-broken-one")
            assert error in str(raised.value)
            with pytest.raises(UnknownPluginError):
                plugins.load(kind, "something-else")


@pytest.mark.parametrize("entry_point", ["no_such_module", "broken_one:nothing", "broken_one:a.b", "not a module!"])
def test_an_entry_point_to_nowhere_disturbs_no_other(install: Install, entry_point: str) -> None:
    install("broken-one", "", entry_point)
    install("healthy-one", HEALTHY)
    with pytest.warns(PluginWarning, match="broken-one") as caught:
        plugins = Registry()
    assert len(caught) == 1
    assert_usable(plugins)
    with pytest.raises(BrokenPluginError, match="broken-one"):
        plugins.load("backend", "of-broken-one")


def test_an_entry_point_of_no_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("stray", "svdkit_schedulers.plugin", "svdkit")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    assert {info.origin for info in Registry().infos("scheduler")} == {"stray (unknown distribution)"}


def test_a_plugin_may_register_nothing(install: Install) -> None:
    install("empty-one", "")
    install("other-empty-one", hook("schedulers"))
    install("healthy-one", HEALTHY)
    assert_usable(Registry())


def test_a_missing_framework_comes_with_the_command_that_installs_it(install: Install) -> None:
    spec = "name='far', target='there_is_no_framework.far:Far', requires=('there_is_no_framework', 'json')"
    install("far-one", hook("backends", f"{spec}, install=\"pip install 'far-one[all]'\""))
    install("healthy-one", HEALTHY)
    plugins = Registry()
    (info,) = (info for info in plugins.infos("backend") if info.name == "far")
    assert not info.available
    assert info.reason == "there_is_no_framework is not installed"
    assert info.install == "pip install 'far-one[all]'"
    with pytest.raises(MissingDependencyError, match=r"needs there_is_no_framework\..*pip install 'far-one\[all\]'"):
        plugins.load("backend", "far")
    with pytest.raises(MissingDependencyError, match="there_is_no_framework"):
        StableVideoDiffusionPipeline.from_pretrained("tiny-random", backend="far")
    assert_usable(plugins)


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("there_is_no_such_module:Thing", "ModuleNotFoundError"),
        ("lost_one:Thing", "AttributeError"),
        ("lost_one.inner:Thing", "ModuleNotFoundError"),
    ],
)
def test_a_target_that_is_not_there(install: Install, target: str, error: str) -> None:
    install("lost-one", hook("schedulers", f"name='lost', target={target!r}"))
    install("healthy-one", HEALTHY)
    plugins = Registry()
    with pytest.raises(BrokenPluginError, match=rf"'lost'.*of-lost-one \(lost-one\).*{target}.*{error}") as raised:
        plugins.load("scheduler", "lost")
    assert type(raised.value.__cause__).__name__ == error
    assert_usable(plugins)


def test_a_name_taken_twice_names_both(install: Install) -> None:
    install("first-one", hook("schedulers", "name='same', target='a:b'", "name='first', target='healthy_one:Same'"))
    install("second-one", hook("schedulers", "name='same', target='a:b'", "name='euler', target='a:b'"))
    install("healthy-one", HEALTHY)
    plugins = registry()
    origins = r"(?=.*of-first-one \(first-one\))(?=.*of-second-one \(second-one\))"
    with pytest.raises(DuplicatePluginError, match=origins):
        plugins.load("scheduler", "same")
    with pytest.raises(DuplicatePluginError, match=r"(?=.*schedulers \(svdkit\))(?=.*of-second-one \(second-one\))"):
        svdkit.sample(lambda x, sigma: x, np.ones(1), sigmas=[1.0], scheduler="euler")
    rivals = [info for info in svdkit.list_schedulers() if info.name == "same"]
    assert len(rivals) == 2
    for info in rivals:
        assert not info.available
        assert "first-one" in info.reason
        assert "second-one" in info.reason
    assert plugins.load("scheduler", "first") is plugins.load("scheduler", "healthy")
    assert plugins.load("backend", "numpy")
    # A scheduler and a sigma schedule may have one name.
    assert plugins.load("sigma schedule", "karras")


# Asking for names and options


@pytest.mark.parametrize(
    ("kind", "name", "nearest"),
    [("backend", "mindspor", "mindspore"), ("backend", "nunpy", "numpy"), ("sigma schedule", "karas", "karras")],
)
def test_an_unknown_name_gives_the_nearest(kind: str, name: str, nearest: str) -> None:
    with pytest.raises(UnknownPluginError, match=rf"no {kind} '{name}'.*Did you mean .*'{nearest}'.*Known: ") as raised:
        make(kind, name)
    assert isinstance(raised.value, InputError)


def test_an_unknown_name_near_to_none_gives_all() -> None:
    with pytest.raises(UnknownPluginError) as raised:
        make("backend", "zzzzzz")
    assert "Did you mean" not in str(raised.value)
    assert "numpy" in str(raised.value)


def test_an_unknown_name_may_be_a_broken_plugins(install: Install) -> None:
    install("broken-one", "raise RuntimeError('broken')")
    with pytest.warns(PluginWarning):
        plugins = Registry()
    with pytest.raises(UnknownPluginError, match=r"no scheduler 'rk9'.* Left out, since broken: of-broken-one"):
        plugins.load("scheduler", "rk9")


@pytest.mark.parametrize("text", ["karras:rho=0.001", "karras:rho={{}}", "karras:rho=" + "-" * 100_000 + "1"])
def test_options_that_only_python_could_read(text: str) -> None:
    with pytest.raises(InputError, match="does not take rho="):
        svdkit.sigma_schedule(text, 5)


def test_options_that_a_target_does_not_take(install: Install) -> None:
    with pytest.raises(InputError, match=r"scheduler 'euler' does not take speed=3"):
        make("scheduler", "euler", {"speed": 3})


def test_an_error_of_the_plugins_own_comes_out_as_it_is(install: Install) -> None:
    install("buggy-one", hook("schedulers", "name='buggy', target='buggy_one:buggy'") + "def buggy(): return 1 + ''\n")
    with pytest.raises(TypeError, match="unsupported operand"):
        make("scheduler", "buggy")


# Components


def component(name: str = "fast", target: str = "engine_one:Engine", **others: Any) -> str:
    """The arguments of a ComponentSpec."""
    options = {"component": "unet", "backend": "numpy", **others}
    return f"name={name!r}, target={target!r}, " + ", ".join(f"{key}={value!r}" for key, value in options.items())


def test_a_component_is_for_one_network_of_one_backend(install: Install) -> None:
    install("engine-one", hook("components", component(), component("fast", component="vae")) + "class Engine: pass\n")
    plugins = Registry()
    for name in ("unet", "vae"):
        for choice in (None, "fast"):
            assert plugins.component(name, "numpy", choice).__name__ == "Engine"
        assert plugins.component(name, "numpy", "default") is None
        assert plugins.component(name, "mindspore", None) is None
    assert plugins.component("image_encoder", "numpy", None) is None
    with pytest.raises(UnknownPluginError, match=r"unet for mindspore 'fast'"):
        plugins.component("unet", "mindspore", "fast")


def test_of_two_components_one_must_be_chosen(install: Install) -> None:
    install("engine-one", hook("components", component("fast"), component("small")) + "class Engine: pass\n")
    plugins = Registry()
    with pytest.raises(DuplicatePluginError, match=r"'fast' of .*'small' of .*components=\{'unet': '(fast|small)'\}"):
        plugins.component("unet", "numpy", None)
    assert plugins.component("unet", "numpy", "small").__name__ == "Engine"
    assert plugins.component("unet", "numpy", "default") is None


def test_a_component_that_cannot_be_used_stays_out_unless_it_is_asked_for(install: Install) -> None:
    lost = component("lost", "no_such_engine:Engine")
    far = component("far", component="vae", requires=("there_is_no_framework",), install="pip install far")
    install("engine-one", hook("components", lost, far))
    plugins = Registry()
    with pytest.warns(PluginWarning, match="no_such_engine"):
        assert plugins.component("unet", "numpy", None) is None
    with pytest.raises(BrokenPluginError, match="no_such_engine"):
        plugins.component("unet", "numpy", "lost")
    assert plugins.component("vae", "numpy", None) is None
    with pytest.raises(MissingDependencyError, match="pip install far"):
        plugins.component("vae", "numpy", "far")


# Specs


@pytest.mark.parametrize("name", ["", "Euler", "two words", "-a", ".a", "_a", "a:b", "a,b", "é", "a\n", 3, None])
def test_invalid_names(name: Any) -> None:
    with pytest.raises(ValueError, match=r"name is .* expected"):
        PluginSpec(**{**SPEC, "name": name})


@pytest.mark.parametrize("name", ["a", "dpmpp_2m", "my.org-x", "3d"])
def test_valid_names(name: str) -> None:
    assert PluginSpec(**{**SPEC, "name": name}).name == name


@pytest.mark.parametrize(
    "wrong",
    [
        {"target": "package.module"},
        {"target": "package.module:a.b"},
        {"target": "package:"},
        {"target": ":a"},
        {"summary": None},
        {"summary": "two\nlines"},
        {"requires": "torch"},
        {"requires": ["torch"]},
        {"requires": ("torch.nn",)},
        {"requires": ("",)},
    ],
)
def test_invalid_specs(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is .*, expected"):
        PluginSpec(**{**SPEC, **wrong})


def test_specs_are_values_given_by_name() -> None:
    spec = PluginSpec(**SPEC, requires=("numpy",))
    assert spec == PluginSpec(**SPEC, requires=("numpy",))
    with pytest.raises(AttributeError):
        spec.name = "other"
    with pytest.raises(TypeError):
        PluginSpec("name", "a:b", "a line")


@pytest.mark.parametrize("wrong", [{"component": "text_encoder"}, {"backend": None}])
def test_invalid_components(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} is .*, expected"):
        ComponentSpec(**{**SPEC, "component": "unet", "backend": "numpy", **wrong})

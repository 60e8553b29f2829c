"""The conformance suite of a plugin module: what it registers, and that listing it costs nothing."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, ClassVar

from ..errors import MissingDependencyError
from ..hookspecs import PluginSpec
from ..plugins import KINDS, Entry, registry

FRAMEWORKS = frozenset(
    {"cupy", "diffusers", "flax", "jax", "jaxlib", "keras", "mindspore", "mlx", "mxnet", "numba", "onnx", "onnxruntime"}
    | {"openvino", "paddle", "scipy", "tensorflow", "tensorrt", "tinygrad", "torch", "torch_npu", "transformers", "tvm"}
)
"""What listing plugins must not import, besides whatever the plugin's specs require."""

_PROBE = """
import io, json, os, sys, threading
import svdkit, svdkit.hookspecs
sys.path[:0] = json.loads(sys.argv[2])
def state():
    return [dict(os.environ), os.getcwd(), list(sys.path), threading.active_count()]
before, modules = state(), set(sys.modules)
out, err, sys.stdout, sys.stderr = sys.stdout, sys.stderr, io.StringIO(), io.StringIO()
import importlib
plugin = importlib.import_module(sys.argv[1])
for hook in json.loads(sys.argv[3]):
    list(getattr(plugin, hook, list)())
printed, sys.stdout, sys.stderr = sys.stdout.getvalue() + sys.stderr.getvalue(), out, err
names = ("the environment", "the working folder", "sys.path", "the number of threads")
changed = [name for name, a, b in zip(names, before, state()) if a != b]
json.dump({"modules": sorted(set(sys.modules) - modules), "printed": printed, "changed": changed}, sys.stdout)
"""


class PluginConformance:
    """A plugin module, by its dotted name.

    Inherit it in a file that pytest collects:

        class TestPlugin(PluginConformance):
            plugin = "my_package.plugin"
    """

    plugin: ClassVar[str]
    modules: ClassVar[int] = 40
    """How many modules importing it may bring beside svdkit's hooks; ours bring three."""

    @property
    def module(self) -> Any:
        """The module itself."""
        return importlib.import_module(self.plugin)

    def entries(self) -> Iterator[tuple[str, PluginSpec]]:
        """Everything that it registers, with its kind."""
        for kind, hook in KINDS.items():
            for spec in getattr(self.module, hook, list)():
                yield kind, spec

    def probe(self) -> Any:
        """What importing it in a fresh interpreter, and calling its hooks, brings about."""
        command = [sys.executable, "-c", _PROBE, self.plugin, json.dumps(sys.path), json.dumps([*KINDS.values()])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"importing {self.plugin} fails:\n{done.stderr}"
        return json.loads(done.stdout)

    def test_import_light(self) -> None:
        """Importing it and calling its hooks imports no framework and little else, prints nothing, changes nothing."""
        found = self.probe()
        forbidden = FRAMEWORKS | {name for _, spec in self.entries() for name in spec.requires}
        frameworks = sorted(forbidden & {name.partition(".")[0] for name in found["modules"]})
        assert not frameworks, f"{self.plugin} imports {', '.join(frameworks)}; import them where a target needs them"
        assert len(found["modules"]) <= self.modules, f"{self.plugin} imports {len(found['modules'])} modules"
        assert not found["printed"], f"importing {self.plugin} prints {found['printed']!r}"
        assert not found["changed"], f"importing {self.plugin} changes {', '.join(found['changed'])}"

    def test_registered(self) -> None:
        """It is found through an entry point, and not broken."""
        registered = registry().manager.get_plugins()
        assert not [broken for broken in registry().broken if self.plugin in broken]
        assert self.module in registered, (
            f"{self.plugin} is not registered. Add it to [project.entry-points.svdkit] and install the distribution; "
            f"broken are: {registry().broken or 'none'}"
        )

    def test_hooks(self) -> None:
        """It has hooks, each with a docstring; no misspelt one is left out in silence."""
        named = {n: f for n, f in vars(self.module).items() if n.startswith("svdkit_") and inspect.isfunction(f)}
        assert named, f"{self.plugin} has no hook; there are {', '.join(KINDS.values())}"
        for name, function in named.items():
            assert name in KINDS.values(), f"there is no hook {name}; there are {', '.join(KINDS.values())}"
            assert hasattr(function, "svdkit_impl"), f"{name} lacks @svdkit.hookimpl"
            assert (function.__doc__ or "").strip(), f"{name} has no docstring"
        assert (self.module.__doc__ or "").strip(), f"{self.plugin} has no docstring"

    def test_specs(self) -> None:
        """Each says in a line what it is, and how to install what it requires; its name is nobody else's."""
        entries = list(self.entries())
        assert entries, f"{self.plugin} registers nothing"
        for kind, spec in entries:
            what = f"the {kind} {spec.name!r}"
            assert spec.summary.strip(), f"{what} has no summary"
            assert len(spec.summary.splitlines()) == 1, f"the summary of {what} is of several lines"
            assert bool(spec.requires) == bool(spec.install), (
                f"{what} requires {spec.requires} and is installed with {spec.install!r}; give both or neither"
            )
            rivals = [e.origin for e in registry().entries(kind) if _same(e.spec, spec)]
            assert len(rivals) == 1, f"the name of {what} is registered by {' and by '.join(rivals) or 'nobody'}"

    def test_targets(self) -> None:
        """Each is there, where what it requires is installed; it is called, and has a docstring."""
        for kind, spec in self.entries():
            try:
                target = registry().resolve(kind, Entry(spec, self.plugin))
            except MissingDependencyError:
                continue  # listed as such, with the command that installs it
            assert callable(target), f"{spec.target} is a {type(target).__name__}, expected something to call"
            assert (inspect.getdoc(target) or "").strip(), f"{spec.target} has no docstring"


def _same(a: PluginSpec, b: PluginSpec) -> bool:
    """Components of different backends may share a name."""
    return (a.name, getattr(a, "component", ""), getattr(a, "backend", "")) == (
        b.name,
        getattr(b, "component", ""),
        getattr(b, "backend", ""),
    )

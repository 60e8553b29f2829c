"""The conformance suites are themselves tested: with plugins that are right, and that are wrong on purpose.

Each fake fails what its mistake should make fail, and nothing else. Fakes are registered as a plugin's are, and run
in a pytest inside of this one, so that they meet the suite as an author's class does.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from svdkit.errors import BrokenPluginError
from svdkit.plugins import registry
from svdkit.testing import PluginConformance

HERE = Path(__file__).parent
FILES = ("fake_backends", "fake_schedulers", "fake_components")


class Recorder:
    """What became of each class's tests."""

    def __init__(self) -> None:
        self.outcomes: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        self.messages: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if re.search(item.cls.tried, item.name)]

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            *_, cls, name = report.nodeid.split("::", 2)
            self.outcomes[cls][report.outcome].add(name)
            if report.failed:
                self.messages[f"{cls}::{name}"] = report.longreprtext.strip()[:300]


@pytest.fixture(scope="module", params=FILES)
def run(request: pytest.FixtureRequest) -> Any:
    """A file of fakes: its module and what became of its tests."""
    module, recorder, out = importlib.import_module(request.param), Recorder(), io.StringIO()
    registry().manager.register(module, request.param)
    try:
        with contextlib.redirect_stdout(out):
            # A bare configuration; pytest-timeout would reset this process's own timer.
            options = [
                "-c",
                os.devnull,
                f"--rootdir={HERE}",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:timeout",
                "--tb=line",
                "-q",
            ]
            status = pytest.main([f"{HERE / request.param}.py", *options], plugins=[recorder])
    finally:
        registry().manager.unregister(module)
    assert status == pytest.ExitCode.TESTS_FAILED, out.getvalue()[-3000:]
    return module, recorder


def test_each_fails_for_its_own_mistake(run: Any) -> None:
    module, recorder = run
    fakes = {name: cls for name, cls in vars(module).items() if name.startswith("Test") and hasattr(cls, "fails")}
    assert len(fakes) >= 8
    wrong = []
    for name, cls in fakes.items():
        outcome = recorder.outcomes[name]
        if not outcome["passed"]:
            wrong.append(f"{name} passes nothing, so it does not fail for its mistake")
        elsewhere = sorted(test for test in outcome["failed"] if not re.search(cls.fails, test))
        wrong += [f"{name} fails {test} too: {recorder.messages[f'{name}::{test}']}" for test in elsewhere]
        if cls.fails != "^$":
            unseen = [part for part in cls.fails.split("|") if not any(re.search(part, t) for t in outcome["failed"])]
            wrong += [f"{name} does not fail {part}" for part in unseen]
    assert not wrong, "\n".join(wrong)


HEAD = '"""A plugin."""\nfrom svdkit import PluginSpec, hookimpl\n'
SPEC = "name='fake-euler', target='svdkit_schedulers.euler:Euler', summary='a fake'"


def hook(spec: str = SPEC, name: str = "svdkit_schedulers", mark: str = "@hookimpl", doc: str = "Solvers.") -> str:
    return f"{HEAD}{mark}\ndef {name}():\n    '{doc}'\n    return [PluginSpec({spec})]\n"


PLUGINS = {
    "right": (hook(), None),
    "imports a framework": (hook() + "import torch\n", "import_light"),
    "imports when its hook is called": (hook().replace("    return", "    import scipy\n    return"), "import_light"),
    "prints": (hook() + "print('hello')\n", "import_light"),
    "changes the environment": (hook() + "import os; os.environ['FAKE_PLUGIN'] = '1'\n", "import_light"),
    "misspells its hook": (hook() + hook(name="svdkit_scheduler")[len(HEAD) :], "hooks"),
    "forgets the mark": (hook(mark=""), "hooks"),
    "documents nothing": (hook(doc=""), "hooks"),
    "has no summary": (hook(SPEC.replace("a fake", " ")), "specs"),
    "does not say how to install": (hook(SPEC + ", requires=('numpy',)"), "specs"),
    "takes another's name": (hook(SPEC.replace("fake-euler", "euler")), "specs"),
    "has no target": (hook(SPEC.replace(":Euler", ":Oiler")), "targets"),
}


@pytest.mark.parametrize("what", PLUGINS)
def test_unhygienic_plugins(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, fails = PLUGINS[what]
    name = f"fake_plugin_{list(PLUGINS).index(what)}"
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FAKE_PLUGIN", "0")
    suite = type("Suite", (PluginConformance,), {"plugin": name})()
    module = importlib.import_module(name)
    registry().manager.register(module, name)
    monkeypatch.setenv("FAKE_PLUGIN", "0")
    failed = set()
    try:
        for test in (test for test in dir(suite) if test.startswith("test_")):
            try:
                getattr(suite, test)()
            except (AssertionError, BrokenPluginError):
                failed.add(test)
    finally:
        registry().manager.unregister(module)
    # A hook without its mark registers nothing either.
    allowed = {f"test_{fails}"} | ({"test_specs"} if what == "forgets the mark" else set())
    assert (f"test_{fails}" in failed, failed <= allowed) == (fails is not None, True), failed

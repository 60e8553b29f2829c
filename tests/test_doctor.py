"""`svdkit doctor` names whatever is broken, with the command that mends it, and nothing that is broken stops it.

Third parties' distributions are laid out as an installer leaves them, in a folder on `sys.path`. MindSpore and torch
are looked at by one test alone, as importing them takes seconds.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from click.testing import CliRunner

import svdkit
from svdkit import cli, doctor
from svdkit.backend import Device
from svdkit.doctor import examine, probe, unmet_requirements
from svdkit.doctor.report import Plugin, Report
from svdkit.hookspecs import PluginSpec
from svdkit.plugins import KINDS

Plant = Callable[..., None]
MAIN = [sys.executable, "-c", "from svdkit.cli import main; main()"]


@pytest.fixture
def plant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plant:
    """`plant(distribution, code, others)`: a distribution whose plugin is a module of that code, and others."""
    monkeypatch.syspath_prepend(tmp_path)

    def plant(
        distribution: str, code: str | None = None, version: str = "1.0", metadata: str = "", **others: str
    ) -> None:
        module = distribution.replace("-", "_")
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n{metadata}")
        (info / "top_level.txt").write_text("\n".join(others))
        if code is not None:
            (info / "entry_points.txt").write_text(f"[svdkit]\nof-{distribution} = {module}\n")
            others[module] = "from svdkit import ComponentSpec, PluginSpec, hookimpl\n" + dedent(code)
        for name, text in others.items():
            (tmp_path / f"{name}.py").write_text(dedent(text))
        importlib.invalidate_caches()

    return plant


@pytest.fixture
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves MindSpore and torch aside."""
    points = doctor.entry_points
    slow = ("mindspore", "torch")
    monkeypatch.setattr(doctor, "entry_points", lambda: [point for point in points() if point.name not in slow])


def hook(kind: str, *specs: str) -> str:
    """The code of a plugin that registers what these keyword arguments say."""
    cls = "ComponentSpec" if kind == "components" else "PluginSpec"
    items = ", ".join(f"{cls}(summary='a fake', {spec})" for spec in specs)
    return f"@hookimpl\ndef svdkit_{kind}():\n    return [{items}]\n"


def named(report: Report, name: str) -> Plugin:
    (plugin,) = (plugin for plugin in report.plugins if plugin.name == name)
    return plugin


def upgrade(distribution: str) -> str:
    return f"pip install --upgrade {distribution}  # or: pip uninstall {distribution}"


def sick(plant: Plant) -> dict[str, tuple[str, str, str, str]]:
    """Plants a plugin in each kind of trouble; state, reason, origin and command by name."""
    plant("raising-one", "raise RuntimeError('first line\\nsecond line')")
    plant("rubbish-one", "@hookimpl\ndef svdkit_backends(): return [42]")
    same = hook("schedulers", "name='same', target='healthy_one:Same'")
    plant("first-one", same)
    plant("second-one", same)
    spec = "name='abacus', target='a:b', requires=('there_is_no_framework',), install=\"pip install 'far-one[all]'\""
    plant("far-one", hook("backends", spec))
    plant("lost-one", hook("schedulers", "name='lost', target='lost_inside:Lost'"), lost_inside="1 / 0")
    plant(
        "healthy-one", "print('noise')\n" + hook("schedulers", "name='healthy', target='healthy_one:Same'") + "Same = 1"
    )
    return {
        "of-raising-one": (
            "broken",
            "RuntimeError: first line",
            "of-raising-one (raising-one)",
            upgrade("raising-one"),
        ),
        "of-rubbish-one": ("broken", "returned 42, expected", "of-rubbish-one (rubbish-one)", upgrade("rubbish-one")),
        "abacus": ("missing", "there_is_no_framework", "of-far-one (far-one)", "pip install 'far-one[all]'"),
        "lost": ("broken", "ZeroDivisionError", "of-lost-one (lost-one)", upgrade("lost-one")),
    }


@pytest.mark.usefixtures("light")
def test_everything_that_is_broken_is_named_with_what_mends_it(plant: Plant) -> None:
    expected = sick(plant)
    report = examine()
    for name, (state, reason, origin, command) in expected.items():
        plugin = named(report, name)
        assert (plugin.state, plugin.origin, plugin.command) == (state, origin, command)
        assert reason in plugin.reason
    rivals = [plugin for plugin in report.plugins if plugin.name == "same"]
    assert [plugin.state for plugin in rivals] == ["taken"] * 2
    for plugin in rivals:
        assert plugin.command == "pip uninstall first-one  # or: pip uninstall second-one"
        assert plugin.reason.endswith("of-first-one (first-one) and by of-second-one (second-one)") or (
            plugin.reason.endswith("of-second-one (second-one) and by of-first-one (first-one)")
        )
    for name in ("healthy", "numpy", "euler"):
        assert named(report, name).state == "available"
    assert named(report, "numpy").devices == (Device("cpu"),)
    assert len(report.problems) == 4  # a name taken twice is one, a framework that is not installed is none
    assert report.versions["raising-one"] == "1.0"

    text = report.as_text(80)
    assert text.startswith("4 problems; 1 of 2 backends can be used:\n")
    words = " ".join(text.split())
    for name, (state, reason, origin, command) in expected.items():
        for part in (name, state, reason, origin):
            assert part in words
        assert f" {command}\n" in text
    assert rivals[0].reason in words
    narrow = [line.strip() for line in report.as_text(40).splitlines()]
    for problem in report.problems:
        assert narrow.count(problem.command) >= 2  # at the top and with the plugin, on one line that can be copied
    assert "\x1b" not in text
    for line in text.splitlines():
        assert len(line) <= 80 or line.strip().startswith("pip ") or os.sep in line

    facts = json.loads(report.as_json())
    assert {plugin["name"] for plugin in facts["plugins"]} >= {*expected, "same", "healthy"}
    assert [problem["command"] for problem in facts["problems"]] == [problem.command for problem in report.problems]


def test_the_command(plant: Plant) -> None:
    """As it is run, with every framework that is here."""
    expected = sick(plant)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_TOKEN": "hf_secret"}
    done = subprocess.run([*MAIN, "doctor", "--json"], capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (1, "")
    assert "hf_secret" not in done.stdout
    facts = json.loads(done.stdout)
    assert facts["token"] is True
    found = {plugin["name"]: plugin for plugin in facts["plugins"]}
    for name, (state, _, origin, command) in expected.items():
        assert (found[name]["state"], found[name]["origin"], found[name]["command"]) == (state, origin, command)
    for name in ("mindspore", "torch"):
        if facts["versions"][name]:
            assert found[name]["state"] == "available", found[name]
            assert found[name]["devices"][0]["name"] == "cpu"
    assert {plugin["kind"] for plugin in facts["plugins"]} <= {*KINDS, "entry point"}
    assert facts["svdkit"] == svdkit.__version__
    assert facts["executable"] == sys.executable
    assert facts["models"] == ["tiny", "tiny-random"]

    done = subprocess.run([*MAIN, "backends"], capture_output=True, text=True, check=True, env=environment)
    assert "numpy" in done.stdout


@pytest.mark.usefixtures("light")
def test_what_is_in_order(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    """A framework that is not installed is no fault; the text fits 80 columns, and the token is not in it."""
    plant("far-one", hook("backends", "name='abacus', target='a:b', requires=('there_is_no_framework',)"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    result = CliRunner().invoke(cli.cli, ["doctor"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("svdkit works here: 1 of 2 backends can be used.\n")
    assert "hf_secret" not in result.output
    assert "there_is_no_framework is not installed" in result.stdout
    for word in ("there is one", "tiny-random", svdkit.__version__, sys.executable, "ffmpeg", "GB"):
        assert word in result.stdout


ENDS = {
    "exits": ("import os; os._exit(3)", "Python ended with status 3"),
    "crashes": (
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "Python ended with signal 11 (Segmentation fault)",
    ),
    "speaks-last": (
        "import os, sys; sys.stderr.write('no licence'); sys.stderr.flush(); os._exit(1)",
        "Python ended with status 1; its last words: no licence",
    ),
    "exits-politely": ("import sys; sys.exit('no licence')", "cannot be loaded: SystemExit: no licence"),
    "hangs": ("import time; time.sleep(600)", "no answer within 8 seconds"),
}


@pytest.mark.usefixtures("light")
def test_an_import_that_ends_python_or_never_ends_stops_nothing(plant: Plant) -> None:
    for name, (code, _) in ENDS.items():
        inside = f"inside_{name.replace('-', '_')}"
        specs = [f"name='before-{name}'", f"name='{name}'", f"name='again-{name}'", f"name='after-{name}'"]
        targets = ["fine:X", f"{inside}:X", f"{inside}:X", "fine:X"]
        listed = [f"{spec}, target='{target}'" for spec, target in zip(specs, targets, strict=True)]
        plant(f"{name}-one", hook("schedulers", *listed), **{inside: code})
    plant("fatal-one", "import os; os._exit(4)", fine="X = 1")
    report = examine(seconds=8)  # the others need less than one
    for name, (_, reason) in ENDS.items():
        for wrong in (named(report, name), named(report, f"again-{name}")):
            assert (wrong.state, wrong.command) == ("broken", upgrade(f"{name}-one"))
            assert wrong.reason.endswith(reason)
        for fine in ("before", "after"):
            assert named(report, f"{fine}-{name}").state == "available"
    fatal = named(report, "of-fatal-one")
    assert (fatal.kind, fatal.reason) == ("entry point", "Python ended with status 4")
    assert named(report, "numpy").state == "available"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ImportError('libtoy.so')", "toyworks cannot be imported: ImportError: libtoy.so"),
        ("import os; os._exit(9)", "importing toyworks: Python ended with status 9"),
    ],
)
def test_a_frameworks_fault_is_not_its_plugins(plant: Plant, monkeypatch: Any, code: str, reason: str) -> None:
    plant("toy-framework", toyworks=code)
    plant("toy-plugin", hook("backends", "name='toy', target='toy_plugin:create', requires=('toyworks',)"))
    points = doctor.entry_points
    monkeypatch.setattr(doctor, "entry_points", lambda: [p for p in points() if p.name == "of-toy-plugin"])
    report = examine()
    toy = named(report, "toy")
    assert (toy.state, toy.reason, toy.command) == ("broken", reason, upgrade("toy-framework"))
    assert toy.origin == "of-toy-plugin (toy-plugin)"
    last = report.problems[-1]
    assert (last.what, last.command) == ("No backend can be used", "pip install 'svdkit[mindspore]'")


BACKENDS = """
from svdkit_numpy.backend import NumpyBackend

class Toy(NumpyBackend):
    name = "toy"
    def __init__(self, device=None, dtype=None):
        super().__init__(device, dtype)
    def attention(self, q, k, v, heads):
        raise RuntimeError("no kernel image")

def unmade(device, dtype):
    raise RuntimeError("no driver")

def wrong(device, dtype):
    return 42
"""


@pytest.mark.usefixtures("light")
def test_deep_makes_a_frame_on_every_backend(plant: Plant) -> None:
    specs = [f"name='{name.lower()}', target='toys:{name}'" for name in ("Toy", "unmade", "wrong")]
    plant("toy-plugin", hook("backends", *specs), toys=BACKENDS)
    shallow = examine()
    assert (named(shallow, "toy").state, named(shallow, "numpy").trial) == ("available", "")
    assert "its default device: RuntimeError: no driver" in named(shallow, "unmade").reason
    assert "returned 42, expected a svdkit.backend.Backend" in named(shallow, "wrong").reason
    report = examine(deep=True)
    toy = named(report, "toy")
    assert (toy.state, toy.command) == ("broken", upgrade("toy-plugin"))
    assert toy.reason == "a generation fails: RuntimeError: no kernel image"
    assert named(report, "numpy").trial == "cpu"
    assert "made a frame on cpu" in report.as_text()


def test_entry_points_that_cannot_be_read(plant: Plant, tmp_path: Path) -> None:
    plant("garbled-one", "")
    (tmp_path / "garbled_one-1.0.dist-info" / "entry_points.txt").write_text("[svdkit]\nof-garbled-one\n")
    first, last = examine().problems
    assert (first.what, first.command) == ("The entry points of garbled-one cannot be read", upgrade("garbled-one"))
    assert last.what == "No backend can be used"  # nor does anything else find one


def test_one_name_for_two_networks_is_in_order(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = "name='fast', target='engines:X', backend='numpy', component="
    plant("engine-one", hook("components", f"{spec}'unet'", f"{spec}'vae'"), engines="X = 1")
    points = doctor.entry_points
    monkeypatch.setattr(doctor, "entry_points", lambda: [p for p in points() if p.name == "of-engine-one"])
    assert [plugin.state for plugin in examine().plugins] == ["available"] * 2
    plant("engine-two", hook("components", f"{spec}'vae'"))
    monkeypatch.setattr(doctor, "entry_points", lambda: [p for p in points() if p.name.startswith("of-engine")])
    states = {(p.distribution, p.replaces[0]): p.state for p in examine().plugins}
    assert states.pop(("engine-one", "unet")) == "available"
    assert set(states.values()) == {"taken"}


def test_svdkits_own_is_not_to_be_uninstalled(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant("second-one", hook("schedulers", "name='euler', target='a:b'"))
    points = doctor.entry_points
    wanted = ("schedulers", "of-second-one")
    monkeypatch.setattr(doctor, "entry_points", lambda: [p for p in points() if p.name in wanted])
    (mend,) = {plugin.command for plugin in examine().plugins if plugin.name == "euler"}
    assert mend == "pip uninstall second-one"


# Versions that do not go together


def test_a_bad_combination_comes_with_the_command_that_mends_it(plant: Plant) -> None:
    plant("numpy", version="2.1.0")
    plant("mindspore", version="2.10.0")
    (problem,) = (p for p in unmet_requirements("svdkit") if "numpy" in p.what)
    assert problem.what == "svdkit[mindspore] needs numpy<2"
    assert problem.reason == "numpy 2.1.0 is installed. MindSpore's compiled modules need NumPy 1."
    assert problem.command == "pip install 'numpy<2'"


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="ml_dtypes is bound where NumPy 1 is in use")
def test_ml_dtypes_that_are_too_new(plant: Plant) -> None:
    plant("ml_dtypes", version="0.6.0")
    (problem,) = unmet_requirements("svdkit")
    assert problem.reason == "ml-dtypes 0.6.0 is installed"
    assert problem.command == "pip install 'ml-dtypes<0.6,>=0.5'"


def test_what_is_installed_here_goes_together() -> None:
    assert unmet_requirements("svdkit") == []


def test_requirements_of_plugins(plant: Plant) -> None:
    needs = ("there-is-no-framework>=3", "numpy>=1", "other; extra == 'all'", "old; python_version < '3'", "not valid!")
    plant("needy-one", metadata="Provides-Extra: all\n" + "".join(f"Requires-Dist: {need}\n" for need in needs))
    missing, invalid = unmet_requirements("needy-one")
    assert (missing.what, missing.reason, missing.command) == (
        "needy-one needs there-is-no-framework>=3",
        "there-is-no-framework is not installed",
        "pip install 'there-is-no-framework>=3'",
    )
    assert "'not valid!'" in invalid.what
    assert invalid.command == upgrade("needy-one")
    assert unmet_requirements("there-is-no-such-distribution") == []


# The machine


def fails(*_: Any, **__: Any) -> Any:
    raise RuntimeError("on purpose")


@pytest.mark.parametrize(
    ("where", "command"),
    [
        ("imageio_ffmpeg.get_ffmpeg_exe", "pip install --upgrade imageio-ffmpeg"),
        ("psutil.virtual_memory", "pip install --upgrade svdkit"),
        ("huggingface_hub.get_token", "pip install --upgrade huggingface_hub"),
        ("svdkit.hub.shipped_models", "pip install --upgrade svdkit"),
    ],
)
def test_what_cannot_be_found_out_is_a_problem(monkeypatch: pytest.MonkeyPatch, where: str, command: str) -> None:
    monkeypatch.setattr(where, fails)
    numpy = Plugin("backend", "numpy", "available", "numpy (svdkit)", "svdkit")
    monkeypatch.setattr(doctor, "entry_points", lambda: [None])
    monkeypatch.setattr(doctor, "_look_at", lambda point, seconds: [numpy])
    report = examine()
    (problem,) = report.problems
    assert problem.reason == "RuntimeError: on purpose"
    assert problem.command == command
    assert report.as_text().startswith("1 problem; 1 of 1 backends can be used:\n")


def test_accelerators(monkeypatch: pytest.MonkeyPatch) -> None:
    found = (Device("cuda:0", "A Card", 16 * 10**9), Device("cuda:1", "A Card", 16 * 10**9), Device("mps", "Apple GPU"))
    seen = Plugin("backend", "torch", "available", "torch (svdkit)", "svdkit", devices=found)
    monkeypatch.setattr(doctor, "entry_points", lambda: [None])
    monkeypatch.setattr(doctor, "_look_at", lambda point, seconds: [seen])
    assert "cuda:0 A Card (16.0 GB), cuda:1 A Card (16.0 GB), mps Apple GPU" in " ".join(examine().as_text().split())


def test_a_backend_that_cannot_list_its_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    from svdkit_numpy.backend import NumpyBackend

    monkeypatch.setattr(NumpyBackend, "found_devices", fails)
    spec = PluginSpec(name="numpy", target="svdkit_numpy.backend:NumpyBackend", summary="")
    answer = probe._look_at_backend(NumpyBackend, spec)
    assert answer["state"] == "available"
    unknown = {"name": "others", "description": "unknown (RuntimeError: on purpose)"}
    assert answer["devices"] == [{"name": "cpu"}, unknown]


def test_help_imports_none_of_it() -> None:
    code = (
        "import sys\ntry:\n    from svdkit.cli import main; main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    )
    for arguments in (["--help"], ["doctor", "--help"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert "doctor" in done.stdout
        assert {"svdkit.doctor", "svdkit.doctor.probe", "svdkit.doctor.report", "attrs"}.isdisjoint(done.stderr.split())

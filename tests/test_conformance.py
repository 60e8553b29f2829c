"""svdkit's own plugins through the public conformance suites, as a third party's would be.

Solvers' orders and convergence have more tests, in test_solvers.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import exact_problems as ep
import pytest
from click.testing import CliRunner

from svdkit.testing import BackendConformance, PluginConformance, SchedulerConformance
from svdkit.testing.__main__ import main
from svdkit.testing.kernels import KERNELS
from svdkit.testing.networks import PARTS
from svdkit.testing.tolerances import TOLERANCES

PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"


class TestNumpy(BackendConformance):
    backend = "numpy"


class TestMindSpore(BackendConformance):
    backend = "mindspore"
    device = "cpu"


class TestTorch(BackendConformance):
    backend = "torch"
    device = "cpu"
    # Whole networks take torch's compiler a minute and a half in each dtype; test_compile and test_torch.py are quick.
    test_compiled_equals_eager = pytest.mark.slow(BackendConformance.test_compiled_equals_eager)

    @pytest.fixture(autouse=True, scope="class")
    def _one_thread(self):
        """Threads that wait for each other take far longer than these small shapes do."""
        torch = pytest.importorskip("torch")
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)

    @staticmethod
    def gradient(function, x):
        import torch

        x = x.detach().requires_grad_()
        return torch.autograd.grad(function(x).sum(), x)[0]


def solver(spec: str, **attributes) -> None:
    """A class that pytest finds, for a scheduler with its options."""
    name = f"Test[{spec}]"
    globals()[name] = type(name, (SchedulerConformance,), {"scheduler": spec, "__module__": __name__, **attributes})


for spec, case in ep.DETERMINISTIC.items():
    solver(spec, order=case.order, sigma_max=case.sigma_max)
for spec in sorted(ep.STOCHASTIC.keys() - {"lcm"}):
    solver(spec, stochastic=True)
# A consistency model's answer is the end of the trajectory.
solver("lcm", stochastic=True, denoise=lambda self, x, sigma: self.problem.solution(x, sigma, 0.0))
for spec in ("dpm_adaptive", "dpm_adaptive:order=2"):
    solver(spec, arithmetic_only=False)


class TestNumpyPlugin(PluginConformance):
    plugin = "svdkit_numpy.plugin"


class TestMindSporePlugin(PluginConformance):
    plugin = "svdkit_mindspore.plugin"


class TestTorchPlugin(PluginConformance):
    plugin = "svdkit_torch.plugin"


class TestSchedulersPlugin(PluginConformance):
    plugin = "svdkit_schedulers.plugin"


def test_svdkit_imports_no_test_framework() -> None:
    code = "import sys, svdkit, svdkit.testing.random_checkpoint; print({'pytest', 'hypothesis'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# The table


def layers(page: str) -> dict[str, dict[str, float]]:
    """Errors of each layer, by backend and dtype."""
    heads, _, *rows = [
        line.strip("| ").split(" | ") for line in page.partition("begin -->")[2].splitlines() if line[:1] == "|"
    ]
    return {layer: dict(zip(heads[1:], map(float, errors), strict=True)) for layer, *errors in rows}


def test_the_table_is_put_between_its_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- conformance: begin -->\nold\n<!-- conformance: end -->\nafter\n", encoding="utf-8")
    done = CliRunner().invoke(main, ["numpy", "--examples", "1", "--output", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    for layer, errors in layers(text).items():
        assert errors["numpy float64"] == 0, layer  # it is the reference
        assert errors["numpy float32"] <= TOLERANCES["float32"].trajectory
    page.write_text("no markers", encoding="utf-8")
    assert CliRunner().invoke(main, ["numpy", "--examples", "1", "--output", str(page)]).exit_code == 1
    assert page.read_text(encoding="utf-8") == "no markers"


def test_the_page_has_every_layer_within_its_tolerance() -> None:
    table = layers(PAGE.read_text(encoding="utf-8"))
    assert set(table) >= {f"`{name}`" for name in KERNELS} | PARTS.keys()
    for layer, errors in table.items():
        for column, error in errors.items():
            tolerance = TOLERANCES[column.split()[-1]]
            assert error <= (tolerance.kernel if layer[0] == "`" else tolerance.trajectory), (layer, column)

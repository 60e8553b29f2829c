"""How far every solver is from the exact answer, on every sigma schedule, after 10, 25, 50 and 100 evaluations.

python benchmarks/solver_errors.py                              # prints Markdown
python benchmarks/solver_errors.py --write docs/schedulers.md   # puts it between that file's comments
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

import svdkit
from svdkit.errors import InputError
from svdkit.sampling import get_scheduler, sample

sys.path.append(str(Path(__file__).parents[1] / "tests"))
import exact_problems as ep

EVALUATIONS = (10, 25, 50, 100)
SIGMA_MAX = 700.0
SCHEDULES = ("karras", "exponential", "sgm_uniform", "ays", "beta", "linear_quadratic", "laplace", "cosine")
"""`uniform`, and `polyexponential` with its default, are `exponential`; `lcm` has 40 levels at most."""
TWICE = {"heun", "edm_stochastic", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde"}
SOLVERS = (
    "euler",
    "heun",
    "dpm_2",
    "lms",
    "deis",
    "ipndm",
    "dpmpp_2m",
    "unipc",
    "unipc:order=3",
    "res_multistep",
    "ddim",
    "euler_ancestral:eta=0",
    "dpm_2_ancestral:eta=0",
    "dpmpp_2s_ancestral:eta=0",
    "dpmpp_sde:eta=0",
    "dpmpp_2m_sde:eta=0",
    "dpmpp_3m_sde:eta=0",
    "sa_solver:tau=0",
    "edm_stochastic:s_churn=0",
)
STOCHASTIC = (
    "euler_ancestral",
    "ddim:eta=1",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_3m_sde",
    "sa_solver",
    "edm_stochastic",
)
TOLERANCES = (0.2, 0.05, 0.01, 0.001)


def steps_of(solver: str, evaluations: int) -> int:
    """Steps that take at most so many evaluations; a step to 0 takes one."""
    return (evaluations + 1) // 2 if solver.partition(":")[0] in TWICE else evaluations


def short(error: float) -> str:
    """One digit: `3e-4`."""
    mantissa, _, exponent = f"{error:.0e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def trajectory_error(problem: ep.Gaussian | ep.Mixture, solver: str, schedule: str, evaluations: int) -> float:
    """Of the end point, root mean square over the coordinates, relative to the exact one."""
    levels = svdkit.sigma_schedule(schedule, steps_of(solver, evaluations))
    x = sample(problem.denoise, problem.start(SIGMA_MAX), sigmas=levels, scheduler=get_scheduler(solver)).x
    true = ep.exact(problem, SIGMA_MAX, 0.0)
    return float(np.linalg.norm(x - true) / np.linalg.norm(true))


def variance_error(solver: str, schedule: str, evaluations: int) -> float:
    """Of the variance that normal data come out with, relative, without Monte-Carlo error."""
    levels = svdkit.sigma_schedule(schedule, steps_of(solver, evaluations))
    denoise = ep.Gaussian(np.float64(ep.MEAN), np.float64(ep.SPREAD)).denoise
    _, variance = ep.moments(get_scheduler(solver), levels, denoise, ep.MEAN, math.hypot(ep.SPREAD, SIGMA_MAX))
    return abs(variance / ep.SPREAD**2 - 1)


def table(solvers: tuple[str, ...], error: Callable[[str, str, int], float]) -> list[str]:
    """A row for each solver, a column for each schedule, and in each cell the errors in order of evaluations."""
    lines = ["| solver | " + " | ".join(SCHEDULES) + " |", "|---" * (len(SCHEDULES) + 1) + "|"]
    for solver in solvers:
        cells = [" ".join(short(error(solver, schedule, n)) for n in EVALUATIONS) for schedule in SCHEDULES]
        lines.append(f"| `{solver}` | " + " | ".join(cells) + " |")
    return lines


def adaptive() -> list[str]:
    """dpm_adaptive, which takes as many evaluations as its tolerance asks for."""
    lines = ["| rtol | mixture: evaluations | error | Gaussian: evaluations | error |", "|---" * 5 + "|"]
    for rtol in TOLERANCES:
        cells = []
        for problem in (ep.MIXTURE, ep.GAUSSIAN):
            solver = get_scheduler(f"dpm_adaptive:rtol={rtol},atol={rtol / 10}")
            start, true = problem.start(SIGMA_MAX), ep.exact(problem, SIGMA_MAX, 0.0)
            run = sample(problem.denoise, start, sigmas=[SIGMA_MAX, 0.002], scheduler=solver)
            cells += [str(run.nfe), short(float(np.linalg.norm(run.x - true) / np.linalg.norm(true)))]
        lines.append(f"| {rtol:g} | " + " | ".join(cells) + " |")
    return lines


def report() -> str:
    """All tables, as Markdown."""
    lines = ["Each cell: after " + ", ".join(map(str, EVALUATIONS)) + " evaluations at most."]
    for title, problem in (("Mixture of two Gaussians", ep.MIXTURE), ("Gaussian", ep.GAUSSIAN)):

        def error(solver: str, schedule: str, n: int, problem: ep.Gaussian | ep.Mixture = problem) -> float:
            return trajectory_error(problem, solver, schedule, n)

        lines += ["", f"#### {title}: relative error of the end point", "", *table(SOLVERS, error)]
    lines += ["", "#### With noise: relative error of the variance of Gaussian data", ""]
    lines += table(STOCHASTIC, variance_error)
    lines += ["", "#### `dpm_adaptive` from 700 to 0.002 and 0, atol = rtol / 10", "", *adaptive()]
    return "\n".join(lines)


def write(path: Path, text: str) -> None:
    """Replaces what a file has between its two comments.

    Raises:
        InputError: it has not both of them, in order.
    """
    begin, end = "<!-- solver errors: begin -->", "<!-- solver errors: end -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, also, after = rest.partition(end)
    if not found or not also:
        raise InputError(f"{str(path)!r} has no lines {begin} and {end}.")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Print the tables, or write them into a file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between this file's comments")
    options = parser.parse_args()
    if options.write:
        write(options.write, report())
    else:
        print(report())


if __name__ == "__main__":
    main()

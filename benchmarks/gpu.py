"""On one GPU, in one call of less than ten minutes: the true UNet step and a whole generation, beside diffusers.

python benchmarks/gpu.py       # img2vid-xt's size, 576x1024, 25 frames, 25 steps, bfloat16

svdkit eager and compiled, diffusers eager and with `torch.compile`, each in a process of its own with its pipeline
loaded. All load and compile at the same time, since that takes minutes of CPU; then outputs are compared, and steps,
chunks of frames and generations are timed in turn. What fails to compile, or runs out of memory, is left out and named.
The floor of a step is its operations over the measured peak of a matrix product. The result is written after each
phase; a profile of the eager step comes last, if there is time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from typing import Any

from attrs import evolve
from floors import measure_floors
from record import name_of, save, spread, warn_if_busy
from sides import Task, add_options, task_of
from workers import BOUNDS, Worker, disagreement

from svdkit.checkpoint import component_config
from svdkit.errors import SvdkitError
from svdkit.memory.meter import Meter
from svdkit.memory.planning import Job, Settings, metered, run
from svdkit.plugins import make

SIDES = ("svdkit", "svdkit compiled", "diffusers", "diffusers compiled")


def step_operations(task: Task) -> int:
    """Floating-point operations of the products of one guided step, and the few that are done once a generation."""
    kernels = make("backend", task.backend, None, task.device, task.dtype)
    config, _ = component_config("unet", Path(task.checkpoint), kernels)
    meter = Meter(kernels)
    run("denoise", metered("unet", config, meter), Job(task.height, task.width, task.frames, 1, True), Settings())
    return sum(meter.ledger.flops.values())


class Sides:
    """Workers that are left, and what is known so far.

    Args:
        task: svdkit's, of all parts.
        names: which of `SIDES`.
        stack: ends the workers.
        until: when they are ended at the latest (`time.monotonic`).
    """

    def __init__(self, task: Task, names: Sequence[str], stack: ExitStack, until: float) -> None:
        tasks = {name: evolve(task, side=name.split()[0], compile="compiled" in name) for name in names}
        self.workers = {name: stack.enter_context(Worker(task)) for name, task in tasks.items()}
        self.until, self.failed = until, dict[str, str]()
        for worker in self.workers.values():
            timer = Timer(max(0.0, until - time.monotonic()), worker.process.kill)
            timer.start()
            stack.callback(timer.cancel)

    def each(self, action: Callable[[str, Worker], Any], backwards: bool = False) -> dict[str, Any]:
        """What an action returns for every worker. One that fails is named and left out from then on."""
        answers = {}
        for name, worker in list(self.workers.items())[:: -1 if backwards else 1]:
            try:
                answers[name] = action(name, worker)
            except SvdkitError as error:
                print(f"{name} is left out: {error}", flush=True)
                self.failed[name] = str(error)
                del self.workers[name]
        return answers

    def warm_up(self, parts: Sequence[str], folder: Path) -> dict[str, dict[str, float]]:
        """Load, and compile and run each part once, all at the same time; how far outputs are from the first's."""
        self.each(lambda name, worker: worker.answer())
        errors = {}
        for part in parts:
            outputs = {name: folder / f"{part} {name}.npy" for name in self.workers}
            self.each(lambda name, worker: worker.order(part, outputs[name]))  # noqa: B023
            self.each(lambda name, worker: worker.answer())
            first = next(iter(self.workers), "")
            both = {name: {first: outputs[first], name: outputs[name]} for name in self.workers}
            errors[part] = self.each(lambda name, worker: disagreement(both[name], worker.task.dtype))  # noqa: B023
        return errors

    def time(self, part: str, rounds: int, floor: float | None) -> dict[str, Any]:
        """Times of a part in turn, as many rounds as there is time for; prints the medians."""
        answers: dict[str, list[Any]] = {name: [] for name in self.workers}
        longest = 0.0
        for i in range(rounds):
            begin = time.monotonic()
            if begin + longest > self.until:
                break
            for name, answer in self.each(lambda _, worker: worker.run(part), bool(i % 2)).items():
                answers[name].append(answer)
            longest = max(longest, time.monotonic() - begin)
        seconds = {name: [answer["seconds"] for answer in answers[name]] for name in self.workers if answers[name]}
        spreads = {name: spread(times) for name, times in seconds.items()}
        peer = min((s["median"] for name, s in spreads.items() if name.startswith("diffusers")), default=None)
        for name, s in spreads.items():
            against = f", {s['median'] / peer:.2f} of the better diffusers" if peer else ""
            beside = f", {s['median'] / floor:.2f} times the floor" if floor else ""
            print(f"{part:10}{name:20}{s['median']:9.3f} s of {len(seconds[name])} runs{against}{beside}", flush=True)
        peaks = {name: answers[name][-1].get("peak_device") for name in seconds}
        return {"seconds": seconds, "spread": spreads, "peak_device": peaks}


def main() -> None:
    """Measure, print, and write the result."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = {"height": 576, "width": 1024, "frames": 25, "steps": 25, "decode_chunk": 5}
    add_options(parser, backend="torch", device="cuda", dtype="bfloat16", **size)
    parser.add_argument("--generations", type=int, default=2, help="of each side, as far as there is time")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--seconds", type=float, default=540, help="for all of it")
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices that give the peak")
    options = parser.parse_args()
    warn_if_busy()
    until = begin + options.seconds
    task = task_of(options, "unet", "decode", "generate")
    name = name_of("gpu", task)
    floors, operations = measure_floors(task.device, task.dtype, options.matrix), step_operations(task)
    floor = operations / floors.peak
    print(f"a step is {operations / 1e12:.4g} TFLOP; peak {floors.peak / 1e12:.3g} TFLOP/s: floor {floor:.4g} s")
    result: dict[str, Any] = {
        "operations": operations,
        "peak": floors.peak,
        "floor": floor,
        "bound": BOUNDS[task.dtype],
    }
    with ExitStack() as stack, TemporaryDirectory() as folder:
        sides = Sides(task, options.sides, stack, until)
        result["errors"] = sides.warm_up(("unet", "decode"), Path(folder))
        result["failed"] = sides.failed
        print(f"loaded, compiled and compared after {time.monotonic() - begin:.0f} s: {result['errors']}", flush=True)
        for part, rounds in (("unet", options.runs), ("decode", options.runs), ("generate", options.generations)):
            result[part] = sides.time(part, rounds, floor if part == "unet" else None)
            print(save(options.results, name, task, result), flush=True)
    script = [sys.executable, str(Path(__file__).with_name("profile_step.py")), "unet", "--by", "shape"]
    for option in ("backend", "device", "dtype", "height", "width", "frames", "checkpoint", "results", "matrix"):
        script += [f"--{option}", str(getattr(options, option))]
    try:
        subprocess.run(script, check=True, timeout=max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        print("There was no time left for the profile; profile_step.py makes it.")


if __name__ == "__main__":
    try:
        main()
    except SvdkitError as error:
        sys.exit(str(error))

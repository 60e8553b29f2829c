"""Processes that each hold one side of a comparison and run its parts when told, so that neither disturbs the other.

Orders and answers are lines of JSON through pipes. Between its runs a worker is stopped by a signal: threads that spin
while they wait take nothing from the other side.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
from attrs import asdict
from sides import SIDES, Task

from svdkit.arrays import to_host
from svdkit.errors import SvdkitError

BOUNDS = {"float32": 1e-4, "float16": 3e-2, "bfloat16": 1e-1}
"""How far two outputs may be apart, relative. Rounding alone is 1e-6 to 5e-6 in float32, 4e-3 in float16 and 3e-2 in
bfloat16 (docs/numerics.md), here that of both sides; a wrong layer is an error of order one."""
QUIET = {"GLOG_v": "3", "TQDM_DISABLE": "1", "DIFFUSERS_VERBOSITY": "error", "TRANSFORMERS_VERBOSITY": "error"}


class Runs(Protocol):
    """What `alternate` times."""

    def run(self, part: str, save: Path | None = None) -> dict[str, Any]:
        """Run a part once; the answer has its `seconds`. Its output goes to a `.npy` file if asked for."""
        ...


class Worker:
    """A process that loads a task, then waits for orders.

    Args:
        task: what it holds.

    It loads at once and nobody waits for it until `answer` or `run`, so several can load together.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.began = task, time.time()
        threads = {"OMP_NUM_THREADS": str(task.threads)} if task.threads else {}
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(asdict(task))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**QUIET, **os.environ, **threads},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def order(self, part: str, save: Path | None = None) -> None:
        """Have it run a part; `answer` waits for the end."""
        self.process.send_signal(signal.SIGCONT)
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # `answer` tells how it ended
            print(json.dumps({"part": part, "save": save and str(save)}), file=self.process.stdin, flush=True)

    def answer(self, rest: bool = True) -> dict[str, Any]:
        """What it says next; the first answer says that it has loaded.

        Args:
            rest: stop it then.

        Raises:
            SvdkitError: the process ended; its own words are on stderr.
        """
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SvdkitError(
                f"The process with {self.task.side} ended with status {self.process.wait()} before it answered; "
                "what it wrote above says why."
            )
        if rest:
            self.process.send_signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, part: str, save: Path | None = None) -> dict[str, Any]:
        """One run; see `Runs`."""
        self.order(part, save)
        return self.answer()

    def finish(self) -> float:
        """Let it end by itself, if it does not rest; the seconds from its start to its end."""
        self.process.communicate()
        return time.time() - self.began


class Whole:
    """A new process for every run, timed from its start to its end: imports, loading and all."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def run(self, part: str, save: Path | None = None) -> dict[str, Any]:
        """One run; see `Runs`. `reached` has the seconds from the start to each point on the way."""
        with Worker(self.task) as worker:
            worker.order(part, save)
            loaded, answer = worker.answer(rest=False), worker.answer(rest=False)
            times = {"loaded": loaded["time"], **answer["marks"], "frames": answer["time"]}
            reached = {name: at - worker.began for name, at in times.items()}
            return answer | {"seconds": worker.finish(), "reached": reached}


def alternate(workers: Mapping[str, Runs], part: str, rounds: int) -> dict[str, list[Any]]:
    """Answers of each by name, one run a round; who begins alternates."""
    answers: dict[str, list[Any]] = {name: [] for name in workers}
    for i in range(rounds):
        for name in list(workers)[:: -1 if i % 2 else 1]:
            answers[name].append(workers[name].run(part))
    return answers


def disagreement(outputs: Mapping[str, Path], dtype: str) -> float:
    """How far outputs are from the first of them: the largest relative error, whole tensors, Frobenius norm.

    Raises:
        SvdkitError: that is more than rounding, so their times compare nothing.
    """
    (name, first), *others = ((name, np.load(path).astype(np.float64)) for name, path in outputs.items())
    worst = 0.0
    for other, values in others:
        same = values.shape == first.shape
        error = float(np.linalg.norm(values - first) / np.linalg.norm(first)) if same else np.inf
        if not error <= BOUNDS[dtype]:  # NaN is refused too
            raise SvdkitError(
                f"The outputs of {name} {first.shape} and {other} {values.shape} differ by {error:.1e}, relative; at "
                f"most {BOUNDS[dtype]:.0e} is rounding in {dtype}. Nothing was timed: they do not compute the same."
            )
        worst = max(worst, error)
    return worst


def measure(tasks: Mapping[str, Task], rounds: int) -> dict[str, Any]:
    """One part on several sides: outputs compared after a first run, then times, alternating.

    Returns:
        the largest `error` between outputs, and by side the `answers` to each timed run.

    Raises:
        SvdkitError: outputs differ, or a process ended.
    """
    (part,), *_ = parts = [task.parts for task in tasks.values()]
    assert len(set(parts)) == 1
    dtype = next(iter(tasks.values())).dtype
    with ExitStack() as stack, TemporaryDirectory() as folder:
        workers: dict[str, Runs] = {}
        for name, task in tasks.items():
            if part == "generate":
                workers[name] = Whole(task)
            else:
                worker = workers[name] = stack.enter_context(Worker(task))
                worker.answer()
        outputs = {name: Path(folder, f"{name}.npy") for name in workers}
        for name, worker in workers.items():
            worker.run(part, outputs[name])
        error = disagreement(outputs, dtype)
        return {"error": error, "bound": BOUNDS[dtype], "answers": alternate(workers, part, rounds)}


def serve(task: Task) -> None:
    """The worker's own process. Its stdout is for answers alone; what frameworks print there goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if task.threads and hasattr(os, "sched_setaffinity"):  # before frameworks count the processors
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: task.threads])

    def say(**answer: Any) -> None:
        answer |= {"time": time.time(), "peak_resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        if task.device.startswith("cuda"):
            answer["peak_device"] = sys.modules["torch"].cuda.max_memory_allocated()
        print(json.dumps(answer), file=answers, flush=True)

    marks: dict[str, float] = {}
    side = SIDES[task.side](task, marks)
    runs = {part: side.run(part) for part in task.parts}
    say()
    for line in sys.stdin:
        order = json.loads(line)
        start = time.perf_counter()
        output = runs[order["part"]]()
        to_host(output.reshape(-1)[:1])  # one element on the host: whatever the device had to do for it is done
        seconds = time.perf_counter() - start
        if order["save"]:
            np.save(order["save"], to_host(output).astype(np.float32))
        say(seconds=seconds, marks=marks)


if __name__ == "__main__":
    serve(Task(**json.loads(sys.argv[1])))

"""What starting costs: the command's help, the import, and loading a checkpoint beside reading its bytes.

python benchmarks/startup.py --backend mindspore

Every run is a new process. The checkpoint is read once before, so that it is in the system's cache. Its bytes are read
into memory of their own, as a loaded checkpoint's are, and the runs of the two alternate. Loading is
`StableVideoDiffusionPipeline.from_pretrained`, once the framework is imported.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from record import name_of, ratio, save, spread, warn_if_busy
from sides import Task, add_options, task_of

COMMANDS = {
    "python, nothing else": ["-c", "pass"],
    "svdkit --help": [str(Path(sys.executable).with_name("svdkit")), "--help"],
    "import svdkit": ["-c", "import svdkit"],
    "import diffusers' pipeline": ["-c", "from diffusers import StableVideoDiffusionPipeline"],
}
READ = """
import sys, time, numpy
start = time.perf_counter()
held = [numpy.fromfile(path, numpy.uint8) for path in sys.argv[1:]]
print(time.perf_counter() - start)
"""
LOAD = """
import sys, time
from svdkit import StableVideoDiffusionPipeline
from svdkit.plugins import make
folder, backend, device, dtype = sys.argv[1:]
make("backend", backend, None, device, dtype)
start = time.perf_counter()
pipe = StableVideoDiffusionPipeline.from_pretrained(folder, backend=backend, device=device, dtype=dtype, memory="max")
print(time.perf_counter() - start)
"""


def whole(arguments: Sequence[str], count: int) -> list[float]:
    """Seconds of Python processes from start to end, after one that is not counted."""
    seconds = []
    for _ in range(count + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def inside(code: str, *arguments: str) -> float:
    """The seconds that a process prints last."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1])


def loading(task: Task, rounds: int) -> dict[str, list[float]]:
    """Seconds of loading a checkpoint and of reading its bytes."""
    files = sorted(str(path) for path in Path(task.checkpoint).rglob("*.safetensors"))
    seconds: dict[str, list[float]] = {"load": [], "read": []}
    inside(READ, *files)
    for _ in range(rounds):
        seconds["load"].append(inside(LOAD, task.checkpoint, task.backend, task.device, task.dtype))
        seconds["read"].append(inside(READ, *files))
    return seconds


def main() -> None:
    """Measure, print, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--processes", type=int, default=10, help="of each command")
    options = parser.parse_args()
    warn_if_busy()
    task = task_of(options, "generate")
    seconds = {name: whole(arguments, options.processes) for name, arguments in COMMANDS.items()}
    seconds |= loading(task, options.runs)
    for name, times in seconds.items():
        s = spread(times)
        print(f"{name:28}{s['median']:8.3f} s   {s['least']:.3f} to {s['most']:.3f}, {len(times)} processes")
    against, low, high = ratio(seconds["load"], seconds["read"])
    print(f"load / read {against:.2f}, 95 % interval {low:.2f} to {high:.2f}")
    figures = {"seconds": seconds, "load_over_read": (against, low, high)}
    print(save(options.results, name_of("startup", task), task, figures))


if __name__ == "__main__":
    main()

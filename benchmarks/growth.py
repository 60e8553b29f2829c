"""How time grows with steps and with frames, and memory of attention with tokens; a line is fitted to each.

python benchmarks/growth.py --backend mindspore
python benchmarks/growth.py --backend torch --device cuda --dtype bfloat16 --height 576 --width 1024

Times are those of the stages of a generation, in one process, each size once before it counts and then in turn.
Memory is the peak beside the arguments, in a new process for every number of tokens: what the device says it
allocated at most, or resident memory on a CPU (Linux). 9216 tokens are a frame of 576x1024.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attrs import frozen
from record import name_of, save, warn_if_busy
from sides import Svdkit, Task, add_options, task_of

STEPS, FRAMES, TOKENS = (1, 2, 4, 6, 8), (2, 4, 6, 8, 10), (1024, 2304, 4096, 9216, 16384)
HEADS, CHANNELS = 5, 320


@frozen
class Line:
    """Least squares of `y = slope x + start`."""

    slope: float
    start: float
    residual: float
    """The largest distance of a point from the line, over the largest y."""

    @classmethod
    def fit(cls, x: Sequence[float], y: Sequence[float]) -> Line:
        """Through all points."""
        slope, start = np.polyfit(x, y, 1)
        return cls(float(slope), float(start), float(np.abs(np.polyval((slope, start), x) - y).max() / np.max(y)))


def times(side: Svdkit, what: str, sizes: Sequence[int], rounds: int) -> dict[str, list[float]]:
    """Median seconds of denoising and of decoding for each number of `"steps"` or `"frames"`."""
    task, timings = side.task, {size: list[dict[str, float]]() for size in sizes}
    for i in range(rounds + 1):
        for size in list(sizes)[:: -1 if i % 2 else 1]:
            output = side.networks(
                np.full((1, 3, task.height, task.width), 0.5, np.float32),
                height=task.height,
                width=task.width,
                num_frames=size if what == "frames" else task.frames,
                num_inference_steps=size if what == "steps" else task.steps,
                decode_chunk_size=task.decode_chunk,
                generator=0,
                output_type="np",
                return_dict=True,
            )
            timings[size].append(output.timings)
    return {
        stage: [float(np.median([run[stage] for run in timings[size][1:]])) for size in sizes]
        for stage in ("denoise", "decode")
    }


def attention_memory(task: Task, tokens: Sequence[int]) -> list[float]:
    """Peak bytes of attention on one frame, each in a process of its own."""
    command = [sys.executable, __file__, "--attention", task.backend, task.device, task.dtype]
    return [
        float(subprocess.run([*command, str(n)], check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])
        for n in tokens
    ]


def needed_by_attention(backend: str, device: str, dtype: str, tokens: int) -> int:
    """Peak bytes beside the arguments of one call, in this process."""
    from svdkit.plugins import make

    k = make("backend", backend, None, device, dtype)
    for length in (64, tokens):  # the first for what a framework takes once, such as its threads
        values = np.random.default_rng(0).standard_normal((1, length, CHANNELS), np.float32)
        q, keys, more = (k.array(values) for _ in range(3))
        base = _held(device)
        k.numpy(k.attention(q, keys, more, HEADS)[:, :1])
    return _peak(device) - base


def _held(device: str) -> int:
    """Bytes that are allocated; the peak begins anew."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    return _resident("VmRSS")


def _peak(device: str) -> int:
    if device.startswith("cuda"):
        import torch

        return torch.cuda.max_memory_allocated()
    return _resident("VmHWM")


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main() -> None:
    """Measure, print, and write the result."""
    if sys.argv[1:2] == ["--attention"]:
        backend, device, dtype, tokens = sys.argv[2:]
        print(needed_by_attention(backend, device, dtype, int(tokens)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, runs=3, steps=2)
    for name, sizes in (("steps", STEPS), ("frames", FRAMES), ("tokens", TOKENS)):
        parser.add_argument(f"--{name}-of", type=int, nargs="+", default=sizes, metavar="N", help="sizes to measure")
    options = parser.parse_args()
    warn_if_busy()
    task = task_of(options, "generate")
    side = Svdkit(task, {})
    side.networks.set_progress_bar_config(disable=True)
    result: dict[str, Any] = {}
    for what, sizes in (("steps", options.steps_of), ("frames", options.frames_of)):
        for stage, seconds in times(side, what, sizes, options.runs).items():
            if (what, stage) != ("steps", "decode"):
                result[f"{stage}, seconds by {what}"] = sizes, seconds
    result["attention, bytes by tokens"] = options.tokens_of, attention_memory(task, options.tokens_of)
    for name, (sizes, values) in result.items():
        line = Line.fit(sizes, values)
        print(f"{name}: {', '.join(f'{x}: {y:.4g}' for x, y in zip(sizes, values, strict=True))}")
        print(f"    {line.slope:.4g} each and {line.start:.4g} at once; no point is {line.residual:.1%} off the line")
    print(save(options.results, name_of("growth", task), task, {"growth": result}))


if __name__ == "__main__":
    main()

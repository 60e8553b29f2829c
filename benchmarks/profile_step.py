"""Where the time of one part goes on svdkit, kernel by kernel, beside the least that it can take on this machine.

python benchmarks/profile_step.py unet --backend mindspore
python benchmarks/profile_step.py decode --backend torch --device cuda --dtype bfloat16 --by shape

A proxy stands in front of the backend and times each of its layers and functions, waiting for the device before and
after. A kernel's floor is the larger of its operations over the peak of a large matrix product and its bytes (what it
is given, its weight, its result) over the bandwidth of a large copy, both measured first; how many transformations a
faster algorithm would save is not in it, so a Winograd convolution can be below. Sums of arrays and slices pass by
the proxy: they are the row "between kernels".
"""

from __future__ import annotations

import argparse
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from attrs import define, field, frozen
from floors import Floors, best, measure_floors, waiter
from record import name_of, save, warn_if_busy
from sides import NETWORKS, Svdkit, Task, add_options, task_of

from svdkit.backend import itemsize

LAYERS = {"conv2d", "temporal_conv", "upsample_conv2d", "linear", "geglu", "group_norm", "layer_norm", "mix"}
FUNCTIONS = {
    *("silu", "gelu", "quick_gelu", "attention", "temporal_attention", "swap_axes", "add_rows", "upsample"),
    *("to_map", "from_map", "tokens", "from_tokens", "concat_channels", "concat", "cast"),
}
Shape = tuple[int, ...]


@frozen
class Timed:
    """One call of a kernel."""

    kernel: str
    shape: str
    """Of its weight, or else of its first argument."""
    seconds: float
    operations: int
    moved: int
    """Bytes read and written, each once."""


@define
class Profiler:
    """A backend that times another one's kernels.

    Args:
        backend: what computes.
        calls: noted here while `on`.
    """

    backend: Any
    calls: list[Timed] = field(factory=list)
    on: bool = False

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.backend, name)
        if name in LAYERS:

            def build(weight: Any, *others: Any, **options: Any) -> Callable[..., Any]:
                return self._timed(name, member(weight, *others, **options), tuple(weight.shape))

            return build
        return self._timed(name, member) if name in FUNCTIONS else member

    def with_dtype(self, dtype: str) -> Profiler:
        """The same in another dtype, noted in the same list."""
        return Profiler(self.backend.with_dtype(dtype), self.calls, self.on)

    def _timed(self, kernel: str, function: Callable[..., Any], weight: Shape = ()) -> Callable[..., Any]:
        wait = waiter(self.backend.device)

        def run(*args: Any, **options: Any) -> Any:
            if not self.on:
                return function(*args, **options)
            wait()
            start = time.perf_counter()
            result = function(*args, **options)
            wait()
            seconds = time.perf_counter() - start
            shapes = [tuple(a.shape) for a in _arrays(args)]
            shape = "x".join(map(str, weight or shapes[0]))
            elements = sum(math.prod(s) for s in [*shapes, weight, tuple(result.shape)] if s)
            count = operations(kernel, weight, shapes, tuple(result.shape), args)
            moved = elements * itemsize(self.backend.dtype)
            self.calls.append(Timed(kernel, shape, seconds, count, moved))
            return result

        return run


def _arrays(args: Iterable[Any]) -> Iterable[Any]:
    for a in args:
        if hasattr(a, "shape"):
            yield a
        elif isinstance(a, (list, tuple)):
            yield from _arrays(a)


def operations(kernel: str, weight: Shape, inputs: list[Shape], output: Shape, args: tuple[Any, ...]) -> int:
    """Of a kernel's products; a multiplication and an addition are two, convolutions are counted as direct ones."""
    match kernel:
        case "conv2d" | "temporal_conv" | "upsample_conv2d" | "linear":
            return 2 * math.prod(output) * math.prod(weight[1:])
        case "geglu":
            return 2 * math.prod(inputs[0][:-1]) * math.prod(weight)
        case "attention":
            return 4 * math.prod(inputs[0]) * inputs[1][1]
        case "temporal_attention":
            return 4 * math.prod(inputs[0]) * int(args[4])
    return 0


@frozen
class Profile:
    """A part of a generation, with and without its kernels timed; seconds."""

    plain: float
    """With no kernel timed."""
    total: float
    """With each of them timed."""
    calls: list[Timed]
    floors: Floors

    def rows(self, by: str = "kernel") -> list[dict[str, Any]]:
        """Calls joined by `"kernel"`, or by kernel and `"shape"`; what takes longest first."""
        joined: dict[str, list[Timed]] = defaultdict(list)
        for call in self.calls:
            joined[call.kernel if by == "kernel" else f"{call.kernel} {call.shape}"].append(call)
        joined["between kernels"] = [Timed("", "", self.total - sum(call.seconds for call in self.calls), 0, 0)]
        rows = [
            {
                "kernel": name,
                "calls": len(calls),
                **{what: sum(getattr(call, what) for call in calls) for what in ("seconds", "operations", "moved")},
                "floor": sum(self.floors.seconds(call.operations, call.moved) for call in calls),
            }
            for name, calls in joined.items()
        ]
        return sorted(rows, key=lambda row: -row["seconds"])

    def table(self, by: str = "kernel", most: int = 25) -> str:
        """The rows as Markdown, and what they come to."""
        f, work = self.floors, sum(call.operations for call in self.calls)
        lines = ["| kernel | calls | ms | of all | GFLOP | MB | floor, ms | ms / floor |", "|---" * 8 + "|"]
        for row in self.rows(by)[:most]:
            seconds, floor = row["seconds"], row["floor"]
            lines.append(
                f"| {row['kernel']} | {row['calls']} | {1e3 * seconds:.1f} | {seconds / self.total:.0%} | "
                f"{row['operations'] / 1e9:.1f} | {row['moved'] / 1e6:.0f} | {1e3 * floor:.1f} | "
                f"{f'{seconds / floor:.1f}' if floor else ''} |"
            )
        least = work / f.peak
        return "\n".join(lines) + (
            f"\n\nIn all {self.plain:.3f} s, with kernels timed {self.total:.3f} s. Peak of a matrix product: "
            f"{f.peak / 1e9:.0f} GFLOP/s; bandwidth of a copy: {f.bandwidth / 1e9:.1f} GB/s. The floor of "
            f"{work / 1e12:.4g} TFLOP is {least:.4g} s; {self.plain / least:.2f} times that is taken."
        )


def profile(task: Task, runs: int = 3, size: int | None = None) -> Profile:
    """The fastest of some runs with kernels timed, and the fastest of as many without.

    Args:
        task: one part, of svdkit.
        runs: how many of each.
        size: of the matrices that floors are measured with; see `measure_floors`.
    """
    part, wait = task.parts[0], waiter(task.device)
    floors = measure_floors(task.device if task.backend == "torch" else "cpu", task.dtype, size)
    side = _Profiled(task, {})
    run, backend = side.run(part), getattr(side.networks, NETWORKS[part]).backend

    def once(on: bool) -> tuple[float, list[Timed]]:
        backend.on = on
        backend.calls.clear()
        seconds = best(run, wait, repeats=1, warm=False)
        return seconds, list(backend.calls)

    once(False)
    plain = min(once(False)[0] for _ in range(runs))
    total, calls = min((once(True) for _ in range(runs)), key=lambda timed: timed[0])
    return Profile(plain, total, calls, floors)


class _Profiled(Svdkit):
    """svdkit with a profiler in front of its backend."""

    def _backend(self) -> Any:
        return Profiler(super()._backend())


def main() -> None:
    """Profile one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(NETWORKS))
    add_options(parser, runs=3)
    parser.add_argument("--by", choices=("kernel", "shape"), default="kernel", help="how calls are joined")
    parser.add_argument("--matrix", type=int, help="side of the matrices that give the peak")
    options = parser.parse_args()
    warn_if_busy()
    task = task_of(options, options.part)
    measured = profile(task, options.runs, options.matrix)
    print(measured.table(options.by))
    figures = {"plain": measured.plain, "total": measured.total, "rows": measured.rows(options.by)}
    print(save(options.results, name_of(f"profile-{options.part}", task), task, figures))


if __name__ == "__main__":
    main()

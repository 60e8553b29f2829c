"""Steps of an optimiser that can be killed at any moment and go on to the same weights."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm

from svdkit.backend import Host
from svdkit.errors import NumericalError

WARM_UP = 200
"""Steps over which the learning rate rises."""
LARGEST_GRADIENT = 1.0
_PARTS = ("weights", "average", "first", "second")


class Loop:
    """Weights being trained, their moving average and the optimiser's moments, kept together in one file.

    A step is a function of the weights and of its number: whatever is random in it comes from generators that are
    seeded with that number. So training that goes on from step n does what it would have done without a stop.

    Args:
        path: the file; training goes on from it if it exists.
        weights: where training begins.
        steps: how many there are in all.
        rate: the highest learning rate; it falls along a cosine to a hundredth (arXiv:1608.03983).
        average: what the moving average keeps of itself a step, in the long run.
        device: of torch.
        every: seconds between two writes of the file.
    """

    def __init__(
        self,
        path: Path,
        weights: Mapping[str, Host],
        *,
        steps: int,
        rate: float,
        average: float,
        device: str = "cpu",
        every: float = 60,
    ) -> None:
        self.path, self.steps, self.rate, self.decay, self.every = path, steps, rate, average, every
        self.step = 0
        self.weights = {key: torch.tensor(value, device=device).requires_grad_() for key, value in weights.items()}
        self.average = {key: w.detach().clone() for key, w in self.weights.items()}
        self._optimizer = torch.optim.AdamW(self.weights.values(), lr=rate, betas=(0.9, 0.99), fused=True)
        for w in self.weights.values():
            self._optimizer.state[w] = {
                "step": torch.tensor(0.0, device=device),
                "exp_avg": torch.zeros_like(w),
                "exp_avg_sq": torch.zeros_like(w),
            }
        if path.exists():
            self._load()

    def run(self, loss: Callable[[int], Tensor], name: str, show: Callable[[], None] | None = None) -> None:
        """Take the steps that are left.

        Args:
            loss: of the weights as they are, at a step.
            name: shown beside the progress.
            show: called after each write of the file, to draw pictures.

        Raises:
            NumericalError: the loss is no longer finite.
        """
        log = self.path.with_suffix(".csv")
        _forget(log, self.step)
        written, mean = time.monotonic(), 0.0
        with log.open("a", newline="") as file, tqdm(total=self.steps, initial=self.step, desc=name) as bar:
            rows = csv.writer(file)
            while self.step < self.steps:
                value = self._advance(loss)
                if not math.isfinite(value):
                    raise NumericalError(
                        f"The loss of {name} is {value} at step {self.step}. Try a lower learning rate."
                    )
                rows.writerow([self.step, f"{value:.6g}"])
                self.step += 1
                mean = value if not mean else 0.99 * mean + 0.01 * value
                bar.set_postfix(loss=f"{mean:.4f}", refresh=False)
                bar.update()
                if time.monotonic() - written > self.every or self.step == self.steps:
                    file.flush()
                    self._save()
                    if show is not None:
                        show()
                    written = time.monotonic()

    def part(self, name: str, averaged: bool = False) -> dict[str, Tensor]:
        """The weights whose keys begin with `name/`, or their moving average, by the rest of the key."""
        tensors = self.average if averaged else self.weights
        return {key.removeprefix(f"{name}/"): w for key, w in tensors.items() if key.startswith(f"{name}/")}

    def _advance(self, loss: Callable[[int], Tensor]) -> float:
        share = self.step / self.steps
        rate = self.rate * min(1, (self.step + 1) / WARM_UP) * (0.01 + 0.99 * (1 + math.cos(math.pi * share)) / 2)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        value = loss(self.step)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.weights.values(), LARGEST_GRADIENT)
        self._optimizer.step()
        self._optimizer.zero_grad()
        # Short at first, so that the average is not one of where training began.
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), 1 - decay)
        return float(value.detach())

    def _tensors(self) -> dict[str, Tensor]:
        state = self._optimizer.state
        parts = (
            self.weights,
            self.average,
            {key: state[w]["exp_avg"] for key, w in self.weights.items()},
            {key: state[w]["exp_avg_sq"] for key, w in self.weights.items()},
        )
        return {
            f"{part}/{key}": tensor.detach()
            for part, tensors in zip(_PARTS, parts, strict=True)
            for key, tensor in tensors.items()
        }

    def _save(self) -> None:
        partial = self.path.with_suffix(".part")
        save_file(self._tensors(), partial, {"step": str(self.step)})
        partial.replace(self.path)

    def _load(self) -> None:
        with safe_open(self.path, "pt") as file:
            self.step = int(file.metadata()["step"])
            for key, tensor in self._tensors().items():
                tensor.copy_(file.get_tensor(key))
        for w in self.weights.values():
            self._optimizer.state[w]["step"].fill_(self.step)


def _forget(log: Path, step: int) -> None:
    """Cut a log of losses back to the steps before `step`."""
    rows = log.read_text().splitlines(keepends=True)[:step] if log.exists() else []
    partial = log.with_suffix(".part.csv")
    partial.write_text("".join(rows))
    partial.replace(log)

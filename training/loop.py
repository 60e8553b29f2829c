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

from .muon import Muon

WARM_UP = 100
"""Steps over which the learning rate rises."""
FALL = 0.8
"""Share of the steps, the last ones, over which it falls to zero along a line. Before, it does not depend on their
number, so a run may still be made longer (arXiv:2405.18392)."""
LARGEST_GRADIENT = 1.0
WEIGHT_DECAY = 0.01
EDGES = "embedding", "conv_in", "conv_out"
"""Layers between data and features, and those of conditions: Muon is for the matrices between features."""


class Loop:
    """Weights being trained, their moving average and the optimiser's moments, kept together in one file.

    A step is a function of the weights and of its number: whatever is random in it comes from generators that are
    seeded with that number. So training that goes on from step n does what it would have done without a stop.

    Args:
        path: the file; training goes on from it if it exists.
        weights: where training begins.
        steps: how many there are.
        rate: the highest learning rate, of AdamW and of Muon (arXiv:2502.16982, section 2.2).
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
        # Muon takes matrices only, so a kernel is one of (out, the rest), and what is handed out is a view of it.
        self._leaves = {
            key: torch.tensor(
                value.reshape(len(value), -1) if value.ndim > 2 else value, device=device
            ).requires_grad_()
            for key, value in weights.items()
        }
        self.weights = {key: leaf.view(weights[key].shape) for key, leaf in self._leaves.items()}
        self.average = {key: w.detach().clone() for key, w in self.weights.items()}
        hidden = [key for key, leaf in self._leaves.items() if leaf.ndim == 2 and not any(e in key for e in EDGES)]
        others = [key for key in self._leaves if key not in hidden]
        self._optimizer_of: dict[str, torch.optim.Optimizer] = {}
        if hidden:
            muon = Muon([self._leaves[key] for key in hidden], weight_decay=WEIGHT_DECAY)
            self._optimizer_of |= dict.fromkeys(hidden, muon)
        if others:
            adam = torch.optim.AdamW(
                [self._leaves[key] for key in others], betas=(0.9, 0.99), weight_decay=WEIGHT_DECAY, fused=True
            )
            self._optimizer_of |= dict.fromkeys(others, adam)
        self._optimizers = list(dict.fromkeys(self._optimizer_of.values()))
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
        rate = self.rate * min(1, (self.step + 1) / WARM_UP, (1 - self.step / self.steps) / FALL)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
        value = loss(self.step)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._leaves.values(), LARGEST_GRADIENT)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad()
        # Short at first, so that the average is not one of where training began.
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.values()), list(self.weights.values()), 1 - decay)
        return float(value.detach())

    def _tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, but for its number."""
        tensors = {f"weights/{key}": leaf.detach() for key, leaf in self._leaves.items()}
        tensors |= {f"average/{key}": w for key, w in self.average.items()}
        for key, leaf in self._leaves.items():
            tensors |= {f"{name}/{key}": value for name, value in self._optimizer_of[key].state[leaf].items()}
        return tensors

    def _save(self) -> None:
        partial = self.path.with_suffix(".part")
        save_file(self._tensors(), partial, {"step": str(self.step)})
        partial.replace(self.path)

    def _load(self) -> None:
        with safe_open(self.path, "pt") as file:
            self.step = int(file.metadata()["step"])
            for name in file.keys():
                part, key = name.split("/", 1)
                leaf, value = self._leaves[key], file.get_tensor(name).to(self._leaves[key].device)
                if part == "weights":
                    leaf.data.copy_(value)
                elif part == "average":
                    self.average[key].copy_(value)
                else:
                    self._optimizer_of[key].state[leaf][part] = value


def _forget(log: Path, step: int) -> None:
    """Cut a log of losses back to the steps before `step`."""
    rows = log.read_text().splitlines(keepends=True)[:step] if log.exists() else []
    partial = log.with_suffix(".part.csv")
    partial.write_text("".join(rows))
    partial.replace(log)

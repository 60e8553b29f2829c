"""Muon (arXiv:2502.16982): steps along the nearest orthogonal matrices of the gradients' mean.

torch's own takes matrices one after another: for the 257 of `tiny`, 6000 kernels, a third of a GPU's step and a quarter
of a CPU's. Here those of one shape are taken together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from math import sqrt
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of the quintic that Newton and Schulz's iteration takes singular values towards 1 with (K. Jordan, Muon)."""
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """For matrices, with Nesterov's momentum, and steps as large as AdamW's, so that one rate does for both.

    Args:
        params: all of them matrices.
        lr: set before every step.
        momentum: what the mean of the gradients keeps of itself.
        weight_decay: share of a weight, times the rate, that a step takes away.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Take one."""
        assert closure is None
        for group in self.param_groups:
            momentum, rate = group["momentum"], group["lr"]
            weights = [w for w in group["params"] if w.grad is not None]
            gradients = [w.grad for w in weights]
            for w in weights:
                if not self.state[w]:
                    self.state[w]["momentum_buffer"] = torch.zeros_like(w)
            means = [self.state[w]["momentum_buffer"] for w in weights]
            torch._foreach_lerp_(means, gradients, 1 - momentum)
            ahead = torch._foreach_lerp(gradients, means, momentum)
            torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
            alike: dict[torch.Size, list[int]] = defaultdict(list)
            for i, w in enumerate(weights):
                alike[w.shape].append(i)
            for shape, indices in alike.items():
                steps = orthogonal(torch.stack([ahead[i] for i in indices])).to(weights[0].dtype)
                torch._foreach_add_([weights[i] for i in indices], steps.unbind(), alpha=-rate * 0.2 * sqrt(max(shape)))


def orthogonal(matrices: Tensor) -> Tensor:
    """About the orthogonal factor of each of the matrices `(N, a, b)`, in bfloat16: singular values of 0.7 to 1.2."""
    a, b, c = COEFFICIENTS
    x = matrices.bfloat16()
    x = x.mT if x.shape[1] > x.shape[2] else x
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if matrices.shape[1] > matrices.shape[2] else x

"""When torch has to see what is done with an array, so that compiled loops cannot do it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

F = TypeVar("F", bound=Callable[..., Any])


def is_recorded(*arrays: Any) -> bool:
    """Whether torch is compiling, or follows what becomes of any of these for its gradient, backwards or forwards."""
    if torch.compiler.is_compiling() or _is_forward():
        return True
    return any(isinstance(x, Tensor) and x.requires_grad for x in arrays) and torch.is_grad_enabled()


def unless_recorded(operator: Any, function: F) -> F:
    """A function itself, or where torch has to see it, the operator of it: finding that takes it 0.1 ms more."""

    def call(*args: Any) -> Any:
        if _is_forward():
            raise NotImplementedError(f"{operator} has no derivative forwards: torch.autograd.forward_ad would find 0.")
        return operator(*args) if is_recorded(*args) else function(*args)

    return cast(F, call)


def _is_forward() -> bool:
    return bool(forward_ad._current_level >= 0)

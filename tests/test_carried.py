"""Which array has the memory of a tensor: one memory, as long as the tensor lives, and of no copy of it."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from svdkit_loops import carried as module
from svdkit_loops.carried import carried, carry


class Tensor:
    """Stands for a framework's."""


def test_it_is_known_while_the_tensor_lives() -> None:
    before, x, memory = len(module._OF), Tensor(), np.zeros(3, np.float32)
    assert carried(x) is None
    carry(x, memory)
    assert carried(x) is memory
    assert carried(copy.copy(x)) is None
    alive = weakref.ref(memory)
    del x, memory
    assert (alive(), len(module._OF)) == (None, before)


def test_what_came_to_the_place_of_a_tensor_that_is_gone_is_another_one() -> None:
    x, y = Tensor(), Tensor()
    carry(x, np.zeros(3, np.float32))
    module._OF[id(y)] = module._OF[id(x)]
    assert carried(y) is None
    carry(y, memory := np.ones(3, np.float32))
    module._forget(module._OF[id(x)])
    assert carried(x) is None
    stale = module._Carried(x)
    stale.key = id(y)
    module._forget(stale)
    assert carried(y) is memory


def of_torch() -> tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]:
    torch = pytest.importorskip("torch")
    host = pytest.importorskip("svdkit_torch.host")
    x = host.empty(2, 3, dtype=torch.float32)
    x[:] = 1
    return x, host.memory_of, lambda x: x.numpy()


def of_mindspore() -> tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]:
    host = pytest.importorskip("svdkit_mindspore.host")
    return host.tensor_of(np.ones((2, 3), np.float32)), host.memory_of, lambda x: x.asnumpy()


@pytest.mark.parametrize("make", [of_torch, of_mindspore])
def test_what_is_written_to_a_tensor_or_a_copy_is_in_the_memory_of_each(make: Callable[[], Any]) -> None:
    x, memory_of, numpy = make()
    memory = memory_of(x)
    assert memory_of(x) is memory
    other = copy.deepcopy(x)  # MindSpore's has the same memory
    x[0, 0] = 5
    assert memory[0, 0] == memory_of(x)[0, 0] == numpy(x)[0, 0] == 5
    other[0, 1] = 7
    for tensor in (x, other):
        np.testing.assert_array_equal(memory_of(tensor), numpy(tensor))
    alive = weakref.ref(memory)
    gc.disable()
    try:
        del x, other, tensor, memory
        assert alive() is None
    finally:
        gc.enable()

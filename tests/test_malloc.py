"""Freed memory is kept while a backend of the host computes, and given back when memory is counted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")

_FAULTS = """
import resource, sys
import numpy as np
from svdkit.memory import host_memory
from svdkit.plugins import make

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

if sys.argv[1] != "none":
    make("backend", sys.argv[1])
start = host_memory().used
a = np.ones(2**24, np.float32)
b = a + a
del b
before = faults()
for _ in range(10):
    b = a + a
    del b
print(faults() - before)
print(host_memory().used - start - a.nbytes)
"""
SOME = 10 * 2**24 * 4 // 2**22
"""Page faults if new memory comes in pages of up to 4 MB; NumPy asks for huge ones, of 2 MB on x86."""


def run(backend: str, **environment: str) -> tuple[int, int]:
    """Page faults of ten sums of 64 MB, and bytes that they leave behind when memory is counted."""
    command = [sys.executable, "-c", _FAULTS, backend]
    env = {k: v for k, v in os.environ.items() if "MALLOC" not in k and k != "GLIBC_TUNABLES"} | environment
    found = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()
    return int(found[0]), int(found[1])


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_pages_are_mapped_once(backend: str) -> None:
    faults, left = run(backend)
    assert faults < SOME
    assert left < 16e6


def test_without_a_backend_malloc_is_as_it_was() -> None:
    assert run("none")[0] > SOME


def test_who_tunes_malloc_decides() -> None:
    assert run("numpy", MALLOC_MMAP_THRESHOLD_="131072")[0] > SOME

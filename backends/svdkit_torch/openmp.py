"""Imported before torch: how OpenMP's threads, torch's on a CPU, wait for work. It is read once, when torch is loaded.

By default they spin for a moment after each operator, on processors that compiled loops (`svdkit_loops`) have by then:
a UNet step on two cores took 10.3 s instead of 8.7. Who has set it by hand, or has loaded torch before, is heeded.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

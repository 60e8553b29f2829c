"""The tests compile a thousand small programs and run each of them once, so the compiler may skip its optimisations."""

from __future__ import annotations

import os

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

"""The conformance suite of a backend."""

from __future__ import annotations

from .declaration_checks import DeclarationChecks
from .kernel_checks import KernelChecks
from .network_checks import NetworkChecks


class BackendConformance(DeclarationChecks, KernelChecks, NetworkChecks):
    """All that a backend must do, by its registered name, in every dtype that it declares.

    Inherit it in a file that pytest collects:

        class TestMine(BackendConformance):
            backend = "mine"

    `device`, `dtypes`, `examples`, `tolerances` and `gradient` are those of `BackendUnderTest`.
    """

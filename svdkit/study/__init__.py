"""Comparative studies of schedulers: `svdkit.study(...)`, which is also `svdkit study` of the command line.

A study is a grid (`grid`), expanded into cells that are named by what would change their result (`cells`); they are
computed (`run`, `worker`, `on_ray`) into a folder (`store`), measured (`measures`), and told as a table (`table`) from
which conclusions are drawn (`statistics`).
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_NEEDED = ("cv2", "filelock", "pandas", "pyarrow", "scipy", "skimage")


def study(
    folder: str | os.PathLike[str],
    file: str | os.PathLike[str] | None = None,
    *,
    on: str | None = None,
    retry_failed: bool = False,
    progress: bool = True,
    command: str = "",
    **values: Any,
) -> pd.DataFrame:
    """Compare schedulers on a grid of schedules, budgets, images, seeds and guidance.

    Whatever is finished in the folder is kept and not computed again: the same call goes on where it was stopped, and
    another grid computes what is new in it.

    Args:
        folder: of the results.
        file: a TOML file with the values below.
        on: None for this process; `"ray"`, or the address of a Ray cluster such as `"ray://host:10001"`.
        retry_failed: try cells again that have failed before.
        progress: whether to tell on stderr how far it is.
        command: how to run it again, for the record; made up if empty.
        **values: `images`, `schedulers`, `schedules`, `budgets`, `seeds`, `guidance`, `model`, `backend` and the other
            attributes of `svdkit.study.grid.Study`; they come before those of the file.

    Returns:
        one row a cell: see `svdkit.study.table`.

    Raises:
        InputError: a value cannot be used; nothing has been computed.
        SvdkitError: the model cannot be loaded, or something is not installed.
    """
    from ..errors import MissingDependencyError
    from .grid import Study, read_toml

    for module in _NEEDED:  # now, and not when hours have been computed
        try:
            import_module(module)
        except ImportError as error:
            raise MissingDependencyError(f"A study needs {module} ({error}): pip install 'svdkit[study]'.") from error
    from .run import run

    asked = Study.of({**(read_toml(Path(file)) if file is not None else {}), **values})
    return run(asked, Path(folder), on=on, retry_failed=retry_failed, command=command, progress=progress)


class _Callable(ModuleType):
    """A package that has the name of its call, and so can be called."""

    __call__ = staticmethod(study)


sys.modules[__name__].__class__ = _Callable

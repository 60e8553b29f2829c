"""Files that appear whole or not at all, and what is said when they cannot be written."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import OutputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name to write to, of the same folder and suffix; what was written takes the place of `path` if all went well.

    A file that is made by that name has the permissions that the umask asks for, which those of `tempfile` do not.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        with suppress(OSError):  # what cannot be tidied up is no reason to fail
            temporary.unlink(missing_ok=True)


@contextmanager
def as_output_error(path: Path) -> Iterator[None]:
    """What the operating system says, such as a full disk, as an `OutputError` about `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}. Mend that or choose another place."
        ) from error

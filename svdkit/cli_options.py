"""Options that several commands share."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])
TRACEBACK = "svdkit.traceback"
"""Where a command's context notes that the source of errors is to be shown."""
PATH, COUNT, NOT_NEGATIVE = click.Path(path_type=Path), click.IntRange(min=1), click.FloatRange(min=0)


class _Teller(logging.Handler):
    """Writes a line above progress bars, not into them."""

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def _tell_unless_quiet(_ctx: click.Context, _param: click.Parameter, quiet: bool) -> bool:
    """What svdkit has to tell on the way, such as that loops are compiled, goes to stderr."""
    logger = logging.getLogger("svdkit")
    logger.handlers = [] if quiet else [_Teller()]
    logger.setLevel(logging.INFO)
    return quiet


def _note_traceback(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    ctx.meta[TRACEBACK] = value


backend_option = click.option("--backend", "-b", default="mindspore", help="What computes; see `svdkit backends`.")
memory_option = click.option(
    "--memory",
    type=click.Choice(["auto", "low", "max"]),
    default="auto",
    help="Load everything at once (max), one network at a time and cut what can be cut (low), or as little of that as "
    "makes it fit (auto); see `svdkit plan`.",
)


def hub_options(command: F) -> F:
    """Which of a model's files are taken, and from where."""
    for option in (
        click.option("--local-files-only", is_flag=True, help="Take the model from the cache and ask no network."),
        click.option("--cache-dir", type=PATH, show_default="the hub's", help="Folder that keeps downloads."),
        click.option("--revision", help="Branch, tag or commit on the hub."),
        click.option("--variant", help="Which of the model's weights, such as fp16."),
    ):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON to stdout, and nothing else there.")
quiet_option = click.option(
    "--quiet", "-q", is_flag=True, callback=_tell_unless_quiet, help="Show no progress and no summary."
)
traceback_option = click.option(
    "--traceback",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    envvar="SVDKIT_TRACEBACK",
    callback=_note_traceback,
    help="Show where in the source an error comes from, as SVDKIT_TRACEBACK=1 does.",
)

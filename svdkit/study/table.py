"""The result of a study as a table: one row a cell, and what each measure is."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from attrs import frozen

from ..errors import InputError
from .store import Store

if TYPE_CHECKING:
    import pandas as pd

    from .cells import Cell


@frozen
class Measure:
    """How a column of the table is to be read."""

    label: str
    unit: str
    better: Literal["lower", "higher", ""]
    """Empty for what is neither good nor bad."""


MEASURES = {
    "latent_error": Measure("distance to the reference, latents", "relative RMS", "lower"),
    "rmse": Measure("distance to the reference, frames", "8-bit levels", "lower"),
    "psnr": Measure("PSNR against the reference", "dB", "higher"),
    "ssim": Measure("SSIM against the reference", "", "higher"),
    "perceptual": Measure("distance to the reference, image encoder", "1 - cosine", "lower"),
    "warping_error": Measure("warping error", "8-bit levels", "lower"),
    "flicker": Measure("flicker of the brightness", "8-bit levels", "lower"),
    "motion": Measure("motion", "pixels a frame", ""),
    "first_frame_psnr": Measure("PSNR of the first frame against the image", "dB", "higher"),
}
COSTS = ("seconds_encode", "seconds_denoise", "seconds_decode", "peak_memory")
"""Columns that differ from run to run; seconds of this one video, and bytes."""
IDENTITY = ("scheduler", "schedule", "budget", "image", "seed", "guidance")
"""Columns that together name a row; keys do not, since cells of one result share theirs."""
COLUMNS = ("key", *IDENTITY, "evaluations", "steps", "sigmas", *MEASURES, *COSTS, "status", "error")


def make_table(store: Store, cells: Iterable[Cell]) -> pd.DataFrame:
    """The rows of the cells that are done or have failed, in the order given.

    Columns are `COLUMNS`: measures and costs are NaN, and `error` a sentence, where `status` is `"failed"`;
    `perceptual` is NaN, too, where it was not asked for.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    for cell in cells:
        row = {"key": cell.key, "scheduler": cell.label, "steps": len(cell.stepped) - 1, "sigmas": list(cell.stepped)}
        row |= {name: getattr(cell, name) for name in IDENTITY if name != "scheduler"}
        if store.has(cell.key):
            rows.append({**row, **store.record(cell.key), "status": "done", "error": ""})
        elif (error := store.failure(cell.key)) is not None:
            rows.append({**row, "status": "failed", "error": error})
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype(dict.fromkeys(("evaluations", *MEASURES, *COSTS), float))


def write_table(store: Store, table: pd.DataFrame) -> None:
    """Write `table.csv`, whose lists of noise levels are separated by spaces, and `table.parquet`."""
    store.write("table.parquet", as_parquet(table))
    plain = table.assign(sigmas=[" ".join(f"{sigma:.9g}" for sigma in sigmas) for sigmas in table["sigmas"]])
    store.write("table.csv", plain.to_csv(index=False).encode())


def as_parquet(table: pd.DataFrame) -> bytes:
    """The table as a Parquet file."""
    file = io.BytesIO()
    table.to_parquet(file, index=False)
    return file.getvalue()


def read_table(folder: Path) -> pd.DataFrame:
    """The table that a study wrote.

    Raises:
        InputError: the folder has none.
    """
    import pandas as pd

    path = folder / "table.parquet"
    if not path.exists():
        raise InputError(f"{folder} holds no finished study: it has no table.parquet. Run `svdkit study` to make one.")
    return pd.read_parquet(path)

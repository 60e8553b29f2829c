"""A study's folder whose answer is known: nothing is generated, every number and every pixel is made up."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from svdkit.study.store import Result, Store
from svdkit.study.table import COLUMNS, MEASURES, write_table

HOSTILE = '<script>alert(1)</script>$x_t$ "&" \''
SCHEDULERS = ("euler", "heun", HOSTILE)
SCHEDULES = ("model", "karras")
BUDGETS = (4, 8)
IMAGES = ("boat", "owl")
SEEDS = (0, 1, 2, 3, 4)
FRAMES, SIDE = 6, 32
METADATA: dict[str, Any] = {
    "command": "svdkit study --scheduler euler -o 'a study'",
    "versions": {"svdkit": "0.1.0", "numpy": np.__version__},
    "machine": {"system": "Linux", "cores": 2},
    "model": "tiny",
    "fingerprint": "f" * 64,
    "backend": "numpy",
    "device": "cpu",
    "dtype": "float32",
    "components": {},
    "seeds": list(SEEDS),
    "fps": 10,
    "height": SIDE,
    "width": SIDE,
    "num_frames": FRAMES,
    "study": {"budgets": list(BUDGETS)},
    "reference": {"scheduler": "heun", "evaluations": 200},
}


def video(level: int) -> np.ndarray[Any, Any]:
    """Frames of one grey each, which tell their own number: frame i is 30 i + level."""
    return np.stack([np.full((SIDE, SIDE, 3), 30 * i + level, np.uint8) for i in range(FRAMES)])


def rows() -> list[dict[str, Any]]:
    """120 cells. At 4 evaluations all are equal up to noise; at 8, heun on karras is better than all in every block."""
    noise = np.random.default_rng(0)
    made = []
    for scheduler in SCHEDULERS:
        for schedule in SCHEDULES:
            for budget in BUDGETS:
                for image in IMAGES:
                    for seed in SEEDS:
                        error = 0.1 * float(np.exp(0.2 * noise.normal()))
                        if (scheduler, schedule, budget) == ("heun", "karras", 8):
                            error /= 100
                        identity = (scheduler, schedule, budget, image, seed, "1-3")
                        key = hashlib.sha256(repr(identity).encode()).hexdigest()
                        row = dict.fromkeys(COLUMNS, float("nan")) | dict(
                            zip(
                                ("key", "scheduler", "schedule", "budget", "image", "seed", "guidance"),
                                (key, *identity),
                                strict=True,
                            )
                        )
                        row |= {
                            "evaluations": float(budget),
                            "steps": budget,
                            "sigmas": [*np.geomspace(700, 0.01, budget), 0.0],
                        }
                        row |= {
                            "latent_error": error,
                            "psnr": -20 * float(np.log10(error)),
                            "seconds_denoise": 0.1 * budget,
                        }
                        made.append(row | {"status": "done", "error": ""})
    failed = made[-1]
    failed |= dict.fromkeys(MEASURES, float("nan")) | {
        "status": "failed",
        "error": "NumericalError: <b>NaN</b> at step 3.",
    }
    return made


def write(folder: Path) -> Path:
    """Write it as a study does: references of level 0, cells of level 20."""
    import pandas as pd

    store = Store(folder)
    nothing = np.zeros((FRAMES, 4, 2, 2), np.float32)
    table = pd.DataFrame(rows(), columns=list(COLUMNS))
    for key in table[table["status"] == "done"]["key"]:
        store.save(key, Result({}, nothing, video(20)))
    references = []
    for image in IMAGES:
        for seed in SEEDS:
            key = hashlib.sha256(f"{image} {seed}".encode()).hexdigest()
            store.save(key, Result({}, nothing, video(0)), "references")
            known = {"image": image, "seed": seed, "guidance": "1-3", "key": key}
            references.append(known | {"evaluations": 200, "convergence": 4e-4})
    store.write("study.json", json.dumps(METADATA | {"references": references}).encode())
    write_table(store, table)
    return folder

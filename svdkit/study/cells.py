"""The cells of a study, each with a key: a hash of everything that would change its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from attrs import evolve, frozen

from .. import __version__
from ..arguments import parse_components
from ..checkpoint import ARCHITECTURES, component_config
from ..config import read_json, video_size
from ..errors import InputError
from ..hub import resolve_model
from ..interfaces import Scheduler
from ..plugins import make_backend, missing_modules, registry
from ..preprocess import Picture, check_size, load_images
from ..sampling import levels_of
from ..scheduler_config import SchedulerConfig
from ..schedules import read_sigmas
from ..stages import noise_levels
from ..weights import STEMS, weight_files
from .grid import MODEL_SCHEDULE, Study, guidance_ends
from .schedulers import distribution, evaluations, follows, is_adaptive, label, make_scheduler, supplier, within

OWN_SCHEDULE = "own"
"""The label of the levels of a solver that chooses them, whatever it is given."""


@frozen(kw_only=True)
class Cell:
    """One video of a study."""

    scheduler: str
    """As it was asked for; `label` is for tables."""
    schedule: str
    budget: int
    image: str
    seed: int
    guidance: str
    sigmas: tuple[float, ...]
    chosen: tuple[float, ...] = ()
    """Of a solver that does not follow `sigmas`: the noise levels that it steps between instead."""
    half: tuple[float, ...] = ()
    """Of a reference: noise levels at half its budget, to tell how far it has converged."""
    reference: str = ""
    """The key of its reference; empty for a reference."""
    key: str = ""

    @property
    def label(self) -> str:
        """The scheduler as tables show it."""
        return label(self.scheduler)

    @property
    def stepped(self) -> tuple[float, ...]:
        """The noise levels that are stepped between."""
        return self.chosen or self.sigmas

    @property
    def kind(self) -> str:
        """What the store calls it."""
        return "references" if self.half else "cells"


@frozen(kw_only=True)
class Grid:
    """A study with all its cells, before anything is computed."""

    study: Study
    scheduler_config: Mapping[str, Any]
    """The checkpoint's, as `make_scheduler` takes it."""
    frames: int
    size: tuple[int, int]
    """Height and width of videos, in pixels."""
    pictures: Mapping[str, Picture]
    """By the name that tables have: that of the file without its suffix."""
    setting: Mapping[str, Any]
    """What all keys have in common."""
    cells: tuple[Cell, ...]
    """By image, guidance and seed, then as asked for. Cells of one result have one key."""
    references: tuple[Cell, ...]
    """One for each image, seed and guidance."""


def expand(study: Study) -> Grid:
    """Every cell of a study; reads the model's files once for their hash, and loads no network.

    Raises:
        InputError: an image, a name, an option or a budget cannot be used.
        CheckpointError: the model is not there.
        MissingDependencyError: the backend's framework is not installed.
    """
    pictures = _pictures(study)
    folder = resolve_model(study.model, variant=study.variant)
    kernels = make_backend(study.backend, study.device, study.dtype)
    unet, vae = (component_config(part, folder, kernels)[0] for part in ("unet", "vae"))
    frames = study.num_frames or int(unet.num_frames)
    size = _size(study, unet, vae)
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    reference = _reference(study, config)
    columns = list(dict.fromkeys(column for text in study.schedulers for column in _columns(study, config, text)))
    setting = {
        "svdkit": __version__,
        "model": fingerprint(folder, study.variant),
        "backend": kernels.name,
        "device": kernels.device.split(":")[0],
        "dtype": kernels.dtype,
        "frames": frames,
        "size": list(size),
        "fps": float(study.fps),
        "motion_bucket_id": float(study.motion_bucket_id),
        "noise_aug_strength": float(study.noise_aug_strength),
        "decode_chunk_size": study.decode_chunk_size or frames,
        **({"components": replaced} if (replaced := _replaced(study, kernels.name)) else {}),
        **({"perceptual": True} if study.perceptual else {}),
    }
    suppliers = {text: supplier(text) for text in (study.reference, *study.schedulers)}
    references, cells = [], []
    for name, picture in pictures.items():
        told = {**setting, "image": _hash_picture(picture)}
        for guidance in study.guidance:
            for seed in study.seeds:
                block: dict[str, Any] = {"image": name, "seed": seed, "guidance": guidance}
                references.append(_keyed(evolve(reference, **block), {**told, "supplier": suppliers[study.reference]}))
                for text, schedule, budget, sigmas, chosen in columns:
                    cell = Cell(scheduler=text, schedule=schedule, sigmas=sigmas, chosen=chosen, budget=budget, **block)
                    cell = evolve(cell, reference=references[-1].key)
                    cells.append(_keyed(cell, {**told, "supplier": suppliers[text]}))
    return Grid(
        study=study,
        scheduler_config=config,
        frames=frames,
        size=size,
        pictures=pictures,
        setting=setting,
        cells=tuple(cells),
        references=tuple(references),
    )


def _size(study: Study, unet: Any, vae: Any) -> tuple[int, int]:
    own = video_size(unet, vae)
    height, width = (n if n is not None else o for n, o in zip((study.height, study.width), own, strict=True))
    check_size(height, width, vae.scale_factor)
    return height, width


def _columns(
    study: Study, config: Mapping[str, Any], text: str
) -> Iterator[tuple[str, str, int, tuple[float, ...], tuple[float, ...]]]:
    """Scheduler, label of the schedule, budget, noise levels and chosen ones of what one scheduler is asked to do."""
    scheduler = make_scheduler(text, config)
    asked: dict[str, str] = {}
    for schedule in study.schedules:
        name = _schedule_label(schedule)
        if name in asked:
            raise InputError(
                f"The schedules {asked[name]!r} and {schedule!r} would both be called {name!r}. Write their levels "
                "into files, whose names tell them apart."
            )
        asked[name] = schedule

    levels = partial(_levels, SchedulerConfig.from_json(config), scheduler)
    if not all(follows(scheduler, levels(schedule, 4)) for schedule in asked.values()):
        given = partial(levels, MODEL_SCHEDULE)
        adaptive = is_adaptive(scheduler, given)
        for budget in study.budgets:
            sigmas = given(budget) if adaptive else within(scheduler, given, budget)
            yield text, OWN_SCHEDULE, budget, sigmas, levels_of(scheduler, sigmas, to_zero=False)
        return
    for name, schedule in asked.items():
        if _is_explicit(schedule):
            sigmas = levels(schedule, 1)
            yield text, name, evaluations(scheduler, sigmas), sigmas, ()
            continue
        for budget in study.budgets:
            yield text, name, budget, within(scheduler, partial(levels, schedule), budget), ()


def _replaced(study: Study, backend: str) -> dict[str, str]:
    """The networks that are not svdkit's own, by part: what stands in, asked for or not, and who supplies it."""
    found, chosen = {}, parse_components(study.components)
    for part in ARCHITECTURES:
        name = chosen.get(part)
        if registry().component(part, backend, name) is not None:
            fitting = (e for e in registry().entries("component") if e.replaces == f"{part} of {backend}")
            entry = next(e for e in fitting if (e.spec.name == name if name else not missing_modules(e.spec)))
            found[part] = f"{entry.spec.name} of {distribution(entry.origin)}"
    return found


def _levels(own: SchedulerConfig, scheduler: Scheduler, schedule: str, steps: int) -> tuple[float, ...]:
    return noise_levels(own, scheduler, None if schedule == MODEL_SCHEDULE else schedule, steps)


def _reference(study: Study, config: Mapping[str, Any]) -> Cell:
    """The reference of any block."""
    scheduler = make_scheduler(study.reference, config)
    full, half = (
        within(scheduler, partial(_levels, SchedulerConfig.from_json(config), scheduler, MODEL_SCHEDULE), budget)
        for budget in (study.reference_budget, study.reference_budget // 2)
    )
    block: dict[str, Any] = {"image": "", "seed": 0, "guidance": ""}
    budget = study.reference_budget
    return Cell(scheduler=study.reference, schedule=MODEL_SCHEDULE, budget=budget, sigmas=full, half=half, **block)


def _is_explicit(schedule: str) -> bool:
    """Whether it is numbers, which are as many as they are."""
    return schedule != MODEL_SCHEDULE and read_sigmas(schedule, 2) == read_sigmas(schedule, 3)


def _schedule_label(schedule: str) -> str:
    if not _is_explicit(schedule):
        return label(schedule)
    if Path(schedule).suffix.lower() in (".txt", ".json"):
        return Path(schedule).stem
    levels = [sigma for sigma in read_sigmas(schedule, 1) if sigma > 0]
    return f"{levels[0]:g}…{levels[-1]:g} ({len(levels)})"


def _pictures(study: Study) -> dict[str, Picture]:
    pictures: dict[str, Picture] = {}
    for path in study.images:
        name = Path(path).stem
        if name in pictures:
            raise InputError(f"Two images are called {name!r}; tables could not tell them apart. Rename one.")
        pictures[name] = load_images(path)[0]
    return pictures


def _hash_picture(picture: Picture) -> str:
    pixels = np.asarray(picture)
    return hashlib.sha256(f"{pixels.shape} {pixels.dtype}".encode() + pixels.tobytes()).hexdigest()


def _keyed(cell: Cell, told: Mapping[str, Any]) -> Cell:
    content = {
        **told,
        "scheduler": cell.label,
        "sigmas": cell.stepped,
        "half": cell.half,
        "reference": cell.reference,
        "seed": cell.seed,
        "guidance": guidance_ends(cell.guidance),
    }
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return evolve(cell, key=hashlib.sha256(canonical.encode()).hexdigest())


def fingerprint(folder: Path, variant: str | None = None) -> str:
    """A hash of a checkpoint's configurations and of the weights of one variant."""
    files = [path for path in folder.glob("*/*.json") if ".safetensors.index" not in path.name]
    for component, stem in STEMS.items():
        files += weight_files(folder / component, stem, variant)
    total = hashlib.sha256()
    for path in sorted(set(files)):
        one = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                one.update(block)
        total.update(f"{path.relative_to(folder).as_posix()} {one.hexdigest()}\n".encode())
    return total.hexdigest()

"""A checkpoint folder: its networks on a backend, its sampling settings, and writing one."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from attrs import field, frozen

from .arch.clip_vision import CLIPVision
from .arch.unet import UNet
from .arch.vae import VAE
from .backend import Backend, Host
from .config import CLIPVisionConfig, UNetConfig, VAEConfig, from_dict, read_json
from .errors import CheckpointError, InputError, OutputError
from .params import Params, Report, WeightSource, build
from .plugins import registry
from .preprocess import CLIP_MEAN, CLIP_STD
from .scheduler_config import SchedulerConfig
from .weights import STEMS, Weights, parse_name, write_weights

PIPELINE = "StableVideoDiffusionPipeline"
FLOATS = ("float16", "bfloat16", "float32", "float64")
"""What weights may be stored in."""

ARCHITECTURES: dict[str, tuple[type[Any], Callable[[Any, Params], Any]]] = {
    "unet": (UNetConfig, UNet),
    "vae": (VAEConfig, VAE),
    "image_encoder": (CLIPVisionConfig, CLIPVision),
}


def _numbers(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


@frozen
class FeatureExtractor:
    """How the image encoder's pixels are normalised: `feature_extractor/preprocessor_config.json`."""

    strict_keys = False  # svdkit has resizing and cropping of its own, as the reference pipeline has

    image_mean: tuple[float, ...] = field(default=CLIP_MEAN, converter=_numbers)
    image_std: tuple[float, ...] = field(default=CLIP_STD, converter=_numbers)

    def __attrs_post_init__(self) -> None:
        if not len(self.image_mean) == len(self.image_std) == 3 or 0 in self.image_std:
            raise ValueError(f"image_mean {self.image_mean}, image_std {self.image_std}, expected three numbers each")


@frozen
class CLIPWeights:
    """An image encoder's weights under the names that most checkpoints use.

    Some lack the prefix `vision_model.`, some carry position ids or the whole text tower: both are known and do
    not matter.
    """

    source: WeightSource
    names: Mapping[str, str] = field(init=False)
    """The usual name of each key that matters, and the key."""

    @names.default
    def _usual_names(self) -> Mapping[str, str]:
        extra = ("text_model.", "text_projection.", "logit_scale")
        usual = ("vision_model.", "visual_projection.")
        keys = [k for k in self.source.keys() if not k.startswith(extra) and not k.endswith("position_ids")]
        return {key if key.startswith(usual) else f"vision_model.{key}": key for key in keys}

    def keys(self) -> Iterable[str]:
        """Usual names."""
        return self.names.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        """Of the tensor with that usual name."""
        return self.source.shape(self.names[key])

    def read(self, key: str) -> Host:
        """The tensor with that usual name."""
        return self.source.read(self.names[key])


def check_pipeline(folder: Path) -> None:
    """Raises `CheckpointError` unless the folder is a checkpoint of Stable Video Diffusion."""
    found = read_json(folder / "model_index.json").get("_class_name")
    if found != PIPELINE:
        raise CheckpointError(f"{folder} is a checkpoint of {found}, expected one of {PIPELINE}.")


def load_component(
    name: str, folder: Path, backend: Backend, *, variant: str | None = None, choice: str | None = None
) -> Any:
    """One network of a checkpoint on a backend.

    Args:
        name: `"unet"`, `"vae"` or `"image_encoder"`.
        folder: the checkpoint.
        backend: where it is to run, and its dtype.
        variant: which weights, for instance `"fp16"`.
        choice: a plugin's replacement for it; see `svdkit.plugins.Registry.component`.

    Raises:
        CheckpointError: the configuration or the weights are missing, corrupt or do not fit each other.
    """
    replacement = registry().component(name, backend.name, choice)
    if replacement is not None:
        return replacement(folder / name, backend, variant)
    config, backend = component_config(name, folder, backend)
    with open_weights(name, folder, variant, backend.maps_weights) as source:
        return build(lambda p: ARCHITECTURES[name][1](config, p), source, backend, str(folder / name))


def check_component(name: str, folder: Path, *, variant: str | None = None) -> None:
    """Raises what `load_component` would raise of a checkpoint's files, from their headers alone."""
    config = from_dict(ARCHITECTURES[name][0], read_json(folder / name / "config.json"))
    with open_weights(name, folder, variant) as source:
        report = Report()
        ARCHITECTURES[name][1](config, Params(source, None, report))
        report.check(source.keys(), str(folder / name))


def component_config(name: str, folder: Path, backend: Backend) -> tuple[Any, Backend]:
    """A network's configuration, and the backend with the dtype that it runs in."""
    config = from_dict(ARCHITECTURES[name][0], read_json(folder / name / "config.json"))
    if name == "vae" and backend.dtype == "float16" and config.force_upcast:
        # Its activations leave float16's range on bright pictures, and frames come out black.
        backend = backend.with_dtype("float32")
    return config, backend


@contextmanager
def open_weights(name: str, folder: Path, variant: str | None = None, mapped: bool = False) -> Iterator[WeightSource]:
    """One network's weights, under the names that svdkit reads them by."""
    with Weights.open(folder / name, STEMS[name], variant, mapped) as weights:
        yield CLIPWeights(weights) if name == "image_encoder" else weights


def stored_dtype(name: str, folder: Path, variant: str | None = None) -> str:
    """What most of a network's weights are stored in, by their headers."""
    with Weights.open(folder / name, STEMS[name], variant) as weights:
        return Counter(weights.dtype(key) for key in weights.keys()).most_common(1)[0][0]


def load_scheduler_config(folder: Path) -> SchedulerConfig:
    """A checkpoint's sampling settings."""
    return SchedulerConfig.from_json(read_json(folder / "scheduler" / "scheduler_config.json"))


def load_feature_extractor(folder: Path) -> FeatureExtractor:
    """A checkpoint's normalisation."""
    return from_dict(FeatureExtractor, read_json(folder / "feature_extractor" / "preprocessor_config.json"))


def save_checkpoint(source: Path, target: Path, *, variant: str | None = None, dtype: str | None = None) -> None:
    """Write a checkpoint again, as one file a component, in a layout that diffusers reads.

    Args:
        source: the checkpoint that was loaded.
        target: a folder; made if there is none.
        variant: which weights of the source.
        dtype: dtype to store floats in, one of `FLOATS`; as they are if None.

    Raises:
        InputError: there is no such dtype.
        OutputError: the folder cannot be written to, and is as it was; or it is the source, or in it.
    """
    if dtype is not None and dtype not in FLOATS:
        raise InputError(f"dtype is {dtype!r}, expected one of {', '.join(FLOATS)}.")
    try:
        if target.resolve().is_relative_to(source.resolve()):
            raise OutputError(f"{target} is, or lies in, what the pipeline was loaded from. Choose another folder.")
        target.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target, prefix=".svdkit-", ignore_cleanup_errors=True) as folder:
            _write_checkpoint(source, Path(folder), variant, dtype)
            _replace_checkpoint(target, Path(folder))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror or error}. Choose another folder.") from error


def _write_checkpoint(source: Path, target: Path, variant: str | None, dtype: str | None) -> None:
    for name, stem in STEMS.items():
        (target / name).mkdir()
        shutil.copyfile(source / name / "config.json", target / name / "config.json")
        with Weights.open(source / name, stem, variant) as weights:
            tensors = {key: weights.read(key) for key in weights.keys()}
        if dtype is not None:
            tensors = {
                # By name, since NumPy does not count bfloat16 among its floats.
                key: value.astype(dtype) if "float" in value.dtype.name else value
                for key, value in tensors.items()
            }
        write_weights(target / name / f"{stem}.safetensors", tensors)
    for name in ("scheduler", "feature_extractor"):
        shutil.copytree(source / name, target / name)
    index = json.dumps(read_json(source / "model_index.json"), indent=2)
    (target / "model_index.json").write_text(index + "\n", encoding="utf-8")


def _replace_checkpoint(target: Path, new: Path) -> None:
    """What is whole takes the place of what is there, of which no weights stay that may be taken for the new ones."""
    places = {folder: target / folder.name for folder in new.iterdir() if folder.is_dir()}
    for place in places.values():  # before anything is touched
        if not place.is_symlink():
            place.mkdir(exist_ok=True)
            if not os.access(place, os.W_OK):
                raise PermissionError(errno.EACCES, f"{place.name} may not be written to")
    # First removed and last moved, since it is what makes the folder a checkpoint.
    (target / "model_index.json").unlink(missing_ok=True)
    for folder, place in places.items():
        if place.is_symlink():  # to what is another checkpoint's, too
            place.unlink()
            place.mkdir()
        for old in place.iterdir():
            if folder.name in STEMS and parse_name(old.name, STEMS[folder.name]):
                old.unlink()
        shutil.copytree(folder, place, copy_function=shutil.move, dirs_exist_ok=True)
    (new / "model_index.json").replace(target / "model_index.json")

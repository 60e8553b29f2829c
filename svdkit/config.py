"""The configurations of the networks, as their checkpoints' `config.json` files have them."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from attrs import Attribute, field, fields, frozen, has

from .errors import CheckpointError

C = TypeVar("C")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"The checkpoint lacks {path.name}: there is no {path}.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable as JSON ({error}). Fetch the checkpoint again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds {type(content).__name__}, expected a JSON object.")
    return content


def from_dict(cls: type[C], values: Mapping[str, Any]) -> C:
    """A configuration from a dictionary; keys that it does not know are named in a warning.

    Raises:
        CheckpointError: a value is of the wrong kind.
    """
    assert has(cls)
    known = {a.name for a in fields(cls)}
    if cls.__dict__.get("strict_keys", True):
        unknown = [k for k, v in values.items() if k not in known and not k.startswith("_") and v is not None]
        if unknown:
            warnings.warn(f"{cls.__name__} ignores {', '.join(sorted(unknown))}.", stacklevel=2)
    make: type[Any] = cls
    try:
        result: C = make(**{k: v for k, v in values.items() if k in known and v is not None})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"The configuration of {cls.__name__} is not usable: {error}.") from error
    return result


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _positive(_: object, attribute: Attribute[Any], value: Any) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if not isinstance(number, int) or isinstance(number, bool) or number < 1:
            raise ValueError(f"{attribute.name} is {value!r}, expected positive whole numbers")


def _size(default: Any) -> Any:
    return field(default=default, converter=_tuple, validator=_positive)


def _count(default: int) -> Any:
    """One number, where `_size` also takes one a level."""
    return field(default=default, validator=_one_positive)


def _one_positive(instance: object, attribute: Attribute[Any], value: Any) -> None:
    if isinstance(value, (list, tuple)):
        raise ValueError(f"{attribute.name} is {value!r}, expected one positive whole number")
    _positive(instance, attribute, value)


@frozen
class UNetConfig:
    """`unet/config.json`; the defaults are those of `UNetSpatioTemporalConditionModel`.

    Values that may be given once for all levels are tuples here, one value a level.
    """

    in_channels: int = _count(8)
    out_channels: int = _count(4)
    down_block_types: tuple[str, ...] = field(
        default=("CrossAttnDownBlockSpatioTemporal",) * 3 + ("DownBlockSpatioTemporal",), converter=_tuple
    )
    up_block_types: tuple[str, ...] = field(
        default=("UpBlockSpatioTemporal",) + ("CrossAttnUpBlockSpatioTemporal",) * 3, converter=_tuple
    )
    block_out_channels: tuple[int, ...] = _size((320, 640, 1280, 1280))
    addition_time_embed_dim: int = _count(256)
    projection_class_embeddings_input_dim: int = _count(768)
    layers_per_block: tuple[int, ...] = _size(2)
    cross_attention_dim: tuple[int, ...] = _size(1024)
    transformer_layers_per_block: tuple[int | tuple[int, ...], ...] = field(default=1, converter=_tuple)
    num_attention_heads: tuple[int, ...] = _size((5, 10, 20, 20))
    num_frames: int = _count(25)
    sample_size: int | tuple[int, int] = _size(96)
    """Height and width of latents; one number does not tell the size of videos, see `video_size`."""

    def __attrs_post_init__(self) -> None:
        levels = len(self.block_out_channels)
        for name in (
            "layers_per_block",
            "cross_attention_dim",
            "transformer_layers_per_block",
            "num_attention_heads",
        ):
            value = getattr(self, name)
            if isinstance(value, int):
                object.__setattr__(self, name, (value,) * levels)
        for name in (
            "down_block_types",
            "up_block_types",
            "layers_per_block",
            "cross_attention_dim",
            "transformer_layers_per_block",
            "num_attention_heads",
        ):
            if len(getattr(self, name)) != levels:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries, block_out_channels has {levels}")
        if isinstance(self.sample_size, tuple) and len(self.sample_size) != 2:
            raise ValueError(f"sample_size is {self.sample_size}, expected one number, or height and width")
        for kind, names in (("Down", self.down_block_types), ("Up", self.up_block_types)):
            for block in names:
                if block not in (f"{kind}BlockSpatioTemporal", f"CrossAttn{kind}BlockSpatioTemporal"):
                    raise ValueError(f"unknown block type {block!r}")
        for width, heads in zip(self.block_out_channels, self.num_attention_heads, strict=True):
            if width % 32 or width % heads:
                raise ValueError(f"{width} channels are not divisible by 32 groups and {heads} heads")
        for level in range(levels):
            self.depths(level, up=self.up_attends(levels - 1 - level))

    def down_attends(self, i: int) -> bool:
        """Whether the i-th block going down has transformers."""
        return self.down_block_types[i].startswith("CrossAttn")

    def up_attends(self, i: int) -> bool:
        """Whether the i-th block going up has transformers."""
        return self.up_block_types[i].startswith("CrossAttn")

    def depths(self, level: int, up: bool = False) -> tuple[int, ...]:
        """Depth of each transformer of a level; a block going up has one more than the one going down."""
        count = self.layers_per_block[level] + up
        depth = self.transformer_layers_per_block[level]
        depths = (depth,) * count if isinstance(depth, int) else tuple(depth)[:count]
        if len(depths) < count:
            raise ValueError(f"transformer_layers_per_block has {len(depths)} depths for {count} layers")
        return depths


@frozen
class VAEConfig:
    """`vae/config.json`; the defaults are those of `AutoencoderKLTemporalDecoder`."""

    in_channels: int = _count(3)
    out_channels: int = _count(3)
    down_block_types: tuple[str, ...] = field(default=("DownEncoderBlock2D",), converter=_tuple)
    block_out_channels: tuple[int, ...] = _size((64,))
    layers_per_block: int = _count(1)
    latent_channels: int = _count(4)
    sample_size: int = 32
    scaling_factor: float = field(default=0.18215, converter=float)
    force_upcast: bool = True

    def __attrs_post_init__(self) -> None:
        if not 0 < self.scaling_factor < math.inf:
            raise ValueError(f"scaling_factor is {self.scaling_factor}, expected a positive number")
        if set(self.down_block_types) != {"DownEncoderBlock2D"}:
            raise ValueError(f"down_block_types {self.down_block_types}, expected DownEncoderBlock2D only")
        if len(self.down_block_types) != len(self.block_out_channels):
            raise ValueError("down_block_types and block_out_channels differ in length")

    @property
    def scale_factor(self) -> int:
        """Pixels a latent is wide and high."""
        return int(2 ** (len(self.block_out_channels) - 1))


def video_size(unet: Any, vae: Any) -> tuple[int, int]:
    """Height and width in pixels of a checkpoint's videos, for callers that give none.

    A `sample_size` of the UNet that is a pair tells it. Checkpoints of Stable Video Diffusion have one number, 96, and
    are for videos of 576 by 1024.
    """
    sample_size = getattr(unet, "sample_size", None)
    if not isinstance(sample_size, tuple):
        return 576, 1024
    height, width = sample_size
    return height * vae.scale_factor, width * vae.scale_factor


@frozen
class CLIPVisionConfig:
    """`image_encoder/config.json`; the defaults are those of `CLIPVisionConfig`."""

    strict_keys = False  # these files carry dozens of settings of training and of text generation

    hidden_size: int = _count(768)
    intermediate_size: int = _count(3072)
    projection_dim: int = _count(512)
    num_hidden_layers: int = _count(12)
    num_attention_heads: int = _count(12)
    num_channels: int = _count(3)
    image_size: int = _count(224)
    patch_size: int = _count(32)
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = field(default=1e-5, converter=float)

    def __attrs_post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by {self.num_attention_heads} heads")
        if self.hidden_act not in ("gelu", "quick_gelu"):
            raise ValueError(f"hidden_act is {self.hidden_act!r}, expected gelu or quick_gelu")

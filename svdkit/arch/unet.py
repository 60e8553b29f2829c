"""The denoising network: a UNet over space whose every block also looks along time (arXiv:2311.15127)."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..backend import Array, Backend, Map
from ..config import UNetConfig
from ..errors import InputError
from ..params import Params
from .embeddings import TimestepEmbedding, sinusoid
from .resnet import Downsample, SpatioTemporalResBlock, Upsample
from .transformer import ForwardChunking, SpatioTemporalTransformer

Prepared: TypeAlias = tuple[Any, ...]


class Stage:
    """Residual blocks of one resolution, each followed by a transformer where the configuration has one."""

    def __init__(
        self,
        p: Params,
        channels: list[tuple[int, int]],
        *,
        eps: float,
        time_channels: int,
        heads: int,
        layers: tuple[int, ...],
        context_channels: int,
        chunking: ForwardChunking,
    ) -> None:
        self.resnets = [
            SpatioTemporalResBlock(p / f"resnets.{i}", channels_in, out, eps=eps, time_channels=time_channels)
            for i, (channels_in, out) in enumerate(channels)
        ]
        self.attentions = [
            SpatioTemporalTransformer(p / f"attentions.{i}", channels[-1][1], heads, depth, context_channels, chunking)
            for i, depth in enumerate(layers)
        ]

    def prepare(self, context: Array, frames: int) -> Prepared:
        """What each transformer keeps of the conditioning."""
        return tuple(attention.prepare(context, frames) for attention in self.attentions)


class UNet:
    """The network F of the preconditioned denoiser, on one backend.

    Args:
        config: the checkpoint's configuration.
        p: its weights.
    """

    def __init__(self, config: UNetConfig, p: Params) -> None:
        self.config = config
        self.backend: Backend = p.kernels
        self._chunking = ForwardChunking()
        widths = config.block_out_channels
        time_channels = 4 * widths[0]
        self.conv_in = p.conv2d("conv_in", config.in_channels, widths[0])
        self.time_embedding = TimestepEmbedding(p / "time_embedding", widths[0], time_channels, time_channels)
        self.add_embedding = TimestepEmbedding(
            p / "add_embedding", config.projection_class_embeddings_input_dim, time_channels, time_channels
        )

        def stage(name: str, level: int, channels: list[tuple[int, int]], eps: float, layers: tuple[int, ...]) -> Stage:
            return Stage(
                p / name,
                channels,
                eps=eps,
                time_channels=time_channels,
                heads=config.num_attention_heads[level],
                layers=layers,
                context_channels=config.cross_attention_dim[level],
                chunking=self._chunking,
            )

        last = len(widths) - 1
        self.down: list[tuple[Stage, Downsample | None]] = []
        skips = [widths[0]]
        for i, width in enumerate(widths):
            pairs = [(skips[-1] if j == 0 else width, width) for j in range(config.layers_per_block[i])]
            attends = config.down_attends(i)
            down = stage(f"down_blocks.{i}", i, pairs, 1e-6 if attends else 1e-5, config.depths(i) if attends else ())
            sampler = Downsample(p / f"down_blocks.{i}.downsamplers.0", width) if i < last else None
            self.down.append((down, sampler))
            skips += [width] * (len(pairs) + (sampler is not None))

        self.mid = stage("mid_block", last, [(widths[-1], widths[-1])] * 2, 1e-5, config.depths(last)[:1])

        self.up: list[tuple[Stage, Upsample | None]] = []
        channels = widths[-1]
        for i, width in enumerate(reversed(widths)):
            level = last - i
            pairs = []
            for _ in range(config.layers_per_block[level] + 1):
                pairs.append((channels + skips.pop(), width))
                channels = width
            layers = config.depths(level, up=True) if config.up_attends(i) else ()
            up = stage(f"up_blocks.{i}", level, pairs, 1e-6, layers)
            self.up.append((up, Upsample(p / f"up_blocks.{i}.upsamplers.0", width) if i < last else None))

        self.conv_norm_out = p.group_norm("conv_norm_out", widths[0], eps=1e-5, silu=True)
        self.conv_out = p.conv2d("conv_out", widths[0], config.out_channels)
        self._compiled: Any = None  # a method of its own here would keep its memory until Python looks for cycles

    def enable_forward_chunking(self, chunk_size: int | None = None, dim: int = 0) -> None:
        """Run feed-forward layers on pieces of their input, to save memory; results are equal.

        Args:
            chunk_size: rows at a time; 1 if not given.
            dim: 0 to cut along the frames, 1 along the positions.
        """
        if dim not in (0, 1) or (chunk_size is not None and not (isinstance(chunk_size, int) and chunk_size >= 1)):
            raise InputError(f"Chunking takes dim 0 or 1 and a positive size, not dim {dim} and size {chunk_size}.")
        self._chunk(chunk_size or 1, dim)

    def disable_forward_chunking(self) -> None:
        """Run feed-forward layers whole."""
        self._chunk(None, 0)

    def _chunk(self, size: int | None, axis: int) -> None:
        self._chunking.size, self._chunking.axis = size, axis
        if self._compiled is not None:  # what was compiled has the old pieces in it
            self.compile()

    def compile(self) -> None:
        """Compile the step with the backend's compiler.

        Raises:
            InputError: the backend has none.
        """
        self._compiled = self.backend.compile(self._forward)

    def prepare(self, image_embeddings: Array, added_time_ids: npt.ArrayLike, frames: int) -> Prepared:
        """All that depends on the conditioning and not on sigma, once for a generation.

        Args:
            image_embeddings: context `(videos, M, cross_attention_dim)`; M is 1 in Stable Video Diffusion.
            added_time_ids: `(videos, 3)`: fps - 1, motion bucket id, noise augmentation strength.
            frames: frames of a video.
        """
        context = self.backend.cast(image_embeddings)
        ids = np.asarray(added_time_ids, np.float64)
        added = sinusoid(ids, self.config.addition_time_embed_dim).reshape(ids.shape[0], -1)
        if added.shape[1] != self.config.projection_class_embeddings_input_dim:
            raise InputError(
                f"The UNet takes {self.config.projection_class_embeddings_input_dim} channels of added time "
                f"embedding, and {ids.shape[1]} ids of {self.config.addition_time_embed_dim} make {added.shape[1]}."
            )
        stages = [stage for stage, _ in self.down] + [self.mid] + [stage for stage, _ in self.up]
        return (
            self.add_embedding(self.backend.array(added)),
            tuple(stage.prepare(context, frames) for stage in stages),
        )

    def __call__(self, sample: Array, c_noise: npt.ArrayLike, prepared: Prepared) -> Array:
        """The network's output F, not yet preconditioned.

        Args:
            sample: `(videos, frames, in_channels, height, width)`: scaled noisy latents, image latents.
            c_noise: log(sigma) / 4, a scalar or one a video.
            prepared: what `prepare` returned.

        Returns:
            `(videos, frames, out_channels, height, width)` in the dtype of the sampling state.
        """
        times = np.broadcast_to(np.asarray(c_noise, np.float64), (sample.shape[0],))
        time = self.backend.array(sinusoid(times, self.config.block_out_channels[0]))
        step = self._compiled or self._forward
        output = step(self.backend.cast(sample), time, prepared)
        return self.backend.cast(output, self.backend.state_dtype)

    def _forward(self, sample: Array, time: Array, prepared: Prepared) -> Array:
        k = self.backend
        videos, frames = sample.shape[:2]
        added, stages = prepared
        # Every residual block begins with the SiLU of this, so it is taken here.
        time = k.silu(self.time_embedding(time) + added)

        x = self.conv_in(k.to_map(sample.reshape(videos * frames, *sample.shape[2:])))
        skips = [x]
        contexts = iter(stages)
        for stage, downsample in self.down:
            skips += self._run(stage, x, None, frames, time, next(contexts))
            x = skips[-1]
            if downsample is not None:
                x = downsample(x)
                skips.append(x)
        resnet, out = self.mid.resnets
        x = resnet(x, frames, time)
        for attention, context in zip(self.mid.attentions, next(contexts), strict=True):
            x = attention(x, frames, context)
        x = out(x, frames, time)
        for stage, upsample in self.up:
            *_, x = self._run(stage, x, skips, frames, time, next(contexts))
            if upsample is not None:
                x = upsample(x, k.size(skips[-1]))
        output = k.from_map(self.conv_out(self.conv_norm_out(x)))
        return output.reshape(videos, frames, *output.shape[1:])

    def _run(
        self, stage: Stage, x: Map, skips: list[Map] | None, frames: int, time: Array, contexts: Prepared
    ) -> list[Map]:
        """A stage's output after each of its residual blocks; going up, each first takes a skip connection."""
        outputs = []
        for i, resnet in enumerate(stage.resnets):
            if skips is not None:
                x = self.backend.concat_channels(x, skips.pop())
            x = resnet(x, frames, time)
            if stage.attentions:
                x = stage.attentions[i](x, frames, contexts[i])
            outputs.append(x)
        return outputs

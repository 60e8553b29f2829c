"""Residual blocks: in space, over time, and the two mixed."""

from __future__ import annotations

from ..backend import Array, Map
from ..params import Params


class ResnetBlock:
    """Residual block of two 3x3 convolutions; `time`, if the block takes it, is added between them."""

    def __init__(self, p: Params, channels: int, out: int, *, eps: float, time_channels: int | None = None) -> None:
        self.k = p.kernels
        self.norm1 = p.group_norm("norm1", channels, eps=eps, silu=True)
        self.conv1 = p.conv2d("conv1", channels, out)
        self.time_emb_proj = p.linear("time_emb_proj", time_channels, out) if time_channels else None
        self.norm2 = p.group_norm("norm2", out, eps=eps, silu=True)
        self.conv2 = p.conv2d("conv2", out, out)
        self.conv_shortcut = p.conv2d("conv_shortcut", channels, out, 1) if channels != out else None

    def __call__(self, x: Map, time: Array | None = None) -> Map:
        """Maps of `channels` to maps of `out` channels. `time` is `(videos, time_channels)`, after SiLU."""
        h = self.conv1(self.norm1(x))
        if self.time_emb_proj is not None:
            h = self.k.add_rows(h, self.time_emb_proj(time))
        h = self.norm2(h)  # and what it was is no longer held
        return self.conv2(h, x if self.conv_shortcut is None else self.conv_shortcut(x))


class TemporalResnetBlock:
    """The same over time: convolutions of three frames, statistics of all frames of a video together."""

    def __init__(self, p: Params, channels: int, *, eps: float, time_channels: int | None = None) -> None:
        self.k = p.kernels
        self.norm1 = p.group_norm("norm1", channels, eps=eps, silu=True)
        self.conv1 = p.temporal_conv("conv1", channels, channels)
        self.time_emb_proj = p.linear("time_emb_proj", time_channels, channels) if time_channels else None
        self.norm2 = p.group_norm("norm2", channels, eps=eps, silu=True)
        self.conv2 = p.temporal_conv("conv2", channels, channels)

    def __call__(self, x: Map, frames: int, time: Array | None = None) -> Map:
        """Maps to maps of the same shape."""
        h = self.conv1(self.norm1(x, frames), frames)
        if self.time_emb_proj is not None:
            h = self.k.add_rows(h, self.time_emb_proj(time))
        h = self.norm2(h, frames)
        return self.conv2(h, frames, x)


class SpatioTemporalResBlock:
    """A spatial block, then a temporal one, their outputs mixed by a learned weight.

    The UNet's weight is the share of the spatial branch; the VAE's is that of the temporal one (`flip`).
    """

    def __init__(
        self,
        p: Params,
        channels: int,
        out: int,
        *,
        eps: float,
        temporal_eps: float | None = None,
        time_channels: int | None = None,
        flip: bool = False,
    ) -> None:
        self.spatial = ResnetBlock(p / "spatial_res_block", channels, out, eps=eps, time_channels=time_channels)
        self.temporal = TemporalResnetBlock(
            p / "temporal_res_block", out, eps=temporal_eps or eps, time_channels=time_channels
        )
        self.mix = p.mix("time_mixer", flip=flip)

    def __call__(self, x: Map, frames: int, time: Array | None = None) -> Map:
        """Maps of `channels` to maps of `out` channels."""
        x = self.spatial(x, time)
        return self.mix(x, self.temporal(x, frames, time))


class Downsample:
    """A 3x3 convolution of stride 2."""

    def __init__(self, p: Params, channels: int, padding: tuple[int, int] = (1, 1)) -> None:
        self.conv = p.conv2d("conv", channels, channels, stride=2, padding=padding)

    def __call__(self, x: Map) -> Map:
        """Half the height and width, rounded up."""
        return self.conv(x)


class Upsample:
    """Nearest-neighbour upsampling, then a 3x3 convolution."""

    def __init__(self, p: Params, channels: int) -> None:
        self.k = p.kernels
        self.conv = p.upsample_conv2d("conv", channels)

    def __call__(self, x: Map, size: tuple[int, int] | None = None) -> Map:
        """Maps of `size`, or of twice the height and width."""
        height, width = size or (2 * n for n in self.k.size(x))
        return self.conv(x, height, width)

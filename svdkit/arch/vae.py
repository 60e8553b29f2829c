"""The autoencoder: an image encoder, and a decoder that also looks along time (arXiv:2311.15127, appendix D)."""

from __future__ import annotations

from typing import Any

from ..backend import Array, Backend, Map
from ..config import VAEConfig
from ..params import Params
from .resnet import Downsample, ResnetBlock, SpatioTemporalResBlock, Upsample
from .transformer import SelfAttention

EPS = 1e-6
TEMPORAL_EPS = 1e-5


class MapAttention:
    """Single-head self-attention over all positions of a map, added to its input."""

    def __init__(self, p: Params, channels: int) -> None:
        self.k = p.kernels
        self.group_norm = p.group_norm("group_norm", channels, eps=EPS)
        self.attention = SelfAttention(p, channels, heads=1, bias=True)

    def __call__(self, x: Map) -> Map:
        """Maps to maps of the same shape."""
        tokens = self.attention(self.k.tokens(self.group_norm(x)), self.k.tokens(x))
        return self.k.from_tokens(tokens, *self.k.size(x))


class Encoder:
    """Images to the moments of their latents, each frame on its own."""

    def __init__(self, config: VAEConfig, p: Params) -> None:
        widths = config.block_out_channels
        self.conv_in = p.conv2d("conv_in", config.in_channels, widths[0])
        self.blocks: list[ResnetBlock | Downsample | MapAttention] = []
        channels = widths[0]
        for i, width in enumerate(widths):
            block = p / f"down_blocks.{i}"
            for j in range(config.layers_per_block):
                self.blocks.append(ResnetBlock(block / f"resnets.{j}", channels, width, eps=EPS))
                channels = width
            if i < len(widths) - 1:
                self.blocks.append(Downsample(block / "downsamplers.0", width, padding=(0, 1)))
        mid = p / "mid_block"
        self.blocks += [
            ResnetBlock(mid / "resnets.0", channels, channels, eps=EPS),
            MapAttention(mid / "attentions.0", channels),
            ResnetBlock(mid / "resnets.1", channels, channels, eps=EPS),
        ]
        self.conv_norm_out = p.group_norm("conv_norm_out", channels, eps=EPS, silu=True)
        self.conv_out = p.conv2d("conv_out", channels, 2 * config.latent_channels)

    def __call__(self, x: Map) -> Map:
        """Maps of 3 channels to maps of means and log-variances."""
        x = self.conv_in(x)
        for block in self.blocks:
            x = block(x)
        return self.conv_out(self.conv_norm_out(x))


class TemporalDecoder:
    """Latents to frames; residual blocks and the last convolution see all frames of a chunk."""

    def __init__(self, config: VAEConfig, p: Params) -> None:
        def resnet(p: Params, channels: int, out: int) -> SpatioTemporalResBlock:
            return SpatioTemporalResBlock(p, channels, out, eps=EPS, temporal_eps=TEMPORAL_EPS, flip=True)

        widths = config.block_out_channels[::-1]
        channels = widths[0]
        self.conv_in = p.conv2d("conv_in", config.latent_channels, channels)
        mid = p / "mid_block"
        self.mid = [resnet(mid / f"resnets.{i}", channels, channels) for i in range(config.layers_per_block)]
        # The reference has one attention however many residual blocks, and pairs it with the second of them.
        self.attention = MapAttention(mid / "attentions.0", channels)
        self.up: list[tuple[list[SpatioTemporalResBlock], Upsample | None]] = []
        for i, width in enumerate(widths):
            block = p / f"up_blocks.{i}"
            resnets = []
            for j in range(config.layers_per_block + 1):
                resnets.append(resnet(block / f"resnets.{j}", channels, width))
                channels = width
            upsample = Upsample(block / "upsamplers.0", width) if i < len(widths) - 1 else None
            self.up.append((resnets, upsample))
        self.conv_norm_out = p.group_norm("conv_norm_out", channels, eps=EPS, silu=True)
        self.conv_out = p.conv2d("conv_out", channels, config.out_channels)
        self.time_conv_out = p.temporal_conv("time_conv_out", config.out_channels, config.out_channels)

    def __call__(self, x: Map, frames: int) -> Map:
        """Maps of latents to maps of 3 channels."""
        x = self.mid[0](self.conv_in(x), frames)
        for resnet in self.mid[1:2]:  # see `attention`
            x = resnet(self.attention(x), frames)
        for resnets, upsample in self.up:
            for resnet in resnets:
                x = resnet(x, frames)
            if upsample is not None:
                x = upsample(x)
        return self.time_conv_out(self.conv_out(self.conv_norm_out(x)), frames)


class VAE:
    """Images to latents and back, on one backend.

    Args:
        config: the checkpoint's configuration.
        p: its weights.
    """

    def __init__(self, config: VAEConfig, p: Params) -> None:
        self.config = config
        self.backend: Backend = p.kernels
        self.encoder = Encoder(config, p / "encoder")
        self.quant_conv = p.conv2d("quant_conv", 2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.decoder = TemporalDecoder(config, p / "decoder")
        self._compiled: Any = None

    def compile(self) -> None:
        """Compile decoding with the backend's compiler.

        Raises:
            InputError: the backend has none.
        """
        self._compiled = self.backend.compile(self._decode_frames)

    def encode(self, images: Array) -> Array:
        """The mode of the posterior, not scaled.

        Args:
            images: `(N, 3, H, W)` in [-1, 1]; H and W are multiples of `config.scale_factor`.

        Returns:
            `(N, latent_channels, H / scale_factor, W / scale_factor)` in the dtype of the sampling state.
        """
        k = self.backend
        moments = k.from_map(self.quant_conv(self.encoder(k.to_map(k.cast(images)))))
        return k.cast(moments[:, : self.config.latent_channels], k.state_dtype)

    def decode(self, latents: Array) -> Array:
        """Frames of one video, or of a chunk of its frames.

        Args:
            latents: `(F, latent_channels, h, w)`, already divided by the scaling factor.

        Returns:
            `(F, 3, h * scale_factor, w * scale_factor)`, about in [-1, 1], in the dtype of the sampling state.
        """
        k = self.backend
        decode = self._compiled or self._decode_frames
        return k.cast(decode(k.cast(latents)), k.state_dtype)

    def _decode_frames(self, latents: Array) -> Array:
        k = self.backend
        return k.from_map(self.decoder(k.to_map(latents), latents.shape[0]))

"""The spatio-temporal transformer: attention in space within a frame, then over time at each position."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from ..backend import Array, Map
from ..params import Params
from .embeddings import TimestepEmbedding, sinusoid

Context: TypeAlias = tuple[Array, ...]
"""What cross-attention keeps of the conditioning for a whole generation: one row, or keys and values."""


class ForwardChunking:
    """How many rows of tokens a feed-forward layer takes at a time; shared by all of a network's."""

    def __init__(self) -> None:
        self.size: int | None = None
        self.axis = 0


class FeedForward:
    """A gated linear layer to four times the channels, and one back."""

    def __init__(self, p: Params, channels: int, chunking: ForwardChunking) -> None:
        self.k = p.kernels
        self.chunking = chunking
        self.proj = p.geglu("net.0.proj", channels, 4 * channels)
        self.out = p.linear("net.2", 4 * channels, channels)

    def __call__(self, x: Array, plus: Array) -> Array:
        """Tokens to tokens, plus others."""
        size, axis = self.chunking.size, self.chunking.axis
        if size is None or size >= x.shape[axis]:
            return self.out(self.proj(x), plus)

        def piece(start: int) -> Array:
            here = np.s_[start : start + size] if axis == 0 else np.s_[:, start : start + size]
            return self.out(self.proj(x[here]), plus[here])

        return self.k.concat([piece(start) for start in range(0, x.shape[axis], size)], axis)


class SelfAttention:
    """Multi-head attention of tokens on themselves; over time if `frames` are given."""

    def __init__(self, p: Params, channels: int, heads: int, *, bias: bool = False) -> None:
        self.k = p.kernels
        self.heads = heads
        self.to_q, self.to_k, self.to_v = (p.linear(n, channels, channels, bias=bias) for n in ("to_q", "to_k", "to_v"))
        self.to_out = p.linear("to_out.0", channels, channels)

    def __call__(self, x: Array, plus: Array | None = None, frames: int | None = None) -> Array:
        """Tokens to tokens, plus others."""
        q, k, v = self.to_q(x), self.to_k(x), self.to_v(x)
        if frames is None:
            return self.to_out(self.k.attention(q, k, v, self.heads), plus)
        return self.to_out(self.k.temporal_attention(q, k, v, self.heads, frames), plus)


class CrossAttention:
    """Attention on the conditioning, which is the same for all frames and positions of a video.

    Softmax over a single key is 1, whatever the query: with one context token, which is what Stable Video
    Diffusion has, the layer adds `to_out(to_v(context))`, one row a video for the whole generation.
    """

    def __init__(self, p: Params, channels: int, heads: int, context_channels: int) -> None:
        self.k = p.kernels
        self.heads = heads
        self.norm = p.layer_norm("norm2", channels)
        p = p / "attn2"
        self.to_q = p.linear("to_q", channels, channels, bias=False)
        self.to_k = p.linear("to_k", context_channels, channels, bias=False)
        self.to_v = p.linear("to_v", context_channels, channels, bias=False)
        self.to_out = p.linear("to_out.0", channels, channels)

    def prepare(self, context: Array) -> Context:
        """What depends only on the context `(videos, M, context_channels)`."""
        values = self.to_v(context)
        if context.shape[1] == 1:
            return (self.to_out(values)[:, 0],)
        return self.to_k(context), values

    def __call__(self, x: Array, context: Context) -> Array:
        """`x` plus what it attends to."""
        if len(context) == 1:
            return self.k.add_rows(x, context[0])
        keys, values = context
        # Queries do not see each other, so all frames and positions of a video may stand in one sequence.
        queries = self.to_q(self.norm(x)).reshape(keys.shape[0], -1, x.shape[-1])
        attended = self.k.attention(queries, keys, values, self.heads)
        return self.to_out(attended.reshape(x.shape), x)


class TransformerBlock:
    """Self-attention in space, cross-attention, feed-forward; each normalised before and added to its input."""

    def __init__(self, p: Params, channels: int, heads: int, context_channels: int, chunking: ForwardChunking) -> None:
        self.norm1 = p.layer_norm("norm1", channels)
        self.attn1 = SelfAttention(p / "attn1", channels, heads)
        self.attn2 = CrossAttention(p, channels, heads, context_channels)
        self.norm3 = p.layer_norm("norm3", channels)
        self.ff = FeedForward(p / "ff", channels, chunking)

    def __call__(self, x: Array, context: Context) -> Array:
        """Tokens to tokens."""
        x = self.attn1(self.norm1(x), x)
        x = self.attn2(x, context)
        return self.ff(self.norm3(x), x)


class TemporalTransformerBlock:
    """The same over time, after a feed-forward layer of its own."""

    def __init__(self, p: Params, channels: int, heads: int, context_channels: int, chunking: ForwardChunking) -> None:
        self.norm_in = p.layer_norm("norm_in", channels)
        self.ff_in = FeedForward(p / "ff_in", channels, chunking)
        self.norm1 = p.layer_norm("norm1", channels)
        self.attn1 = SelfAttention(p / "attn1", channels, heads)
        self.attn2 = CrossAttention(p, channels, heads, context_channels)
        self.norm3 = p.layer_norm("norm3", channels)
        self.ff = FeedForward(p / "ff", channels, chunking)

    def __call__(self, x: Array, frames: int, context: Context) -> Array:
        """Tokens to tokens. Only the attention looks along time, so only it reorders them."""
        x = self.ff_in(self.norm_in(x), x)
        x = self.attn1(self.norm1(x), x, frames)
        x = self.attn2(x, context)
        return self.ff(self.norm3(x), x)


class SpatioTemporalTransformer:
    """Pairs of a spatial and a temporal block, mixed by one learned weight, around a residual connection."""

    def __init__(
        self,
        p: Params,
        channels: int,
        heads: int,
        layers: int,
        context_channels: int,
        chunking: ForwardChunking,
    ) -> None:
        self.k = p.kernels
        self.channels = channels
        self.norm = p.group_norm("norm", channels, eps=1e-6)
        self.proj_in = p.linear("proj_in", channels, channels)
        self.blocks = [
            (
                TransformerBlock(p / f"transformer_blocks.{i}", channels, heads, context_channels, chunking),
                TemporalTransformerBlock(
                    p / f"temporal_transformer_blocks.{i}", channels, heads, context_channels, chunking
                ),
            )
            for i in range(layers)
        ]
        self.time_pos_embed = TimestepEmbedding(p / "time_pos_embed", channels, 4 * channels, channels)
        self.mix = p.mix("time_mixer")
        self.proj_out = p.linear("proj_out", channels, channels)

    def prepare(self, context: Array, frames: int) -> tuple[Array, tuple[tuple[Context, Context], ...]]:
        """What depends only on the conditioning: the rows that tell frames apart, and each block's context."""
        positions = np.tile(sinusoid(np.arange(frames), self.channels), (context.shape[0], 1))
        rows = self.time_pos_embed(self.k.array(positions))
        return rows, tuple((s.attn2.prepare(context), t.attn2.prepare(context)) for s, t in self.blocks)

    def __call__(self, x: Map, frames: int, prepared: tuple[Array, tuple[tuple[Context, Context], ...]]) -> Map:
        """Maps to maps of the same shape."""
        positions, contexts = prepared
        h = self.proj_in(self.k.tokens(self.norm(x)))
        for (spatial, temporal), (spatial_context, temporal_context) in zip(self.blocks, contexts, strict=True):
            h = spatial(h, spatial_context)
            h = self.mix(h, temporal(self.k.add_rows(h, positions), frames, temporal_context))
        return self.k.from_tokens(self.proj_out(h, self.k.tokens(x)), *self.k.size(x))

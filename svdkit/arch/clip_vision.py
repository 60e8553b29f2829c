"""The image encoder: CLIP's vision transformer and its projection (arXiv:2103.00020)."""

from __future__ import annotations

from typing import Any

from ..backend import Array, Backend
from ..config import CLIPVisionConfig
from ..params import Params


class CLIPLayer:
    """Self-attention and a two-layer perceptron, each normalised before and added to its input."""

    def __init__(self, config: CLIPVisionConfig, p: Params) -> None:
        self.k = p.kernels
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.layer_norm1 = p.layer_norm("layer_norm1", width, eps=config.layer_norm_eps)
        attention = p / "self_attn"
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            attention.linear(name, width, width) for name in ("q_proj", "k_proj", "v_proj", "out_proj")
        )
        self.layer_norm2 = p.layer_norm("layer_norm2", width, eps=config.layer_norm_eps)
        self.fc1 = p.linear("mlp.fc1", width, config.intermediate_size)
        self.fc2 = p.linear("mlp.fc2", config.intermediate_size, width)
        self.activation = config.hidden_act

    def __call__(self, x: Array, count: int | None = None) -> Array:
        """Tokens to tokens; only the first so many, if a count is given."""
        h = self.layer_norm1(x)
        keys, values = self.k_proj(h), self.v_proj(h)
        if count is not None:
            h, x = h[:, :count], x[:, :count]
        x = self.out_proj(self.k.attention(self.q_proj(h), keys, values, self.heads), x)
        h = self.fc1(self.layer_norm2(x))
        return self.fc2(self.k.gelu(h) if self.activation == "gelu" else self.k.quick_gelu(h), x)


class CLIPVision:
    """An image to one embedding, on one backend.

    Args:
        config: the checkpoint's configuration.
        p: its weights.
    """

    def __init__(self, config: CLIPVisionConfig, p: Params) -> None:
        self.config = config
        self.backend: Backend = p.kernels
        width, patch = config.hidden_size, config.patch_size
        positions = (config.image_size // patch) ** 2 + 1
        vision = p / "vision_model"
        embeddings = vision / "embeddings"
        self.patch_embedding = embeddings.conv2d(
            "patch_embedding", config.num_channels, width, patch, bias=False, stride=patch, padding=(0, 0)
        )
        first = embeddings.tensor("class_embedding", width)
        table = (embeddings / "position_embedding").tensor("weight", positions, width)
        self._first: Any = None if first is None else self.backend.array(first.reshape(1, 1, width))
        self._positions: Any = None if table is None else self.backend.array(table[None])
        # The name is misspelt in every checkpoint.
        self.pre_layernorm = vision.layer_norm("pre_layrnorm", width, eps=config.layer_norm_eps)
        self.layers = [CLIPLayer(config, vision / f"encoder.layers.{i}") for i in range(config.num_hidden_layers)]
        self.post_layernorm = vision.layer_norm("post_layernorm", width, eps=config.layer_norm_eps)
        self.visual_projection = p.linear("visual_projection", width, config.projection_dim, bias=False)

    def __call__(self, pixels: Array) -> Array:
        """Projected embeddings `(N, projection_dim)` of normalised pixels `(N, 3, image_size, image_size)`."""
        k = self.backend
        patches = k.tokens(self.patch_embedding(k.to_map(k.cast(pixels))))
        first = k.concat([self._first] * pixels.shape[0], 0)
        x = self.pre_layernorm(k.concat([first, patches], 1) + self._positions)
        for layer in self.layers[:-1]:
            x = layer(x)
        x = self.layers[-1](x, 1)  # the first token is all that is asked for
        return k.cast(self.visual_projection(self.post_layernorm(x[:, 0])), k.state_dtype)

"""Checkpoints with random weights, of any size, without the framework that the real ones were trained in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import Host
from ..checkpoint import ARCHITECTURES, PIPELINE
from ..config import from_dict
from ..params import expected_shapes
from ..preprocess import CLIP_MEAN, CLIP_STD
from ..weights import STEMS, write_weights

UNET_XT: dict[str, Any] = {
    "addition_time_embed_dim": 256,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 1024,
    "down_block_types": ["CrossAttnDownBlockSpatioTemporal"] * 3 + ["DownBlockSpatioTemporal"],
    "in_channels": 8,
    "layers_per_block": 2,
    "num_attention_heads": [5, 10, 20, 20],
    "num_frames": 25,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 768,
    "sample_size": 96,
    "transformer_layers_per_block": 1,
    "up_block_types": ["UpBlockSpatioTemporal"] + ["CrossAttnUpBlockSpatioTemporal"] * 3,
}
VAE_XT: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "force_upcast": True,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "out_channels": 3,
    "sample_size": 768,
    "scaling_factor": 0.18215,
}
CLIP_XT: dict[str, Any] = {
    "hidden_act": "gelu",
    "hidden_size": 1280,
    "image_size": 224,
    "intermediate_size": 5120,
    "layer_norm_eps": 1e-05,
    "num_attention_heads": 16,
    "num_channels": 3,
    "num_hidden_layers": 32,
    "patch_size": 14,
    "projection_dim": 1024,
}
"""The configurations of stable-video-diffusion-img2vid-xt."""

SCHEDULER: dict[str, Any] = {
    "_class_name": "EulerDiscreteScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "interpolation_type": "linear",
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "sigma_max": 700.0,
    "sigma_min": 0.002,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "timestep_type": "continuous",
    "use_karras_sigmas": True,
}
FEATURE_EXTRACTOR: dict[str, Any] = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "feature_extractor_type": "CLIPFeatureExtractor",
    "image_mean": list(CLIP_MEAN),
    "image_processor_type": "CLIPImageProcessor",
    "image_std": list(CLIP_STD),
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"shortest_edge": 224},
}
INDEX: dict[str, Any] = {
    "_class_name": PIPELINE,
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "scheduler": ["diffusers", "EulerDiscreteScheduler"],
    "unet": ["diffusers", "UNetSpatioTemporalConditionModel"],
    "vae": ["diffusers", "AutoencoderKLTemporalDecoder"],
}
_CLASSES: dict[str, dict[str, Any]] = {
    "unet": {"_class_name": "UNetSpatioTemporalConditionModel"},
    "vae": {"_class_name": "AutoencoderKLTemporalDecoder"},
    "image_encoder": {"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model"},
}


def write_random_checkpoint(
    folder: Path,
    *,
    unet: Mapping[str, Any] = UNET_XT,
    vae: Mapping[str, Any] = VAE_XT,
    image_encoder: Mapping[str, Any] = CLIP_XT,
    seed: int = 0,
    dtype: str = "float16",
    spread: float = 0.0,
) -> Path:
    """Write a checkpoint that diffusers reads too, with weights that keep activations of order one.

    Args:
        folder: made if there is none.
        unet, vae, image_encoder: configurations; those of img2vid-xt if not given, which take 4.5 GB in float16.
        seed: of the weights.
        dtype: that they are stored in.
        spread: how far biases, norms and mixtures are moved from where training begins, so that each matters.

    Returns:
        `folder`.
    """
    rng = np.random.default_rng(seed)
    for name, config in (("unet", unet), ("vae", vae), ("image_encoder", image_encoder)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        _write_json(folder / name / "config.json", _CLASSES[name] | dict(config))
        config_class, architecture = ARCHITECTURES[name]
        shapes = expected_shapes(lambda p: architecture(from_dict(config_class, config), p))  # noqa: B023
        write_weights(
            folder / name / f"{STEMS[name]}.safetensors",
            {key: random_tensor(rng, key, shape, spread).astype(dtype) for key, shape in shapes.items()},
        )
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "feature_extractor").mkdir(exist_ok=True)
    _write_json(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    _write_json(folder / "feature_extractor" / "preprocessor_config.json", FEATURE_EXTRACTOR)
    _write_json(folder / "model_index.json", INDEX)
    return folder


def random_tensor(rng: np.random.Generator, key: str, shape: tuple[int, ...], spread: float = 0.0) -> Host:
    """One tensor of a checkpoint, by its key: noise of the fan-in's size, or where biases, norms and mixtures begin."""
    if len(shape) < 2 or key.endswith("mix_factor"):
        begin = 0.5 if key.endswith("mix_factor") else float("norm" in key and key.endswith("weight"))
        return begin + spread * rng.standard_normal(shape, np.float32) if spread else np.full(shape, begin)
    fan_in = np.prod(shape[1:])
    return np.asarray(rng.standard_normal(shape, np.float32) / np.sqrt(np.float32(fan_in)))


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(values), indent=2) + "\n", encoding="utf-8")

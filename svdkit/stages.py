"""The first and the last stage of a generation: pictures to conditioning, latents to frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from .backend import Array, Backend, Host
from .checkpoint import FeatureExtractor
from .errors import NumericalError, OutOfMemoryError
from .interfaces import VAE, ImageEncoder
from .noise import Purpose, normal
from .preprocess import Picture, clip_pixels, vae_pixels

Advance = Callable[[int], object]


@contextmanager
def stage(name: str, total: int, timings: dict[str, float], progress: Mapping[str, Any]) -> Iterator[Advance]:
    """Shows the progress of one stage, with options of `tqdm`, and notes its seconds."""
    from tqdm.auto import tqdm

    start = time.perf_counter()
    with tqdm(total=total, desc=name, **progress) as bar:
        yield bar.update
    timings[name] = time.perf_counter() - start


@contextmanager
def explained_memory(name: str, backend: Backend, advice: Callable[[], str]) -> Iterator[None]:
    """Raises `OutOfMemoryError` in place of what the backend raises when memory runs out; `advice` is a sentence."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemoryError) or not backend.is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:200]
        raise OutOfMemoryError(
            f"The memory of {backend.name} on {backend.device} ran out in the stage {name!r}"
            f"{f' ({said})' if said else ''}. {advice()}"
        ) from error


def embed(
    encoder: ImageEncoder, extractor: FeatureExtractor, pictures: Sequence[Picture], copies: int, advance: Advance
) -> Host:
    """Embeddings `(pictures * copies, channels)`, those of one picture one after another."""
    k, embeddings = encoder.backend, []
    for picture in pictures:
        pixels = clip_pixels(picture, encoder.config.image_size, extractor.image_mean, extractor.image_std)
        embeddings += [k.numpy(encoder(k.array(pixels[None])))] * copies
        advance(copies)
    return np.concatenate(embeddings)


def encode(
    vae: VAE, pictures: Sequence[Picture], height: int, width: int, seeds: Sequence[int], strength: float, a: Advance
) -> Host:
    """Latents `(videos, channels, h, w)` of the pictures, each with noise from its video's seed."""
    k, latents = vae.backend, []
    copies = len(seeds) // len(pictures)
    for i, picture in enumerate(pictures):
        clean = vae_pixels(picture, height, width)
        for seed in seeds[i * copies : (i + 1) * copies]:
            noise = strength * normal(seed, Purpose.AUGMENTATION, clean.shape)
            latents.append(k.numpy(vae.encode(k.array((clean + noise)[None]))))
            a(1)
    return np.concatenate(latents)


def decode(vae: VAE, latents: Array, chunk: int, kind: str, advance: Advance) -> Host:
    """Frames `(videos, F, H, W, 3)` of latents, in chunks that never straddle two videos.

    Args:
        vae: the decoder.
        latents: `(videos, F, C, h, w)`.
        chunk: frames decoded at a time.
        kind: `"pil"` for integers of 8 bits, else floats in [0, 1].
        advance: is told how many frames are done.

    Raises:
        NumericalError: a frame holds a NaN or an infinity.
    """
    videos = []
    for i in range(latents.shape[0]):
        video = latents[i] * (1 / vae.config.scaling_factor)
        pieces = []
        for start in range(0, video.shape[0], chunk):
            piece = vae.backend.numpy(vae.decode(video[start : start + chunk]))
            if not np.isfinite(piece).all():
                raise NumericalError(
                    f"NaN or infinity appeared while decoding frames {start} to {start + len(piece) - 1} of video "
                    f"{i}, in {vae.backend.dtype}. A wider dtype, such as float32, may help."
                )
            piece = np.clip(piece.transpose(0, 2, 3, 1) / 2 + 0.5, 0, 1)
            pieces.append((piece * 255).round().astype(np.uint8) if kind == "pil" else piece)
            advance(len(piece))
        videos.append(np.concatenate(pieces))
    return np.stack(videos)


def frames_of(videos: Host, kind: str, backend: Backend) -> Any:
    """What `decode` returned, as the output type says."""
    if kind == "pil":
        from PIL import Image

        return [[Image.fromarray(frame) for frame in video] for video in videos]
    return videos if kind == "np" else backend.array(videos.transpose(0, 1, 4, 2, 3), backend.state_dtype)

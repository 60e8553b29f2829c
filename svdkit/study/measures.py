"""What is measured of one video, from scikit-image and OpenCV where they have it."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from ..backend import Host

LEAST_SIDE = 12
"""Pixels of the longer side, below which there is no optical flow."""
FULL_FLOW = 256
"""Pixels of the shorter side from which on the flow is found at half the resolution, as it is by default; it takes a
quarter of the time."""


def latent_error(latents: Host, reference: Host) -> float:
    """Root mean square of the difference over that of the reference."""
    a, b = latents.astype(np.float64), reference.astype(np.float64)
    return math.sqrt(float(np.mean((a - b) ** 2)) / float(np.mean(b**2)))


def measure(
    frames: Host, latents: Host, reference_frames: Host, reference_latents: Host, image: Host
) -> dict[str, float]:
    """All measures of a video, by the names of `svdkit.study.table.MEASURES`.

    Args:
        frames: (F, H, W, 3) in 8 bits.
        latents: (F, C, h, w).
        reference_frames, reference_latents: of the reference, in the same shapes.
        image: what the video begins with, (H, W, 3) in 8 bits.

    Returns:
        finite numbers, but for infinite PSNR of equal pictures, and NaN where there are too few frames.
    """
    return {
        "latent_error": latent_error(latents, reference_latents),
        "rmse": math.sqrt(float(np.mean((frames.astype(np.float64) - reference_frames) ** 2))),
        "psnr": psnr(frames, reference_frames),
        "ssim": ssim(frames, reference_frames),
        **motion(frames),
        "flicker": flicker(frames),
        "first_frame_psnr": psnr(frames[0], image),
    }


def perceptual(embeddings: Host, reference: Host) -> float:
    """Mean over frames of 1 - cosine of their embeddings (F, channels) by the image encoder of the model.

    For Stable Video Diffusion that is CLIP's: it tells what is seen in a frame, and little of where.
    """
    a, b = embeddings.astype(np.float64), reference.astype(np.float64)
    cosines = (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
    return float(np.mean(1 - cosines))


def psnr(a: Host, b: Host) -> float:
    """Peak signal-to-noise ratio in dB, of 8 bits."""
    from skimage.metrics import peak_signal_noise_ratio

    return math.inf if np.array_equal(a, b) else float(peak_signal_noise_ratio(b, a, data_range=255))


def ssim(frames: Host, reference: Host) -> float:
    """Structural similarity (doi:10.1109/TIP.2003.819861), with its windows of 7 pixels, mean over frames."""
    from skimage.metrics import structural_similarity

    pairs = zip(frames, reference, strict=True)
    return float(np.mean([structural_similarity(a, b, channel_axis=-1, data_range=255) for a, b in pairs]))


def flicker(frames: Host) -> float:
    """RMS of the second differences of the frames' mean brightness, in 8-bit levels: 0 for a steady fade."""
    if len(frames) < 3:
        return math.nan
    return math.sqrt(float(np.mean(np.diff(_luma(frames).mean((1, 2)), 2) ** 2)))


def motion(frames: Host) -> dict[str, float]:
    """How much moves from each frame to the next, and what the movement leaves unexplained.

    `motion` is the mean length of the optical flow (DIS, arXiv:1603.03590), in pixels; `warping_error`
    (arXiv:1808.00449, section 4.2) the RMS difference, in 8-bit levels of luma, between a frame and the next one
    brought back along the flow, where the flow there and the flow back agree. A still video has no warping error: it
    is to be read beside the motion.
    """
    from scipy.ndimage import map_coordinates

    lengths: list[float] = []
    squares: list[Host] = []
    luma = _luma(frames)
    height, width = luma.shape[1:]
    grid = np.mgrid[:height, :width].astype(np.float64)
    edge = np.array([[[height - 1]], [[width - 1]]])
    for here, ahead in pairwise(luma) if max(height, width) >= LEAST_SIDE else ():
        there, back = flow(here, ahead), flow(ahead, here)
        place = grid + there
        returned, arrived = (
            np.stack([map_coordinates(one, place, order=1, mode="nearest") for one in ones]) for ones in (back, [ahead])
        )
        slack = 0.01 * ((there**2).sum(0) + (returned**2).sum(0)) + 0.5  # doi:10.1007/978-3-642-15549-9_32
        inside = ((place >= 0) & (place <= edge)).all(0)
        visible = inside & (((there + returned) ** 2).sum(0) < slack)
        lengths.append(float(np.hypot(*there).mean()))
        squares.append((arrived[0] - here)[visible] ** 2)
    seen = np.concatenate(squares) if squares else np.zeros(0)
    return {
        "motion": float(np.mean(lengths)) if lengths else math.nan,
        "warping_error": math.sqrt(float(seen.mean())) if seen.size else math.nan,
    }


def flow(here: Host, ahead: Host) -> Host:
    """How far each pixel of one frame has moved in another: `(2, H, W)` in pixels, downwards and to the right.

    Args:
        here, ahead: luma `(H, W)` from 0 to 255.
    """
    import cv2

    finder: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    finder.setFinestScale(int(min(here.shape) >= FULL_FLOW))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # cells run at the same time already, and OpenCV's own threads do not survive a fork
    try:
        found = finder.calc(*(one.round().astype(np.uint8) for one in (here, ahead)), None)
    finally:
        cv2.setNumThreads(threads)
    return np.asarray(found[..., ::-1].transpose(2, 0, 1), np.float64)


def _luma(frames: Host) -> Any:
    """Luma (F, H, W) of ITU-R BT.709, from 0 to 255."""
    return frames.astype(np.float64) @ np.array([0.2126, 0.7152, 0.0722])

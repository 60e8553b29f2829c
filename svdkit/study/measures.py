"""What is measured of one video, from scikit-image where it has it."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from ..backend import Host

FLOW_WINDOW = 7
"""Radius in pixels of the windows over which the optical flow is taken as constant; a quarter of a side at most."""
FLOW_WARPS = 3
"""Times that the flow is refined at each scale; more find the same to 1e-3 pixels, and take that much longer."""


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

    `motion` is the mean length of the optical flow, in pixels; `warping_error` (arXiv:1808.00449, section 4.2) the
    RMS difference, in 8-bit levels of luma, between a frame and the next one brought back along the flow, where the
    flow there and the flow back agree. A still video has no warping error: it is to be read beside the motion.
    """
    from skimage.registration import optical_flow_ilk
    from skimage.transform import warp

    luma = _luma(frames)
    height, width = luma.shape[1:]
    grid = np.mgrid[:height, :width].astype(np.float64)
    edge = np.array([[[height - 1]], [[width - 1]]])
    flow = partial(optical_flow_ilk, radius=max(1, min(FLOW_WINDOW, height // 4, width // 4)), num_warp=FLOW_WARPS)
    lengths: list[float] = []
    squares: list[Host] = []
    for here, ahead in pairwise(luma):
        there, back = flow(here / 255, ahead / 255), flow(ahead / 255, here / 255)
        place = grid + there
        returned, arrived = np.stack([warp(one, place) for one in back]), warp(ahead, place)
        slack = 0.01 * ((there**2).sum(0) + (returned**2).sum(0)) + 0.5  # doi:10.1007/978-3-642-15549-9_32
        inside = ((place >= 0) & (place <= edge)).all(0)
        visible = inside & (((there + returned) ** 2).sum(0) < slack)
        lengths.append(float(np.hypot(*there).mean()))
        squares.append((arrived - here)[visible] ** 2)
    seen = np.concatenate(squares) if squares else np.zeros(0)
    return {
        "motion": float(np.mean(lengths)) if lengths else math.nan,
        "warping_error": math.sqrt(float(seen.mean())) if seen.size else math.nan,
    }


def _luma(frames: Host) -> Any:
    """Luma (F, H, W) of ITU-R BT.709, from 0 to 255."""
    return frames.astype(np.float64) @ np.array([0.2126, 0.7152, 0.0722])

"""The procedural world: pure in the seed and in world time, and its motions as the pictures promise."""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from training.world import SCENES, clip, world_time
from training.world.balls import GRAVITY, RESTITUTION, altitude
from training.world.boat import SPEED
from training.world.drawing import Noise, Picture, box, circle, convex, ellipse, rgb, segment
from training.world.light import DAY, Day

every_scene = pytest.mark.parametrize("scene", SCENES)


def at_noon(seed: int, scene: str, times: Iterable[float]) -> npt.NDArray[np.uint8]:
    """Frames as the scene draws them: never mirrored, and in the light of noon."""
    content = np.random.default_rng([seed, 2])
    content.random()  # decides whether a clip is mirrored
    draw = SCENES[scene].drawn(content, 96)
    frames = np.empty((len(times := list(times)), 96, 96, 3), np.uint8)
    for frame, tau in zip(frames, times, strict=True):
        draw(tau).write(frame)
    return frames


def test_world_time_of_conditions() -> None:
    np.testing.assert_allclose(world_time(3, 7, 127), [0, 1, 2])
    np.testing.assert_allclose(world_time(3, 14, 254), [0, 1, 2])
    np.testing.assert_allclose(world_time(2, 7, 254), [0, 2])


def test_same_seed_same_clip_and_others_differ() -> None:
    for seed in range(12):
        a, b, other = clip(seed), clip(seed), clip(seed + 1)
        np.testing.assert_array_equal(a.frames, b.frames)
        assert (a.scene, a.fps, a.motion_bucket_id) == (b.scene, b.fps, b.motion_bucket_id)
        assert not np.array_equal(a.frames, other.frames)


@every_scene
def test_conditions_change_only_the_pace(scene: str) -> None:
    for seed in range(3):
        slow = clip(seed, scene=scene, frames=7, fps=8, motion_bucket_id=64).frames
        for fps, bucket in ((8, 128), (4, 64)):
            fast = clip(seed, scene=scene, frames=4, fps=fps, motion_bucket_id=bucket).frames
            np.testing.assert_array_equal(fast, slow[::2])
        np.testing.assert_array_equal(clip(seed, scene=scene, frames=1).frames[0], slow[0])


@every_scene
def test_every_scene_moves_and_has_contrast(scene: str) -> None:
    for seed in range(6):
        made = clip(seed, scene=scene, fps=7, motion_bucket_id=127)
        assert made.frames.shape == (8, 96, 96, 3)
        assert made.frames.dtype == np.uint8
        assert (made.scene, made.determined) == (scene, SCENES[scene].determined)
        levels = made.frames.astype(np.float32)
        assert levels[0].std() > 10
        still = np.abs(levels[1:] - levels[0]).mean((1, 2, 3))
        assert still[-1] > 2.5, f"seed {seed}: the last frame is like the first"
        assert np.abs(np.diff(levels, axis=0)).max((1, 2, 3)).min() > 15, f"seed {seed}: two frames are alike"


@every_scene
def test_size_scales_the_same_scene(scene: str) -> None:
    for seed in range(2):
        small, large = (
            clip(seed, scene=scene, size=s, frames=3, fps=7, motion_bucket_id=127).frames for s in (96, 192)
        )
        assert large.shape == (3, 192, 192, 3)
        halved = large.reshape(3, 96, 2, 96, 2, 3).mean((2, 4))
        assert np.abs(halved - small).mean() < 3


@pytest.mark.parametrize("scene", ["boat", "cart"])
def test_vehicles_move_the_way_they_point(scene: str) -> None:
    for seed in range(6):
        levels = at_noon(seed, scene, range(24)).astype(np.float32)  # drawn facing right
        vehicle = np.abs(levels[0] - np.median(levels, axis=0)).sum(-1) > 60  # it leaves most places free in time
        shifts = range(-25, 26)
        misses = [np.abs(np.roll(levels[5], -shift, axis=1) - levels[0])[vehicle].mean() for shift in shifts]
        assert shifts[int(np.argmin(misses))] == pytest.approx(5 * SPEED * 96, abs=3)  # a boat also tilts


def test_half_of_the_clips_are_mirrored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Day, "shine", lambda *_: None)
    mirrored = []
    for seed in range(12):
        frames, drawn = clip(seed, scene="boat").frames[0], at_noon(seed, "boat", [0])[0]
        assert np.array_equal(frames, drawn) != np.array_equal(frames, drawn[:, ::-1])
        mirrored.append(not np.array_equal(frames, drawn))
    assert 2 < sum(mirrored) < 10


def lit(day: Day, tau: float) -> npt.NDArray[np.float32]:
    picture = Picture.blank(16)
    picture.pixels[...] = rgb(0.4, 0.6, 0.8)
    day.shine(picture, tau)
    return picture.pixels


def test_the_light_changes_with_the_hour_and_comes_back() -> None:
    np.testing.assert_allclose(lit(Day(0.5, 1), 0), np.broadcast_to(rgb(0.4, 0.6, 0.8), (3, 16, 16)))  # noon
    np.testing.assert_array_equal(lit(Day(0.1, None), 3), lit(Day(0.7, None), 0))
    np.testing.assert_allclose(lit(Day(0.3, 1), DAY), lit(Day(0.3, 1), 0), atol=1e-5)
    np.testing.assert_allclose(lit(Day(0.3, 1), DAY / 4), lit(Day(0.55, 1), 0), atol=1e-5)
    hours = np.arange(16) / 16
    for glow in (0, 1):  # a picture tells its hour: times of day that are far from each other look different
        looks = np.stack([lit(Day(hour, glow), 0).ravel() for hour in hours])
        apart = np.abs(looks[:, None] - looks).mean(-1)
        away = np.abs((hours[:, None] - hours + 0.5) % 1 - 0.5)
        assert apart[away > 0.12].min() > 0.02


def test_without_motion_only_the_light_changes() -> None:
    moving, still = (clip(3, scene="boat", fps=7, motion_bucket_id=127, moving=m).frames for m in (True, False))
    np.testing.assert_array_equal(moving[0], still[0])
    assert np.abs(np.diff(still.astype(int), axis=0)).max() > 3
    rocket = clip(3, scene="rocket", moving=False).frames
    np.testing.assert_array_equal(rocket, np.repeat(rocket[:1], 8, 0))


def test_balls_bounce_in_closed_form() -> None:
    height = 0.4
    fall = sqrt(2 * height / GRAVITY)
    assert altitude(height, 0) == height
    assert altitude(height, 1) == pytest.approx(height - GRAVITY / 2)
    assert altitude(height, fall) == pytest.approx(0, abs=1e-9)
    assert altitude(height, fall * (1 + RESTITUTION)) == pytest.approx(height * RESTITUTION**2)
    assert altitude(height, fall * (1 + 2 * RESTITUTION + RESTITUTION**2)) == pytest.approx(height * RESTITUTION**4)
    path = np.array([altitude(height, tau) for tau in np.arange(0, 60, 0.01)])
    assert path.min() >= 0
    assert path[-1] == 0
    assert np.abs(np.diff(path)).max() <= GRAVITY * fall * 0.01 + 1e-9


def test_conditions_are_drawn_over_their_ranges() -> None:
    made = [clip(seed, size=16, frames=1) for seed in range(200)]
    assert {one.scene for one in made} == set(SCENES)
    rates, buckets = np.array([one.fps for one in made]), np.array([one.motion_bucket_id for one in made])
    assert rates.min() >= 4
    assert rates.max() <= 15
    assert 0.4 < (rates == 7).mean() < 0.75
    assert buckets.min() >= 16
    assert buckets.max() <= 255
    pixels = SPEED * 96 * buckets / 127 * 7 / rates
    assert ((pixels > 0.5) & (pixels < 8)).mean() > 0.9


def test_shapes_cover_their_area() -> None:
    at = Picture.blank(64)
    for distance, area in (
        (circle(at, 0.5, 0.4, 0.2), np.pi * 0.04),
        (ellipse(at, 0.5, 0.4, 0.3, 0.1), np.pi * 0.03),
        (box(at, 0.1, 0.2, 0.6, 0.5), 0.15),
        (box(at, 0.1, 0.2, 0.6, 0.5, 0.1), 0.15 - (4 - np.pi) * 0.01),
        (segment(at, 0.2, 0.3, 0.6, 0.6, 0.1), 0.5 * 0.2 + np.pi * 0.01),
        (convex(at, (0.1, 0.1), (0.9, 0.1), (0.1, 0.9)), 0.32),
        (convex(at, (0.1, 0.9), (0.9, 0.1), (0.1, 0.1)), 0.32),
    ):
        picture = Picture.blank(64)
        picture.fill(distance, rgb(1, 0.5, 0))
        np.testing.assert_allclose(picture.pixels.mean((1, 2)), [area, area / 2, 0], rtol=0.01)
        assert picture.pixels.dtype == np.float32


def test_a_window_paints_what_the_whole_picture_would() -> None:
    whole, part = Picture.blank(64), Picture.blank(64)
    whole.fill(circle(whole, 0.95, 0.3, 0.2), rgb(1, 1, 1))
    window = part.at(0.95, 0.3, reach=0.22, scale=0.5, angle=0.7)
    window.fill(circle(window, 0, 0, 0.4), rgb(1, 1, 1))
    assert window.pixels.shape[1] < 32
    np.testing.assert_allclose(part.pixels, whole.pixels, atol=1e-4)
    assert part.at(1.5, 0.3, reach=0.1).empty


def test_noise_is_periodic_smooth_and_normalised() -> None:
    noise = Noise.drawn(np.random.default_rng(0), cells=16, octaves=3, channels=3, period=2.0)
    x = np.linspace(0, 2, 257, dtype=np.float32)
    values = noise(x, x)
    assert values.shape == (3, 257, 257)
    np.testing.assert_allclose(values[:, :, 0], values[:, :, -1], atol=1e-4)
    np.testing.assert_allclose(noise(x[:5] - 2, x), values[:, :, :5], atol=1e-4)
    assert values.std() == pytest.approx(1, abs=0.15)
    assert np.abs(np.diff(values, axis=2)).max() < 1


def test_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training.world.__main__ import main

    sheet = tmp_path / "sheet.png"
    monkeypatch.setattr("sys.argv", ["world", str(sheet), "--scene", "boat", "--rows", "2", "--frames", "3"])
    main()
    with Image.open(sheet) as image:
        pixels = np.asarray(image)
    frames = clip(1, scene="boat", frames=3, fps=7, motion_bucket_id=127).frames
    assert pixels.shape == (2 * 96, 3 * 96, 3)
    np.testing.assert_array_equal(pixels[96:, 96:192], frames[1])

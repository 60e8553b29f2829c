"""Training: its objective, that it resumes to the same weights, and what it writes."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attrs import evolve
from click.testing import CliRunner
from PIL import Image

import training.__main__
from svdkit import StableVideoDiffusionPipeline, preprocess
from svdkit.checkpoint import load_component
from svdkit.config import UNetConfig, from_dict, read_json
from svdkit.hub import resolve_model
from svdkit.precondition import scalings
from svdkit.video import write_video
from svdkit_torch.backend import TorchBackend
from training import data, denoiser
from training.__main__ import main
from training.data import AUGMENTATION, PICTURES, Clips, clip_pixels, encode_clips, modes, noisy, pixels_of
from training.denoiser import SIGMA, denoiser_loss
from training.evaluate import PLANE_SCENE, Evaluation, displacement, psnr
from training.loop import Loop
from training.muon import Muon
from training.networks import copying, read_weights, trained_network
from training.run import Run
from training.settings import SMALL, Settings
from training.videos import VideoFolder
from training.world import Clip, clip
from training.world.rocket import SPEED

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run of the small setting."""
    folder = tmp_path_factory.mktemp("trained")
    result = CliRunner().invoke(main, ["train", str(folder), "--settings", "small"], catch_exceptions=False)
    assert result.exit_code == 0
    return folder


def test_what_was_trained_is_a_checkpoint(trained: Path) -> None:
    pipe = StableVideoDiffusionPipeline.from_pretrained(trained / "model", backend="torch")
    pipe.set_progress_bar_config(disable=True)
    frames = pipe(Image.fromarray(clip(0).frames[0]), height=64, width=64, num_inference_steps=1)[0]
    assert len(frames) == SMALL.frames
    assert frames[0].size == (64, 64)
    size = sum(path.stat().st_size for path in (trained / "model").rglob("*.safetensors"))
    assert size < 25e6
    for name, steps in ("vae", SMALL.vae_steps), ("unet", SMALL.unet_steps):
        assert (trained / f"{name}.png").stat().st_size > 1000
        assert len((trained / f"{name}.csv").read_text().splitlines()) == steps


def test_every_weight_is_trained(trained: Path) -> None:
    Run(trained / "again", SMALL).begin()
    for name in ("vae", "unet", "image_encoder"):
        before, after = read_weights(trained / "again" / "checkpoint", name), read_weights(trained / "checkpoint", name)
        still = [key for key in before if (before[key] == after[key]).all()]
        # Queries and keys of a single context token, what enters as a constant, and the reference decoder's attention,
        # which a single residual block in the middle leaves out.
        idle = "attn2.to_q", "attn2.to_k", "blocks.0.norm2", "embedding", "decoder.mid_block.attentions"
        assert [key for key in still if not any(part in key for part in idle)] == []


def killed_again_and_again(command: list[str], state: list[Path], longest: float) -> int:
    """Run a command until it ends by itself, killing it a random time after it first wrote one of its states.

    Returns:
        how often it was killed.
    """

    def written() -> list[float]:
        return [path.stat().st_mtime if path.exists() else 0 for path in state]

    rng = random.Random(0)
    for kills in range(60):
        before, process = written(), subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        while process.poll() is None and written() == before:
            time.sleep(0.01)
        try:
            process.wait(rng.uniform(0, longest) + kills / 10)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            continue
        assert process.returncode == 0
        return kills
    raise AssertionError("it never ended")


def test_a_killed_loop_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.safetensors", tmp_path / "killed.safetensors"
    subprocess.run([sys.executable, "-c", _LOOP, str(whole)], cwd=ROOT, stderr=subprocess.DEVNULL, check=True)
    assert killed_again_and_again([sys.executable, "-c", _LOOP, str(killed)], [killed], 1) > 0
    _assert_same(whole, killed)
    assert whole.with_suffix(".csv").read_text() == killed.with_suffix(".csv").read_text()


_LOOP = """
import sys, time
from pathlib import Path
import numpy as np, torch
from training.loop import Loop

rng = np.random.default_rng(0)
weights = {name: rng.standard_normal((30, 30)).astype("f") for name in "abc"}
loop = Loop(Path(sys.argv[1]), weights, steps=80, rate=1e-2, average=0.9, every=0)

def loss(step):
    time.sleep(0.02)
    x = torch.randn(8, 30, generator=torch.Generator().manual_seed(step))
    for w in loop.weights.values():
        x = torch.tanh(x @ w)
    return x.square().mean()

loop.run(loss, "test")
"""


@pytest.mark.slow
def test_killed_training_goes_on_to_the_same_weights(trained: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _OFTEN_WRITTEN, "train", str(tmp_path), "--settings", "small"]
    states = [tmp_path / "vae.safetensors", tmp_path / "unet.safetensors"]
    assert killed_again_and_again(command, states, 4) > 0
    for name in ("vae", "unet"):
        _assert_same(trained / f"{name}.safetensors", tmp_path / f"{name}.safetensors")
        assert (trained / f"{name}.csv").read_text() == (tmp_path / f"{name}.csv").read_text()
    for path in (trained / "model").rglob("*.safetensors"):
        _assert_same(path, tmp_path / path.relative_to(trained))


_OFTEN_WRITTEN = """
import training.loop, training.__main__
training.loop.Loop.__init__.__kwdefaults__["every"] = 0
training.__main__.main()
"""


def _assert_same(a: Path, b: Path) -> None:
    from safetensors.numpy import load_file

    one, other = load_file(a), load_file(b)
    assert one.keys() == other.keys()
    assert [key for key in one if not np.array_equal(one[key], other[key])] == []


def test_weights_and_average_are_those_of_the_last_step(tmp_path: Path) -> None:
    """On a loss that can be followed by hand: sign steps of Adam towards the minimum of |w - 3|."""

    def loop(steps: int) -> Loop:
        return Loop(tmp_path / "w.safetensors", {"a/w": np.zeros(1, "f")}, steps=steps, rate=0.1, average=0.5)

    short = loop(400)
    short.run(lambda step: (short.weights["a/w"] - 3).abs().sum(), "test")
    assert short.part("a")["w"].item() == pytest.approx(3, abs=0.01)
    again = loop(400)
    assert again.step == 400
    assert again.part("a")["w"].item() == short.part("a")["w"].item()
    assert again.part("a", averaged=True)["w"].item() == pytest.approx(3, abs=0.01)


def test_training_begins_warm_and_ends_cold(tmp_path: Path) -> None:
    """Adam's step along a gradient that stays the same is as long as the learning rate."""
    loop = Loop(tmp_path / "w.safetensors", {"a/w": np.zeros(1, "f")}, steps=600, rate=1e-3, average=0.5)
    seen: list[float] = []

    def loss(step: int) -> torch.Tensor:
        seen.append(loop.weights["a/w"].item())
        return loop.weights["a/w"].sum()

    loop.run(loss, "test")
    rates = -np.diff(seen)
    assert rates[0] < 0.02e-3
    assert rates.max() == pytest.approx(1e-3, rel=0.05)
    assert (np.diff(rates[100:]) <= 0.02e-3).all()
    assert rates[-1] < 0.01e-3


def test_muon_takes_the_steps_of_torchs() -> None:
    rng = torch.Generator().manual_seed(0)
    shapes = [(8, 8), (8, 24), (24, 8), (8, 8), (8, 24)]
    begin = [torch.randn(shape, generator=rng) for shape in shapes]
    ours, theirs = ([w.clone().requires_grad_() for w in begin] for _ in range(2))
    options: dict[str, Any] = {"lr": 1e-2, "weight_decay": 0.1}
    optimizers = Muon(ours, **options), torch.optim.Muon(theirs, adjust_lr_fn="match_rms_adamw", **options)
    for _ in range(3):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=rng)
            b.grad = a.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for a, b, w in zip(ours, theirs, begin, strict=True):
        assert (a - b).norm() < 1e-5 * (b - w).norm()


class _Recorder:
    """Stands for the UNet: gives zeros, and keeps what it was asked."""

    def __init__(self) -> None:
        self.samples: list[torch.Tensor] = []
        self.noises: list[np.ndarray] = []
        self.embeddings: list[torch.Tensor] = []
        self.ids: list[np.ndarray] = []

    def prepare(self, embeddings: torch.Tensor, ids: np.ndarray, frames: int) -> None:
        self.embeddings.append(embeddings)
        self.ids.append(ids)

    def __call__(self, sample: torch.Tensor, c_noise: np.ndarray, prepared: None) -> torch.Tensor:
        self.samples.append(sample)
        self.noises.append(c_noise)
        return torch.zeros_like(sample[:, :, :8])


@pytest.fixture(scope="module")
def recorder(trained: Path) -> tuple[_Recorder, list[float], list[float]]:
    """What the UNet is asked in many steps, and the losses for latents that are standard normal and that are 0."""
    fake, rng = _Recorder(), np.random.default_rng(0)
    encoder = {k: torch.from_numpy(v) for k, v in read_weights(trained / "checkpoint", "image_encoder").items()}
    settings = evolve(SMALL, unet_batch=40)
    losses: list[list[float]] = []
    for spread in (1, 0):
        clips = Clips(
            (spread * rng.standard_normal((4, 4, 8, 4, 4))).astype(np.float16),
            rng.standard_normal((4, PICTURES, 8, 4, 4)).astype(np.float16),
            np.arange(1, 1 + 4 * PICTURES, dtype=np.float32).reshape(4, PICTURES),
            rng.integers(0, 255, (4, 16, 16, 3), np.uint8),
            np.full(4, 7, np.float32),
            np.full(4, 100, np.float32),
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                denoiser,
                "trained_network",
                lambda f, name, *a: fake if name == "unet" else trained_network(f, name, *a),
            )
            loss = denoiser_loss(trained / "checkpoint", {}, encoder, clips, settings)
        losses.append([loss(step).item() for step in range(25)])
    return fake, losses[0], losses[1]


def test_objective_is_that_of_the_paper(recorder: tuple[_Recorder, list[float], list[float]]) -> None:
    fake, normal_losses, zero_losses = recorder
    log_sigma = np.concatenate(fake.noises) * 4
    assert log_sigma.mean() == pytest.approx(SIGMA[0], abs=0.15)
    assert log_sigma.std() == pytest.approx(SIGMA[1], abs=0.15)
    # For standard normal latents the best denoiser is c_skip x, so F = 0 leaves the least loss there is: at any
    # sigma (1 + sigma^2) / sigma^2 * sigma^2 / (1 + sigma^2) = 1.
    assert np.mean(normal_losses) == pytest.approx(1, abs=0.03)
    # For latents 0 and F = 0, D is c_skip sigma n.
    c_skip = np.array([scalings(s).c_skip for s in np.exp(log_sigma[len(log_sigma) // 2 :])])
    assert np.mean(zero_losses) == pytest.approx(c_skip.mean(), rel=0.03)
    noisy = torch.cat(fake.samples[:25])[:, :, :8]
    assert noisy.var().item() == pytest.approx(1, abs=0.02)


def test_conditioning_is_given_and_left_out(recorder: tuple[_Recorder, list[float], list[float]]) -> None:
    fake, *_ = recorder
    images, embeddings = torch.cat(fake.samples)[:, :, 8:], torch.cat(fake.embeddings)[:, 0]
    assert (images == images[:, :1]).all()  # one picture for all frames
    without = (images == 0).flatten(1).all(1)
    assert (without == (embeddings == 0).all(1)).all()
    assert without.float().mean().item() == pytest.approx(SMALL.drop, abs=0.03)
    ids = np.concatenate(fake.ids)
    assert (ids[:, :2] == [6, 100]).all()
    # Each noisy picture goes with the strength of its noise.
    pairs = {(tuple(image.flatten()[:4].tolist()), strength) for image, strength in zip(images, ids[:, 2], strict=True)}
    assert len({strength for _, strength in pairs}) == 4 * PICTURES
    assert len({image for image, _ in pairs}) == 2 * 4 * PICTURES + 1  # of two sets of clips, and zeros
    assert len(pairs) == 3 * 4 * PICTURES


def test_noise_on_the_picture_has_the_strength_that_is_told() -> None:
    first = torch.from_numpy(clip(0).frames[0])
    clean, faint, strong = first / 127.5 - 1, *noisy(first, torch.tensor([0.02, 0.3]), torch.Generator())
    assert (faint - clean).std() == pytest.approx(0.02, rel=0.02)
    assert (strong - clean).std() == pytest.approx(0.3, rel=0.02)


def test_pictures_enter_the_image_encoder_as_in_a_generation() -> None:
    pictures = [clip(i, frames=1).frames[0] for i in range(3)]
    expected = [preprocess.clip_pixels(Image.fromarray(picture)) for picture in pictures]
    found = clip_pixels(torch.from_numpy(np.stack(pictures))).numpy()
    np.testing.assert_allclose(found, np.stack(expected), atol=2e-6)


def test_strengths_are_those_of_the_paper(trained: Path) -> None:
    clips = encode_clips(trained / "clips", trained / "checkpoint", clip, SMALL.clips, "cpu")
    logs = np.log(clips.strength)
    assert logs.shape == (SMALL.clips, PICTURES)
    assert abs(logs.mean() - AUGMENTATION[0]) < 3 * AUGMENTATION[1] / np.sqrt(logs.size)
    # The first picture of a clip and its second are encodings of one frame, so nearer than those of two clips.
    pictures = clips.pictures.astype(np.float32)
    same = np.square(pictures[:, 0] - pictures[:, 1]).mean()
    assert same < np.square(pictures[:-1, 0] - pictures[1:, 1]).mean() / 3


def test_finetuning_on_a_folder_of_videos(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training.__main__, "Settings", partial(Settings, samples=1))
    videos = tmp_path / "videos"
    videos.mkdir()
    for i, frames in enumerate((9, 17)):
        write_video(videos / f"{i}.mp4", list(map(Image.fromarray, clip(i, frames=frames).frames)), fps=12)
    model = trained / "model"
    options = ["--size", "64", "--steps", "2", "--rate", "1e-3"]
    command = ["finetune", str(model), str(videos), str(tmp_path / "run"), *options]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0
    assert len(VideoFolder.open(videos, 64, 8)) == 3
    for name, changes in (("unet", True), ("vae", False), ("image_encoder", True)):
        before, after = read_weights(model, name), read_weights(tmp_path / "run" / "model", name)
        assert before.keys() == after.keys()
        assert any((before[key] != after[key]).any() for key in before) == changes


def test_clips_of_a_video_are_its_frames(tmp_path: Path) -> None:
    frames = clip(3, frames=10, size=64).frames
    write_video(tmp_path / "v.mp4", list(map(Image.fromarray, frames)), fps=9)
    folder = VideoFolder.open(tmp_path, 64, 5)
    assert len(folder) == 2
    found = folder(1)
    assert found.fps == 9
    assert found.frames.shape == (5, 64, 64, 3)
    nearest = [int(np.argmax([psnr(frame[None], other[None])[0] for other in frames])) for frame in found.frames]
    assert nearest == [5, 6, 7, 8, 9]


def test_a_folder_without_videos_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["finetune", "tiny-random", str(tmp_path), str(tmp_path / "run")])
    assert "There is no video of" in str(result.exception)


def test_displacement_is_measured_in_pixels() -> None:
    # Found too low by 1 to 10 %; where less than a pixel is moved, by up to 27 %.
    for seed in range(4):
        for bucket, fps, off in ((32, 7, 0.3), (64, 7, 0.12), (127, 7, 0.12), (255, 7, 0.12), (127, 4, 0.12)):
            frames = clip(seed, scene=PLANE_SCENE, motion_bucket_id=bucket, fps=fps, frames=4).frames
            expected = SPEED * 96 * bucket / 127 * 7 / fps
            assert (1 - off) * expected < displacement(frames) < 1.02 * expected
    assert displacement(np.repeat(frames[:1], 4, 0)) == 0


def test_psnr() -> None:
    black = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(black, black).tolist() == [99, 99]
    assert psnr(black, black + 255).tolist() == [0, 0]


def test_evaluation_writes_figures_and_a_page(trained: Path, tmp_path: Path) -> None:
    command = ["evaluate", str(trained / "model"), str(tmp_path), "--clips", "1", "--size", "64", "--steps", "1"]
    result = CliRunner().invoke(main, command, catch_exceptions=False)
    assert result.exit_code == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["autoencoder_psnr"] > 0
    assert figures["gain_of_light"] > 2  # of a boat in the evening
    assert list(figures["displacement_by_motion_bucket_id"]) == ["32", "64", "127", "180", "255"]
    assert (tmp_path / "index.html").read_text().count("<img") == 3
    assert Image.open(tmp_path / "examples.png").size == (8 * 64, 3 * 64)


def test_clips_are_kept_as_they_were_encoded(trained: Path) -> None:
    """Beside each other and channel by channel: the networks' own order in memory is another."""
    kept = encode_clips(trained / "clips", trained / "checkpoint", _unused, SMALL.clips, "cpu")
    vae = load_component("vae", trained / "checkpoint", TorchBackend("cpu", "float32"))
    for i in (0, SMALL.clips - 1):
        frames = clip(i, size=SMALL.size).frames
        latents = [modes(vae, pixels_of(torch.from_numpy(frame[None])))[0] for frame in frames]
        expected = torch.stack(latents).numpy() * vae.config.scaling_factor
        np.testing.assert_allclose(kept.latents[i], expected, atol=4e-3)
        np.testing.assert_array_equal(kept.first[i], frames[0])
        nearest = np.abs(kept.pictures[i].astype(np.float32) * vae.config.scaling_factor - expected[0]).mean()
        assert nearest < np.abs(expected).mean()


def test_clips_drawn_by_several_processes_are_in_order(trained: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "SHARD", 3)
        patch.setattr(data, "FEW", 2)
        drawn = partial(clip, size=SMALL.size)
        many = encode_clips(tmp_path, trained / "checkpoint", drawn, SMALL.clips, "cpu")
    assert len(list(tmp_path.iterdir())) == 3
    for i in range(SMALL.clips):
        np.testing.assert_array_equal(many.first[i], clip(i, size=SMALL.size).frames[0])


def _unused(index: int) -> Clip:
    raise AssertionError("all clips are encoded")


@pytest.mark.parametrize("sigma", [20.0, 700.0])
def test_a_new_denoiser_gives_the_picture_back(tmp_path: Path, sigma: float) -> None:
    run = Run(tmp_path, SMALL)
    run.begin()
    config = from_dict(UNetConfig, read_json(run.checkpoint / "unet" / "config.json"))
    scaling_factor, frames = 0.3, 4
    weights = copying(read_weights(run.checkpoint, "unet"), config, scaling_factor)
    tensors = {key: torch.from_numpy(value) for key, value in weights.items()}
    unet = trained_network(run.checkpoint, "unet", TorchBackend("cpu", "float32"), tensors)
    # Smooth, of unit variance and with a mean that is not 0: what a group norm would take away.
    rng = np.random.default_rng(0)
    picture = 0.4 + 0.9 * np.kron(rng.standard_normal((1, 8, 4, 4)), np.ones((4, 4)))
    x = picture[:, None] + sigma * rng.standard_normal((1, frames, 8, 16, 16))
    images = np.repeat(picture[:, None] / scaling_factor, frames, 1)
    s = scalings(sigma)
    sample = torch.from_numpy(np.concatenate([s.c_in * x, images], 2)).float()
    with torch.no_grad():
        prepared = unet.prepare(torch.zeros(1, 1, config.cross_attention_dim[0]), [[6, 127, 0.02]], frames)
        denoised = s.c_skip * x + s.c_out * unet(sample, s.c_noise, prepared).numpy()
    assert np.square(denoised - picture[:, None]).mean() < 0.05


def test_training_on_with_a_trained_autoencoder(tmp_path: Path) -> None:
    run = Run(tmp_path, SMALL)
    run.begin(autoencoder=resolve_model("tiny"))
    pipe = StableVideoDiffusionPipeline.from_pretrained(run.checkpoint, backend="torch")
    evaluation = Evaluation(pipe, 96)
    assert evaluation.reconstruction(4).mean() > 26

"""What only the torch backend has: devices, packed weights, gradients, its compiler."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from svdkit.arch.unet import UNet
from svdkit.backend import Device, Host
from svdkit.checkpoint import load_component
from svdkit.config import UNetConfig, from_dict
from svdkit.errors import InputError, MissingDependencyError
from svdkit.params import build
from svdkit.testing.inputs import relative_error
from svdkit.weights import Weights
from svdkit_loops import elementwise, product
from svdkit_loops.numbers import HAS_PAIRS
from svdkit_torch import backend as torch_backend
from svdkit_torch import devices, packed
from svdkit_torch.backend import TorchBackend

ROUNDING = 3e-6
"""As for the kernels of every backend; see svdkit.testing."""


def normal(*shape: int, seed: int = 0) -> Host:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


# Devices and dtypes


@pytest.mark.parametrize(("there", "expected"), [((), "cpu"), (("mps",), "mps"), (("cuda", "npu"), "cuda")])
def test_the_default_device_is_the_first_accelerator(
    there: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_count", lambda kind: int(kind in there))
    monkeypatch.setattr(torch, "device", lambda name: name)  # torch knows no npu before torch_npu is imported
    assert devices.find_device(None) == expected


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "cuda:", "cuda:²", "cpu:", "", "CPU"])
def test_unknown_devices(device: str) -> None:
    with pytest.raises(InputError, match="has no device"):
        TorchBackend(device)


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", lambda kind: 2)
    with pytest.raises(InputError, match=r"finds 2 cuda devices here, so there is no 'cuda:2'"):
        TorchBackend("cuda:2")
    monkeypatch.setattr(devices, "_count", lambda kind: 0)
    with pytest.raises(InputError, match=r"finds no mps devices here"):
        TorchBackend("mps")


def test_ascend_without_torch_npu() -> None:
    with pytest.raises(MissingDependencyError, match="pip install torch-npu"):
        TorchBackend("npu:0")


@pytest.mark.parametrize(
    ("device", "capability", "expected"),
    [
        ("cpu", None, "float32"),
        ("mps", None, "float16"),
        ("cuda", (8, 0), "bfloat16"),
        ("cuda:1", (9, 0), "bfloat16"),
        ("cuda", (7, 5), "float16"),
    ],
)
def test_default_dtypes(device: str, capability: Any, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert devices.default_dtype(torch.device(device)) == expected


def test_apple_gpus_have_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_count", lambda kind: 1)
    with pytest.raises(InputError, match="Apple GPUs have no float64"):
        TorchBackend("mps", "float64")


def test_capabilities_by_device() -> None:
    k = TorchBackend("cpu")
    assert k.capabilities == {"compile", "gradients"}
    k._device = torch.device("cuda")
    assert k.capabilities == {"compile", "gradients", "graph_capture"}


def test_devices_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [device.name for device in TorchBackend("cpu").found_devices()] == ["cpu"]
    monkeypatch.setattr(devices, "_count", lambda kind: {"cuda": 2, "mps": 1}.get(kind, 0))
    card = SimpleNamespace(name="A Card", total_memory=16 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda i: card)
    assert list(devices.found_devices()) == [
        Device("cpu"),
        Device("cuda:0", "A Card", 16 * 10**9),
        Device("cuda:1", "A Card", 16 * 10**9),
        Device("mps", "Apple GPU"),
    ]


# Packed weights


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packed_weights_give_what_plain_ones_give(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not packed.available(getattr(torch, dtype)):
        pytest.skip("this torch packs no weights here")
    used = []
    ours = (product, "multiply"), (product, "multiply_gated")
    for module, name in ((packed, "pack_linear"), (packed, "pack_conv2d"), *ours):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, real=real, name=name: (used.append(name), real(*a))[1])

    def run() -> Host:
        k = TorchBackend("cpu", dtype)
        x = k.to_map(k.array(normal(4, 16, 7, 9)))
        x = k.conv2d(normal(24, 16, 3, 3), normal(24), 2, (0, 1))(x)
        x = k.conv2d(normal(24, 24, 3, 3), None)(x)
        x = k.temporal_conv(normal(24, 24, 3, 1, 1), normal(24))(x, 2)
        y = k.geglu(normal(2 * 20, 24), normal(2 * 20))(k.tokens(x))
        return k.numpy(k.linear(normal(8, 20), normal(8))(y))

    result = run()
    gated = ["multiply_gated"] if dtype == "float32" or HAS_PAIRS else ["pack_linear"] * 2
    assert used == ["pack_conv2d"] * 3 + gated + ["multiply" if dtype == "float32" else "pack_linear"]
    used.clear()
    monkeypatch.setattr(packed, "available", lambda _: False)
    plain = run()
    assert not used
    # In bfloat16 each of five layers rounds to 8 bits: 4e-3, and a sum that is rounded otherwise moves it.
    assert relative_error(result, plain) <= (ROUNDING if dtype == "float32" else 1e-2)


def test_weights_are_packed_once_and_for_every_size() -> None:
    k = TorchBackend("cpu")
    layer = k.conv2d(normal(8, 8, 3, 3), normal(8))
    plain = TorchBackend("cpu", "float64").conv2d(normal(8, 8, 3, 3), normal(8))
    for shape in ((1, 8, 4, 4), (5, 8, 33, 2), (2, 8, 1, 1), (1, 8, 4, 4)):
        x = normal(*shape)
        result = k.numpy(k.from_map(layer(k.to_map(k.array(x)))))
        expected = TorchBackend("cpu", "float64")
        reference = expected.from_map(plain(expected.to_map(expected.array(x))))
        assert relative_error(result, expected.numpy(reference)) <= ROUNDING


# Gradients


class Trained:
    """Weights as parameters, in the checkpoint's layout: what training hands to an architecture."""

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self.parameters = {
            key: torch.nn.Parameter(torch.tensor(weights.read(key).astype(np.float32)).to(dtype))
            for key in weights.keys()
        }

    def keys(self) -> Any:
        return self.parameters.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self.parameters[key].shape)

    def read(self, key: str) -> Any:
        return self.parameters[key]


@pytest.fixture(scope="module")
def unet_folder(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("plain") / "unet"


def trained_unet(folder: Path, k: TorchBackend, dtype: torch.dtype) -> tuple[UNet, Trained]:
    config = from_dict(UNetConfig, json.loads((folder / "config.json").read_text()))
    with Weights.open(folder, "diffusion_pytorch_model", None) as weights:
        source = Trained(weights, dtype)
    return build(lambda p: UNet(config, p), source, k, "test"), source


def call(unet: UNet, k: TorchBackend) -> torch.Tensor:
    prepared = unet.prepare(k.array(normal(1, 1, 24)), [[6, 127, 0.02]], 2)
    output = unet(k.array(normal(1, 2, 8, 8, 8)), 0.3, prepared)
    assert isinstance(output, torch.Tensor)
    return output


def test_trained_weights_compute_what_loaded_ones_do(unet_folder: Path) -> None:
    k = TorchBackend("cpu")
    loaded = call(load_component("unet", unet_folder.parent, k, choice="default"), k)
    trained = call(trained_unet(unet_folder, k, torch.float32)[0], k)
    assert not loaded.requires_grad
    assert trained.requires_grad
    assert relative_error(trained.detach(), loaded) <= 1e-5  # a network's rounding; 1e-6 measured


def test_gradients_are_those_of_finite_differences(unet_folder: Path) -> None:
    k = TorchBackend("cpu", "float64")
    unet, source = trained_unet(unet_folder, k, torch.float64)
    loss = call(unet, k).square().mean()
    loss.backward()
    without = [
        key
        for key, p in source.parameters.items()
        if p.grad is None or not p.grad.any()
        # Softmax over one key is 1 whatever the query and the key, so these matter to nothing; norms before them too.
        if not ("attn2.to_q" in key or "attn2.to_k" in key or ".norm2." in key)
    ]
    assert without == []
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        # One direction through all weights at once: a wrong gradient anywhere shows in the sum.
        trained = sorted(source.parameters.items())
        direction = {key: torch.randn(p.shape, generator=rng, dtype=p.dtype) for key, p in trained}
        along = {key: p.grad * direction[key] for key, p in trained if p.grad is not None}
        slope = sum(float(x.sum()) for x in along.values())
        step, losses = 1e-7, []
        for sign in (1, -1):
            for key, p in trained:
                p.add_(direction[key], alpha=sign * step)
            losses.append(float(call(unet, k).square().mean()))
            for key, p in trained:
                p.add_(direction[key], alpha=-sign * step)
    # Of what is summed up, since the sum may be next to nothing. 1e-7 measured.
    size = sum(float(x.square().sum()) for x in along.values()) ** 0.5
    assert slope == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=2e-6 * size)


def test_steps_of_training_in_bfloat16_lower_the_loss(unet_folder: Path) -> None:
    k = TorchBackend("cpu", "bfloat16")
    unet, source = trained_unet(unet_folder, k, torch.float32)
    optimiser = torch.optim.SGD(source.parameters.values(), lr=0.05)
    losses = []
    for _ in range(4):
        optimiser.zero_grad()
        loss = (call(unet, k) - 0.5).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(p.grad is None or p.grad.dtype is torch.float32 for p in source.parameters.values())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


def test_gradients_go_through_packed_weights() -> None:
    """They are frozen and opaque, and what comes before them may still be trained."""
    gradients = {}
    for dtype in ("float32", "float64"):
        k = TorchBackend("cpu", dtype)
        x = k.array(normal(4, 9, 7, 8)).requires_grad_()
        y = k.conv2d(normal(6, 8, 3, 3), normal(6), 2, (0, 1))(x)
        y = k.temporal_conv(normal(5, 6, 3, 1, 1), normal(5))(y, 2)
        y = k.geglu(normal(2 * 7, 5), normal(2 * 7))(k.tokens(y))
        y = k.linear(normal(3, 7), normal(3))(y)
        y.square().sum().backward()
        gradients[dtype] = k.numpy(x.grad)
    assert relative_error(gradients["float32"], gradients["float64"]) <= ROUNDING


def test_loops_do_what_torch_need_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 attention and norms are theirs; with gradients, or in float64, torch's."""
    used: list[str] = []
    for module, name in ((torch_backend, "attend"), (torch_backend, "attend_in_time"), (elementwise, "group_norm")):
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *args, real=real, name=name: (used.append(name), real(*args))[1])

    def run(dtype: str, gradients: bool) -> list[torch.Tensor]:
        k = TorchBackend("cpu", dtype)
        x = k.array(normal(4, 6, 8)).requires_grad_(gradients)
        norm = k.group_norm(np.ones(8), np.ones(8), 2, 1e-5, True)
        return [k.attention(x, x, x, 4), k.temporal_attention(x, x, x, 4, 2), norm(x[:, None])]

    others = run("float32", True), run("float64", False)
    assert used == []
    results = run("float32", False)
    assert used == ["attend", "attend_in_time", "group_norm"]
    for expected in others:
        for x, y in zip(results, expected, strict=True):
            assert relative_error(x.numpy(), y.detach().numpy()) <= ROUNDING


# Attention where torch has no kernel that needs no scores


@pytest.mark.parametrize("frames", [None, 2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_reach_keys_and_values_of_queries_that_need_none(dtype: str, frames: int | None) -> None:
    k = TorchBackend("cpu", dtype)
    q, keys, values = (k.array(normal(4, 9, 32, seed=seed)) for seed in range(3))
    keys.requires_grad_()
    values.requires_grad_()
    y = k.attention(q, keys, values, 2) if frames is None else k.temporal_attention(q, keys, values, 2, frames)
    y.float().square().sum().backward()
    assert keys.grad.abs().max() > 1e-4
    assert values.grad.abs().max() > 1e-4


def test_derivatives_forwards_are_not_zero_in_silence() -> None:
    k = TorchBackend("cpu", "float32")
    layer = k.group_norm(np.ones(32, np.float32), np.zeros(32, np.float32), 32, 1e-5, True)
    x, along = (k.to_map(k.array(normal(2, 32, 4, 4, seed=seed))) for seed in range(2))
    with torch.autograd.forward_ad.dual_level():
        y = layer(torch.autograd.forward_ad.make_dual(x, along))
        slope = torch.autograd.forward_ad.unpack_dual(y).tangent
    measured = (layer(x + 1e-2 * along) - layer(x - 1e-2 * along)) / 2e-2
    assert relative_error(slope.numpy(), measured.numpy()) < 1e-2
    linear = k.linear(normal(32, 32), None)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="has no derivative forwards"):
        linear(torch.autograd.forward_ad.make_dual(x, along))


def test_a_tensor_that_was_changed_in_place_is_taken_as_it_is() -> None:
    k = TorchBackend("cpu", "float32")
    layer = k.linear(np.eye(8, dtype=np.float32), None)
    y = layer(k.array(normal(8, 8)))
    y.transpose_(0, 1)
    assert torch.equal(layer(y), y)
    y = layer(k.array(normal(4, 8)))
    y.unsqueeze_(0)
    assert torch.equal(layer(y), y)


def test_another_dtype_is_refused() -> None:
    layer = TorchBackend("cpu", "float32").linear(np.eye(8, dtype=np.float32), None)
    with pytest.raises(TypeError, match=r"torch\.float64 came to a backend that computes in float32"):
        layer(torch.ones(4, 8, dtype=torch.float64))


def test_frames_that_are_no_whole_videos_are_refused() -> None:
    layer = TorchBackend("cpu", "float32").temporal_conv(normal(320, 320, 3, 1, 1), normal(320))
    with pytest.raises(ValueError, match="do not fit"):
        layer(torch.zeros(5, 2, 2, 320), 2)


@pytest.mark.parametrize("elements", [1, 100, 10_000])
def test_attention_in_blocks_equals_the_whole(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    k = TorchBackend("cpu")
    q, keys, values = (k.array(normal(2, n, 12, seed=n)) for n in (30, 17, 17))
    whole = k.attention(q, keys, values, 3)
    calls = []
    real = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a: (calls.append(1), real(*a))[1])
    monkeypatch.setattr(torch_backend, "SCORE_ELEMENTS", elements)
    k._device = torch.device("mps")
    assert relative_error(k.attention(q, keys, values, 3), whole) <= ROUNDING
    assert len(calls) == {1: 30, 100: 30, 10_000: 1}[elements]


def test_scores_over_time_are_float32_in_16_bits() -> None:
    """Scores of 32 and a little have steps of 0.25 in bfloat16, which their exponentials would show as 10 %."""
    half = TorchBackend("cpu", "bfloat16")
    q, keys, values = (
        half.numpy(half.array(mean + spread * normal(4, 5, 32, seed=seed)))
        for seed, (mean, spread) in enumerate(((2, 0), (4, 0.5), (0, 1)))
    )

    def run(k: TorchBackend) -> Host:
        return k.numpy(k.temporal_attention(k.array(q), k.array(keys), k.array(values), 2, 4))

    # Rounding the result alone costs 2e-3.
    assert relative_error(run(half), run(TorchBackend("cpu", "float64"))) <= 4e-3


# Compiling


def layers(k: TorchBackend) -> Callable[..., Any]:
    linear, norm = k.linear(normal(8, 8), normal(8)), k.layer_norm(normal(8), normal(8), 1e-5)
    conv = k.conv2d(normal(8, 8, 3, 3), normal(8))
    return lambda x, rest: k.gelu(norm(linear(k.tokens(conv(x))))) + rest[0]


def test_compiled_equals_eager() -> None:
    k = TorchBackend("cpu")
    x, rest = k.array(normal(2, 4, 4, 8)), (k.array(normal(2, 16, 8)),)
    function = layers(k)
    assert relative_error(k.compile(function)(x, rest), function(x, rest)) <= ROUNDING


@pytest.fixture
def eager_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Torch's capture of Python without its code generation, which takes seconds for each size."""
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: real(f, **{**options, "mode": None}, backend="eager"))
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("eager_compiler")
def test_more_sizes_than_torch_compiles_by_itself() -> None:
    k = TorchBackend("cpu")
    function = layers(k)
    compiled = k.compile(function)
    for n in range(1, 13):
        x, rest = k.array(normal(n, 2, n, 8)), (k.array(normal(1, 1, 8)),)
        np.testing.assert_array_equal(compiled(x, rest), function(x, rest))


@pytest.mark.usefixtures("eager_compiler")
def test_what_cannot_be_captured_is_an_error() -> None:
    k = TorchBackend("cpu")
    with pytest.raises(InputError, match=r"torch cannot compile here: .* Leave `compile=False`"):
        k.compile(lambda x: x * float(np.random.default_rng().normal()) if x.sum() > 0 else x)(k.array(normal(3)))


def test_results_of_cuda_graphs_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph writes every result to the same memory, so an earlier result must not be that memory."""
    k = TorchBackend("cpu")
    k._device = torch.device("cuda")
    buffer, modes = torch.zeros(3), []
    monkeypatch.setattr(torch, "compile", lambda f, mode, **_: (modes.append(mode), lambda x: buffer.copy_(f(x)))[1])
    compiled = k.compile(lambda x: x + 1)
    first, second = compiled(torch.zeros(3)), compiled(torch.ones(3))
    assert modes == ["reduce-overhead"]
    assert (first.tolist(), second.tolist()) == ([1, 1, 1], [2, 2, 2])


def test_idle_threads_are_let_sleep_once() -> None:
    """However many backends there are; the thread that sees to it does not keep the process."""
    for _ in range(2):
        TorchBackend("cpu", "float32")
    idle = [thread for thread in threading.enumerate() if thread.name == "svdkit-idle"]
    assert [thread.daemon for thread in idle] == [True]

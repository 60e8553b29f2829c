"""`memory="auto"`, `"low"` and `"max"`: equal results, one network at a time, and what happens if memory runs out."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import svdkit
import svdkit.memory.on_demand
from svdkit import StableVideoDiffusionPipeline
from svdkit.arch.unet import UNet
from svdkit.backend import Backend
from svdkit.checkpoint import load_component
from svdkit.errors import CheckpointError, InputError, MemoryWarning, OutOfMemoryError
from svdkit.memory import Memory, host_memory
from svdkit.memory.on_demand import COMPONENTS, OnDemand, chunking
from svdkit.memory.planning import Settings, ladder, plan
from svdkit.memory.policy import MemoryPolicy
from svdkit.plugins import registry

JOB: dict[str, Any] = {
    "image": Image.new("RGB", (64, 64), "teal"),
    "height": 64,
    "width": 64,
    "num_frames": 4,
    "num_inference_steps": 2,
    "generator": 0,
    "output_type": "np",
    "return_dict": True,
}


def load(memory: str = "auto", **options: Any) -> StableVideoDiffusionPipeline:
    pipe = StableVideoDiffusionPipeline.from_pretrained("tiny-random", backend="numpy", memory=memory, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def capacity(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Sets what every process may have beside what it held before."""

    def limit(size: int) -> None:
        monkeypatch.setattr(Backend, "memory", lambda self: Memory(available=size, used=0, total=size))

    return limit


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_network_that_was_released_is_gone_without_a_search_for_cycles(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search goes through all objects of the process, half a second in a generation."""
    searched: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: searched.append(1))
    network = getattr(load("low"), name)
    gc.disable()
    try:
        assert network.backend.name == "numpy"
        network._now()
        alive = weakref.ref(network._network)
        network.release()
        assert alive() is None
    finally:
        gc.enable()
    assert searched == []


class Slotted:
    """It refers to itself, and Python cannot tell whether it is alive."""

    __slots__ = ("own",)

    def __init__(self) -> None:
        self.own = self


class Cyclic:
    """It refers to itself."""

    def __init__(self) -> None:
        self.own = self


@pytest.mark.parametrize("kind", [Cyclic, Slotted])
def test_what_refers_to_itself_is_searched_for(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[int] = []
    monkeypatch.setattr(gc, "collect", lambda: searched.append(1))
    network = OnDemand(kind)
    assert network.own is not None
    network.release()
    assert (searched, network.loaded) == ([1], False)


def test_a_network_without_pieces_has_none_to_leave() -> None:
    network = OnDemand(Cyclic)
    network.enable_forward_chunking(2)
    assert network.own is not None
    network.disable_forward_chunking()


class Plugged:
    """svdkit's own network, by a plugin."""

    def __init__(self, folder: Path, backend: Backend, variant: str | None) -> None:
        self.own = load_component(folder.name, folder.parent, backend, variant=variant, choice="default")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def __call__(self, *args: Any) -> Any:
        return self.own(*args)


class Plugin:
    """What a package with a network of its own would register, for any component."""

    @svdkit.hookimpl
    def svdkit_components(self) -> list[svdkit.ComponentSpec]:
        options: dict[str, Any] = {"target": f"{__name__}:Plugged", "summary": "for these tests", "backend": "numpy"}
        return [svdkit.ComponentSpec(name=f"plugged-{name}", component=name, **options) for name in COMPONENTS]


@pytest.fixture
def plugin() -> Iterator[None]:
    registered, manager = Plugin(), registry().manager
    manager.register(registered, "for-these-tests")
    yield
    manager.unregister(registered)


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(("name", "before"), [("image_encoder", []), ("vae", ["vae"]), ("unet", ["unet"])])
def test_a_plugins_network_is_loaded_once_more_to_ask_for_its_configuration(
    name: str, before: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    alive: list[weakref.ref[Any]] = []

    def watched(component: str, *args: Any, **options: Any) -> Any:
        network = load_component(component, *args, **options)
        loads.append(component)
        alive.append(weakref.ref(network))
        assert [ref() for ref in alive if ref() is not None] == [network]
        return network

    monkeypatch.setattr(svdkit.memory.on_demand, "load_component", watched)
    choices = dict.fromkeys(COMPONENTS, "default")
    expected = load("low", components=choices)(**JOB)
    loads.clear()
    pipe = load("low", components=choices | {name: f"plugged-{name}"})
    np.testing.assert_array_equal(pipe(**JOB).frames, expected.frames)
    assert loads == [*before, "image_encoder", "vae", "unet", "vae"]
    loads.clear()
    pipe(**JOB)
    assert loads == ["image_encoder", "vae", "unet", "vae"]


def test_low_equals_max_and_has_one_network_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []
    most = []
    original = svdkit.memory.on_demand.load_component

    def watched(*args: Any, **options: Any) -> Any:
        network = original(*args, **options)
        alive.append(weakref.ref(network))
        most.append(sum(ref() is not None for ref in alive))
        return network

    expected = load("max")(**JOB, decode_chunk_size=1)
    monkeypatch.setattr(svdkit.memory.on_demand, "load_component", watched)
    pipe = load("low")
    assert not alive, "nothing is loaded before it is needed"
    found = pipe(**JOB)
    assert most == [1, 1, 1, 1]  # image encoder, VAE, UNet, VAE
    assert not any(ref() for ref in alive), "the last is released too"
    # Rows of a product are summed alike in pieces and whole but for the last digits of float32.
    np.testing.assert_allclose(found.frames, expected.frames, atol=1e-5)
    assert (found.decode_chunk_size, found.memory) == (1, "low")
    assert expected.memory == "max"
    np.testing.assert_array_equal(pipe(**JOB).frames, found.frames)


def test_one_call_has_one_network_at_a_time_and_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load("max")(**JOB)
    chunked = []
    monkeypatch.setattr(UNet, "enable_forward_chunking", lambda *_: chunked.append(True))
    pipe = load(once=True)
    assert not any(network.loaded for network in (pipe.image_encoder, pipe.vae, pipe.unet))
    found = pipe(**JOB)
    assert not any(network.loaded for network in (pipe.image_encoder, pipe.vae, pipe.unet))
    assert (found.memory, found.decode_chunk_size) == ("low", 4)
    assert not chunked
    np.testing.assert_array_equal(found.frames, expected.frames)
    assert not isinstance(load("max", once=True).unet, OnDemand)


def test_max_cuts_nothing() -> None:
    assert load("max")(**JOB).decode_chunk_size == 4
    assert load("max")(**JOB, decode_chunk_size=3).decode_chunk_size == 3


def test_auto_is_max_where_that_fits(recwarn: pytest.WarningsRecorder) -> None:
    video = load()(**JOB)
    assert (video.memory, video.decode_chunk_size) == ("max", 4)
    assert not [w for w in recwarn if issubclass(w.category, MemoryWarning)]


def test_auto_cuts_the_decode_and_says_so(capacity: Callable[[int], None]) -> None:
    needed = {chunk: needs(memory="max", decode_chunk_size=chunk) for chunk in (1, 2, 4)}
    capacity(int(1.2 * needed[2]))
    with pytest.warns(MemoryWarning, match=r"decoded 2 at a time.*decode_chunk_size=2"):
        video = load()(**JOB)
    assert (video.memory, video.decode_chunk_size) == ("max", 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MemoryWarning)
        assert load()(**JOB, decode_chunk_size=2).decode_chunk_size == 2
    np.testing.assert_array_equal(video.frames, load("max")(**JOB, decode_chunk_size=2).frames)


def test_auto_takes_the_lowest_where_nothing_fits(capacity: Callable[[int], None]) -> None:
    capacity(10**6)
    pipe = load()
    with pytest.warns(MemoryWarning, match=r"may run out of memory: .* are needed and 1.0 MB are available"):
        video = pipe(**JOB)
    assert (video.memory, video.decode_chunk_size) == ("low", 1)


def test_pieces_last_as_long_as_the_need_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, chosen = load(), iter([1, None, None, 1, None])
    monkeypatch.setattr(MemoryPolicy, "settings", lambda *_, **__: Settings(False, next(chosen), 4))
    pipe(**JOB)
    assert pipe.unet._chunking.size == 1
    pipe(**JOB)
    assert pipe.unet._chunking.size is None
    pipe.unet.enable_forward_chunking(2)
    for _ in range(3):
        pipe(**JOB)
        assert pipe.unet._chunking.size == 2, "what the caller has set is left"


def test_pieces_that_the_caller_has_set_outlast_the_network(capacity: Callable[[int], None]) -> None:
    pipe = load()
    pipe.unet.enable_forward_chunking(2, dim=1)
    capacity(10**6)
    with pytest.warns(MemoryWarning):
        assert pipe(**JOB).memory == "low"
    assert isinstance(pipe.unet, OnDemand)
    assert chunking(pipe.unet._now()) == (2, 1)
    capacity(10**12)
    pipe(**JOB)
    assert chunking(pipe.unet._now()) == (2, 1)


class Mine:
    """A network of the caller's, around one of the pipeline's."""

    def __init__(self, network: Any) -> None:
        self.network = network

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def __call__(self, *args: Any) -> Any:
        return self.network(*args)


@pytest.mark.parametrize("name", COMPONENTS)
def test_networks_of_the_callers_stay(name: str, capacity: Callable[[int], None]) -> None:
    pipe = load()
    setattr(pipe, name, Mine(getattr(pipe, name)))
    networks = pipe.image_encoder, pipe.vae, pipe.unet
    capacity(10**6)
    with pytest.warns(MemoryWarning, match="may run out of memory"):
        video = pipe(**JOB)
    assert (video.memory, video.decode_chunk_size) == ("max", 1)
    assert (pipe.image_encoder, pipe.vae, pipe.unet) == networks


def test_networks_beside_one_of_the_callers_are_still_released() -> None:
    pipe = load(once=True)
    pipe.unet = mine = Mine(pipe.unet)
    assert pipe(**JOB).memory == "low"
    assert pipe.unet is mine
    assert (pipe.image_encoder.loaded, pipe.vae.loaded) == (False, False)


def test_an_explicit_chunk_wins_where_nothing_fits(capacity: Callable[[int], None]) -> None:
    capacity(10**6)
    with pytest.warns(MemoryWarning):
        assert load()(**JOB, decode_chunk_size=3).decode_chunk_size == 3


def needs(**options: Any) -> int:
    found = plan("tiny-random", height=64, width=64, num_frames=4, backend="numpy", **options)
    return found.needed - found.base


def limited(pipe: StableVideoDiffusionPipeline, most: int) -> list[int]:
    """Lets decoding run out of memory with more frames than `most`; returns what was tried."""
    decode, tried = pipe.vae.decode, []

    def limited_decode(latents: Any) -> Any:
        tried.append(latents.shape[0])
        if latents.shape[0] > most:
            raise MemoryError("Unable to allocate 3 GiB")
        return decode(latents)

    pipe.vae.decode = limited_decode  # type: ignore[method-assign]
    return tried


def test_a_decode_that_runs_out_is_tried_with_half_the_chunk() -> None:
    pipe = load()
    tried = limited(pipe, 1)
    with pytest.warns(MemoryWarning) as warned:
        video = pipe(**JOB)
    assert tried == [4, 2, 1, 1, 1, 1]
    assert [f"decode_chunk_size={n}" in str(w.message) for n, w in zip((2, 1), warned, strict=True)] == [True, True]
    assert video.decode_chunk_size == 1
    np.testing.assert_array_equal(video.frames, load("max")(**JOB, decode_chunk_size=1).frames)


@pytest.mark.parametrize(("memory", "options"), [("max", {}), ("auto", {"decode_chunk_size": 4})])
def test_what_was_asked_for_is_not_cut(memory: str, options: dict[str, Any]) -> None:
    pipe = load(memory)
    limited(pipe, 2)
    with pytest.raises(OutOfMemoryError, match=r"'decode' .*Unable to allocate.*decode_chunk_size=2, then memory"):
        pipe(**JOB, **options)


def test_a_single_frame_that_runs_out_is_an_error() -> None:
    pipe = load()
    limited(pipe, 0)
    with pytest.warns(MemoryWarning), pytest.raises(OutOfMemoryError, match="decode"):
        pipe(**JOB)


@pytest.mark.parametrize(("name", "stage"), [("image_encoder", "encode"), ("unet", "denoise")])
def test_the_stage_is_told(monkeypatch: pytest.MonkeyPatch, name: str, stage: str) -> None:
    pipe = load("max")

    def fail(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(type(getattr(pipe, name)), "__call__", fail)
    with pytest.raises(OutOfMemoryError, match=f"numpy on cpu ran out in the stage '{stage}'") as caught:
        pipe(**JOB)
    assert isinstance(caught.value, MemoryError)


def test_other_errors_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = load("max")

    def fail(*_: Any) -> Any:
        raise RuntimeError("not about memory")

    monkeypatch.setattr(type(pipe.unet), "__call__", fail)
    with pytest.raises(RuntimeError, match="not about memory"):
        pipe(**JOB)


def test_modes_that_do_not_go() -> None:
    with pytest.raises(InputError, match='"auto", "low" or "max"'):
        load("tiny")
    with pytest.raises(InputError, match="compile"):
        load("low", compile=True)


def test_low_checks_the_files_at_once(tmp_path: Path) -> None:
    load("max").save_pretrained(tmp_path)
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match="vae"):
        StableVideoDiffusionPipeline.from_pretrained(tmp_path, backend="numpy", memory="low")


def test_the_ladder_begins_with_what_changes_no_result() -> None:
    steps = [(s.on_demand, s.forward_chunk, s.decode_chunk) for s in ladder(5, None, movable=True)]
    whole = [(False, None, 5), (False, 1, 5), (True, 1, 5)]
    cut = [(moved, 1, chunk) for moved in (False, True) for chunk in (3, 2, 1)]
    assert steps == whole + cut
    assert all(s.decode_chunk == 4 for s in ladder(5, 4, movable=True))
    apart = [(s.on_demand, s.forward_chunk, s.decode_chunk) for s in ladder(5, 3, movable=True, loaded=False)]
    assert apart == [(True, None, 3), (True, 1, 3)]
    assert not any(s.on_demand for s in ladder(5, None, movable=False))


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert host_memory(tmp_path).total == 1000000
    assert host_memory(tmp_path).available == 600000
    (tmp_path / "memory.stat").write_text("anon 1\nfile 300000\ninactive_file 250000\nactive_file 50000\n")
    assert host_memory(tmp_path).available == 850000, "files that were read can be let go"
    (tmp_path / "memory.stat").write_text("anon 1\n")
    assert host_memory(tmp_path).available == 600000
    (tmp_path / "memory.max").write_text("max\n")
    assert host_memory(tmp_path).total > 1000000


def test_a_containers_limit_of_version_1_counts(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("1000000\n")
    (tmp_path / "memory" / "memory.usage_in_bytes").write_text("400000\n")
    assert host_memory(tmp_path).available == 600000
    (tmp_path / "memory" / "memory.stat").write_text("inactive_file 7\ntotal_inactive_file 250000\n")
    assert (host_memory(tmp_path).total, host_memory(tmp_path).available) == (1000000, 850000)

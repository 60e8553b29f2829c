"""The graphs that are written: valid, of the shapes that formulas say, weights beside them, one for each shape."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from svdkit_onnx import backend as onnx_backend
from svdkit_onnx.backend import OnnxBackend, leaves
from svdkit_onnx.formula import Formula, constant
from svdkit_onnx.graph import LARGE, Session, evaluate, model_of, parts_of
from svdkit_onnx.unet import OnnxUNet

from svdkit.backend import Backend
from svdkit.checkpoint import load_component
from svdkit.errors import InputError
from svdkit.testing.inputs import backend_of, relative_error
from svdkit.testing.networks import checkpoint

IDS = [[6, 127, 0.02]]
HOST = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


@pytest.fixture
def numpy_backend() -> Backend:
    """In float32."""
    return backend_of("numpy")


@pytest.fixture
def unet(numpy_backend: Backend) -> OnnxUNet:
    """Of a small checkpoint."""
    return OnnxUNet(checkpoint() / "unet", numpy_backend)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Formula], list[Formula]]]:
    """Inputs and outputs of every session that is made to be kept."""
    made = []

    class Noted(Session):
        def __init__(self, inputs: Any, outputs: Any) -> None:
            super().__init__(inputs, outputs)
            made.append((list(inputs), list(outputs)))

    monkeypatch.setattr(onnx_backend, "Session", Noted)
    return made


def call(unet: Any, *size: int, c_noise: float = 0.3, videos: int = 1, context: int = 1) -> Any:
    """One evaluation, on the same numbers for the same shapes."""
    rng = np.random.default_rng(0)
    prepared = unet.prepare(rng.standard_normal((videos, context, 24), np.float32), IDS * videos, 3)
    return unet(rng.standard_normal((videos, 3, 8, *size), np.float32), c_noise, prepared)


# Formulas


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + x * 2,
        lambda x: 1 - x / 4 - (3 / (x + 1)) * (2 + 2 * x),
        lambda x: x[1],
        lambda x: x[-1, 1:],
        lambda x: x[:, 0],
        lambda x: x[..., 2],
        lambda x: x[0, ..., 1:3],
        lambda x: x[:, -2:, ::2],
        lambda x: x[1, 2, 3],
        lambda x: x.reshape(6, -1).reshape(-1),
        lambda x: x.reshape((4, 6)) + 0,
        lambda x: x.transpose(2, 0, 1),
    ],
)
def test_a_formula_behaves_as_an_array(function: Callable[[Any], Any]) -> None:
    """Operators, indices and shapes, which are known before anything is computed."""
    formula = function(constant(HOST))
    (result,) = evaluate([formula])
    assert result.shape == formula.shape
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, function(HOST), rtol=1e-6)


def test_a_formula_beside_an_array() -> None:
    """It takes an array on the left as a constant, and ends where it is iterated over."""
    (result,) = evaluate([HOST - constant(HOST) / 2])
    np.testing.assert_array_equal(result, HOST / 2)
    assert len(list(constant(HOST))) == 2


# Models


def model(unet: OnnxUNet, sessions: list[Any], *size: int) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """What is written for a size."""
    call(unet, *size)
    return model_of(*sessions[-1])


def test_the_model_is_valid(unet: OnnxUNet, sessions: list[Any]) -> None:
    """By ONNX's checker, which looks for no file where the weights are put in."""
    proto, large = model(unet, sessions, 6, 8)
    for tensor in proto.graph.initializer:
        if tensor.name in large:
            tensor.CopyFrom(onnx.numpy_helper.from_array(large[tensor.name], tensor.name))
    onnx.checker.check_model(proto, full_check=True)
    assert [x.name for x in proto.graph.input][:2] == ["x0", "x1"]  # the sample and the noise level
    assert [y.name for y in proto.graph.output] == ["y0"]


def test_every_formula_has_the_shape_that_it_says(unet: OnnxUNet, sessions: list[Any]) -> None:
    """All of them, computed."""
    call(unet, 5, 7)
    inputs, outputs = sessions[-1]
    parts = [part for part in parts_of(outputs) if part.op]
    assert len(parts) > 200
    values = Session(inputs, parts, once=True).run(*(np.ones(x.shape, np.float32) for x in inputs))
    assert [value.shape for value in values] == [part.shape for part in parts]


def test_weights_stay_beside_the_model(unet: OnnxUNet, sessions: list[Any]) -> None:
    """A model is one message of 2 GB at most; its weights may be more, and two shapes share them."""
    proto, large = model(unet, sessions, 6, 8)
    _, other = model(unet, sessions, 8, 6)
    inside = [tensor for tensor in proto.graph.initializer if tensor.name not in large]
    assert max(len(tensor.SerializeToString()) for tensor in inside) < LARGE + 100
    assert sum(values.nbytes for values in large.values()) > 4 * proto.ByteSize()
    assert {id(values) for values in large.values()} == {id(values) for values in other.values()}


def test_conditioning_is_no_part_of_the_step(unet: OnnxUNet, sessions: list[Any]) -> None:
    """Its layers are run once, in `prepare`, and what comes of them are numbers."""
    prepared = unet.prepare(np.ones((1, 1, 24), np.float32), IDS, 3)
    assert all(leaf.values is not None for leaf in leaves(prepared))
    assert sessions == []
    call(unet, 6, 8)
    inputs, outputs = sessions[-1]
    assert len(inputs) == 2 + len(list(leaves(prepared)))
    # Nothing in the step takes what the added ids, or the context, are multiplied by.
    widths = {part.operands[0].shape[-1] for part in parts_of(outputs) if part.op == "MatMul"}
    assert not widths & {24, 48}


# Sessions


def test_one_session_for_each_shape(unet: OnnxUNet, sessions: list[Any]) -> None:
    """Noise levels are numbers; only shapes make another graph, and few are kept."""
    first = call(unet, 6, 8)
    call(unet, 6, 8, c_noise=1.0)
    assert len(sessions) == 1
    call(unet, 8, 6)
    np.testing.assert_array_equal(call(unet, 6, 8), first)
    assert len(sessions) == 2
    call(unet, 5, 7)  # for which the first is given up
    np.testing.assert_array_equal(call(unet, 6, 8), first)
    assert len(sessions) == 4


def test_several_context_tokens(unet: OnnxUNet, numpy_backend: Backend) -> None:
    """Then keys and values are prepared, where one token leaves one row."""
    own = load_component("unet", checkpoint(), numpy_backend, choice="default")
    for context in (1, 3):
        assert relative_error(call(unet, 6, 8, context=context), call(own, 6, 8, context=context)) < 1e-5


def test_chunked_feed_forward(unet: OnnxUNet, sessions: list[Any]) -> None:
    """The network exports itself again when its pieces change, along frames or positions."""
    whole = call(unet, 6, 8, videos=2)
    for dim in (0, 1):
        unet.enable_forward_chunking(4, dim)
        assert relative_error(call(unet, 6, 8, videos=2), whole) < 1e-6
    assert len({len(parts_of(outputs)) for _, outputs in sessions}) == 3  # in other graphs
    unet.disable_forward_chunking()
    np.testing.assert_array_equal(call(unet, 6, 8, videos=2), whole)


def test_onnxruntime_runs_it_on_the_cpu(unet: OnnxUNet, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are other providers too, none is chosen that was never tried."""
    chosen = []
    real = onnxruntime.InferenceSession

    def noted(*arguments: Any, providers: list[str]) -> Any:
        chosen.append(providers)
        return real(*arguments, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    call(unet, 1, 3)
    assert chosen == [["CPUExecutionProvider"]] * 2


def test_memory_of_attention_is_linear() -> None:
    """All scores of 12,288 tokens would be 604 MB."""
    k = OnnxBackend()
    x = k.array(np.ones((1, 12288, 4), np.float32))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    np.testing.assert_allclose(k.numpy(k.attention(x, x, x, 1)), 1, rtol=1e-5)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300e3  # in kB


# What cannot be done


def test_float64_is_refused() -> None:
    """With what to do about it, before anything is read."""
    with pytest.raises(InputError, match=r"computes in float32, not in 'float64'.*'default'"):
        OnnxUNet(Path("not looked at"), backend_of("numpy", dtype="float64"))


def test_ids_that_the_configuration_does_not_take(unet: OnnxUNet) -> None:
    """The error is svdkit's own."""
    with pytest.raises(InputError, match="48 channels of added time embedding, and 2 ids"):
        unet.prepare(np.ones((1, 1, 24), np.float32), [[6, 127]], 3)

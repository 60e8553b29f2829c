"""Checkpoints: diffusers reads what svdkit writes, svdkit reads what diffusers writes, and says what does not fit."""

from __future__ import annotations

import gc
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from diffusers import StableVideoDiffusionPipeline as Reference
from reference import make_pipeline, picture

import svdkit
import svdkit.checkpoint
from svdkit.arch.unet import UNet
from svdkit.backend import Backend
from svdkit.checkpoint import CLIPWeights, load_component, save_checkpoint
from svdkit.errors import (
    CheckpointError,
    DuplicatePluginError,
    InputError,
    OutputError,
    UnknownPluginError,
    WeightsError,
)
from svdkit.pipeline import StableVideoDiffusionPipeline
from svdkit.plugins import make, registry
from svdkit.sigmas import karras
from svdkit.testing.inputs import relative_error
from svdkit.weights import STEMS, Weights, write_weights
from svdkit_numpy.backend import NumpyBackend
from svdkit_schedulers.euler import Euler

COMPONENTS = ("unet", "vae", "image_encoder")
FILES = [
    "model_index.json",
    "unet/config.json",
    "vae/config.json",
    "image_encoder/config.json",
    "scheduler/scheduler_config.json",
    "feature_extractor/preprocessor_config.json",
]


def load(folder: Path | str, **options: Any) -> StableVideoDiffusionPipeline:
    pipe = StableVideoDiffusionPipeline.from_pretrained(folder, **{"backend": "numpy", **options})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe: StableVideoDiffusionPipeline, **options: Any) -> Any:
    small = {"height": 16, "width": 24, "sigmas": (14.0,), "generator": 7, "output_type": "latent"}
    return pipe(picture(), **{**small, **options})


@pytest.fixture(scope="module")
def plain(checkpoint: Callable[[str], Path]) -> Path:
    return checkpoint("plain")


@pytest.fixture(scope="module")
def expected(plain: Path) -> Any:
    """What a checkpoint with the weights of `plain` makes."""
    return latents(load(plain))


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may spoil."""
    return Path(shutil.copytree(plain, tmp_path / "copy"))


def weights_file(folder: Path, component: str) -> Path:
    return folder / component / f"{STEMS[component]}.safetensors"


def read(folder: Path, component: str) -> dict[str, np.ndarray]:
    with Weights.open(folder / component, STEMS[component]) as weights:
        return {key: weights.read(key) for key in weights.keys()}


def rewrite(folder: Path, component: str, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    """Write a component's weights again, changed in place or replaced by what `change` returns."""
    tensors = read(folder, component)
    tensors = change(tensors) or tensors
    write_weights(weights_file(folder, component), tensors)


def configure(folder: Path, file: str, **values: Any) -> None:
    """Set values of a JSON file; None removes one."""
    path = folder / file
    settings = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


# Writing


@pytest.mark.parametrize("dtype", [None, "float16"])
def test_diffusers_reads_what_is_saved(plain: Path, tmp_path: Path, dtype: str | None) -> None:
    target = tmp_path / "new" / "saved"
    load(plain).save_pretrained(target, dtype=dtype)
    torch_dtype = getattr(torch, dtype or "float32")
    saved, original = Reference.from_pretrained(target, dtype=torch_dtype), make_pipeline("plain")
    for name in COMPONENTS:
        found, wanted = (getattr(pipe, name).state_dict() for pipe in (saved, original))
        assert found.keys() == wanted.keys()
        for key, tensor in wanted.items():
            assert torch.equal(found[key], tensor.to(torch_dtype) if tensor.is_floating_point() else tensor)
    for file in FILES:
        assert json.loads((target / file).read_text()) == json.loads((plain / file).read_text())


def test_what_is_saved_makes_the_same_video(plain: Path, expected: Any, tmp_path: Path) -> None:
    load(plain).save_pretrained(tmp_path / "saved")
    assert np.array_equal(latents(load(tmp_path / "saved")), expected)
    load(tmp_path / "saved").save_pretrained(str(tmp_path / "again"))
    assert np.array_equal(latents(load(tmp_path / "again")), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_every_float_is_converted_from_every_float(plain: Path, tmp_path: Path, dtype: str) -> None:
    between, target = tmp_path / "between", tmp_path / "target"
    save_checkpoint(plain, between, dtype=dtype)
    save_checkpoint(between, target, dtype="float32")
    for name in COMPONENTS:
        original, stored, back = read(plain, name), read(between, name), read(target, name)
        for key, value in original.items():
            assert stored[key].dtype.name == dtype
            assert back[key].dtype == np.float32
            assert np.array_equal(back[key], value.astype(dtype).astype(np.float32))


def test_integers_are_not_converted(copy: Path, tmp_path: Path) -> None:
    positions = np.arange(50)[None]
    rewrite(copy, "image_encoder", lambda t: {**t, "vision_model.embeddings.position_ids": positions})
    save_checkpoint(copy, tmp_path / "half", dtype="float16")
    found = read(tmp_path / "half", "image_encoder")["vision_model.embeddings.position_ids"]
    assert found.dtype == positions.dtype
    assert np.array_equal(found, positions)


@pytest.mark.parametrize("dtype", ["float17", "int8", "fp16", ""])
def test_a_dtype_that_weights_cannot_have(plain: Path, tmp_path: Path, dtype: str) -> None:
    with pytest.raises(InputError, match=f"dtype is '{dtype}', expected one of float16, bfloat16, float32, float64"):
        load(plain).save_pretrained(tmp_path / "saved", dtype=dtype)
    assert not list(tmp_path.iterdir())


def test_where_a_checkpoint_cannot_be_saved(copy: Path, tmp_path: Path, expected: Any) -> None:
    pipe = load(copy)
    (tmp_path / "file").write_text("old")
    for target in ("file", "file/below"):
        with pytest.raises(OutputError, match=f"{target} cannot be written: .*Choose another folder"):
            pipe.save_pretrained(tmp_path / target)
    assert (tmp_path / "file").read_text() == "old"
    with pytest.raises(OutputError, match="is, or lies in, what the pipeline was loaded from"):
        pipe.save_pretrained(copy)
    assert np.array_equal(latents(load(copy)), expected)


def test_saving_over_another_checkpoint_leaves_nothing_of_it(
    plain: Path, copy: Path, tmp_path: Path, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for component in ("unet", "vae"):
        weights = weights_file(copy, component)
        weights.rename(weights.with_name(f"{weights.stem}.fp16.safetensors"))
    (copy / "unet" / "notes.txt").write_text("kept")
    pipe = load(plain)
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    for function, error in (("write_weights", KeyboardInterrupt), ("write_weights", OSError(28, "No space left"))):
        with monkeypatch.context() as patch:
            patch.setattr(svdkit.checkpoint, function, Mock(side_effect=[None, error]))
            with pytest.raises((KeyboardInterrupt, OutputError)):
                pipe.save_pretrained(copy)
        assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "move", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pipe.save_pretrained(copy)
    with pytest.raises(CheckpointError, match="has no model_index"):  # it is between two, and so is none
        load(copy)
    pipe.save_pretrained(copy)
    assert np.array_equal(latents(load(copy)), expected)
    assert (copy / "unet" / "notes.txt").read_text() == "kept"
    with pytest.raises(CheckpointError, match="fp16"):
        load(copy, variant="fp16")


def test_saving_leaves_alone_what_a_link_leads_to(plain: Path, copy: Path, tmp_path: Path, expected: Any) -> None:
    target = shutil.copytree(plain, tmp_path / "linked")
    shutil.rmtree(target / "unet")
    (target / "unet").symlink_to(copy / "unet")
    before = weights_file(copy, "unet").read_bytes()
    load(plain).save_pretrained(target, dtype="float64")
    assert weights_file(copy, "unet").read_bytes() == before
    assert {weights.dtype.name for weights in read(target, "unet").values()} == {"float64"}
    assert np.array_equal(latents(load(target)), expected)
    with pytest.raises(OutputError, match="lies in, what the pipeline was loaded from"):
        load(copy).save_pretrained(copy / "scheduler" / "deeper")
    assert not (copy / "scheduler" / "deeper").exists()


def test_a_checkpoint_that_cannot_be_replaced_stays(plain: Path, copy: Path, expected: Any) -> None:
    shutil.rmtree(copy / "scheduler")
    (copy / "scheduler").write_text("no folder")
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(OutputError, match="cannot be written"):
        load(plain).save_pretrained(copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


# Reading


def test_shards_are_read_as_one(tmp_path: Path, expected: Any) -> None:
    make_pipeline("plain").save_pretrained(tmp_path, max_shard_size="200KB")
    for name in ("unet", "vae"):
        assert len(list((tmp_path / name).glob("*-of-*.safetensors"))) > 2
        assert not weights_file(tmp_path, name).exists()
    assert np.array_equal(latents(load(tmp_path)), expected)


def test_a_variant_is_read_if_it_is_asked_for(plain: Path, tmp_path: Path) -> None:
    make_pipeline("plain").to(dtype=torch.float16).save_pretrained(tmp_path / "variant", variant="fp16")
    save_checkpoint(plain, tmp_path / "half", dtype="float16")
    pipe = load(tmp_path / "variant", variant="fp16")
    halves = latents(load(tmp_path / "half"))
    assert np.array_equal(latents(pipe), halves)
    pipe.save_pretrained(tmp_path / "saved")
    assert np.array_equal(latents(load(tmp_path / "saved")), halves), "what is saved has no variant"
    with pytest.raises(CheckpointError, match=r"image_encoder has no .* variant=None: only for variant='fp16'"):
        load(tmp_path / "variant")
    with pytest.raises(CheckpointError, match=r"no safetensors weights for variant='fp32'"):
        load(tmp_path / "variant", variant="fp32")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("backend", "dtype", "mapped"),
    [("mindspore", None, True), ("torch", "float32", True), ("torch", "bfloat16", False), ("numpy", None, False)],
)
def test_who_computes_with_weights_as_they_are_stored_leaves_them_in_the_file(
    plain: Path, backend: str, dtype: str | None, mapped: bool
) -> None:
    pytest.importorskip(backend)
    k = make("backend", backend, None, "cpu", dtype)
    network = load_component("unet", plain, k)
    maps = Path("/proc/self/maps").read_text()
    assert (str(weights_file(plain, "unet").resolve()) in maps) == mapped
    del network
    gc.collect()
    assert str(weights_file(plain, "unet").resolve()) not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("backend", ["mindspore", "torch"])
def test_weights_in_16_bits_give_what_the_same_numbers_in_32_give(
    plain: Path, tmp_path: Path, backend: str, dtype: str
) -> None:
    pytest.importorskip(backend)
    load(plain).save_pretrained(tmp_path / "short", dtype=dtype)
    load(tmp_path / "short").save_pretrained(tmp_path / "long", dtype="float32")
    results = [latents(load(tmp_path / name, backend=backend, device="cpu")) for name in ("short", "long")]
    np.testing.assert_array_equal(*(np.asarray(x) for x in results))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_of_16_bits_are_computed_with_in_the_backends_dtype(plain: Path, tmp_path: Path, dtype: str) -> None:
    save_checkpoint(plain, tmp_path / "short", dtype=dtype)
    options = {"height": 64, "width": 64}
    made = latents(load(tmp_path / "short"), **options)
    assert made.dtype == np.float32
    difference = relative_error(made, latents(load(plain), **options))
    assert 1e-6 < difference < 0.1  # weights are rounded to 8 or 11 bits, and a random network magnifies that


def test_half_precision_upcasts_the_vae_if_its_configuration_says_so(copy: Path) -> None:
    class Half(NumpyBackend):
        dtypes = ("float16", "float32")

    assert load_component("vae", copy, Half()).backend.dtype == "float32"
    assert load_component("unet", copy, Half()).backend.dtype == "float16"
    configure(copy, "vae/config.json", force_upcast=False)
    assert load_component("vae", copy, Half()).backend.dtype == "float16"


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {key.removeprefix("vision_model."): value for key, value in t.items()},
        lambda t: {**t, "vision_model.embeddings.position_ids": np.arange(50)[None]},
        lambda t: {
            **{key.removeprefix("vision_model."): value for key, value in t.items()},
            "embeddings.position_ids": np.arange(50)[None],
        },
        lambda t: {
            **t,
            "text_model.embeddings.token_embedding.weight": np.ones((9, 8), np.float32),
            "text_model.final_layer_norm.bias": np.ones(8, np.float32),
            "text_projection.weight": np.ones((4, 8), np.float32),
            "logit_scale": np.ones((), np.float32),
        },
    ],
    ids=["no-prefix", "position-ids", "no-prefix-and-position-ids", "text-tower"],
)
def test_image_encoders_under_every_known_name(
    copy: Path, expected: Any, change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
) -> None:
    rewrite(copy, "image_encoder", change)
    assert np.array_equal(latents(load(copy)), expected)


def test_an_image_encoders_weights_are_reached_by_usual_names(copy: Path) -> None:
    tensors = read(copy, "image_encoder")
    rewrite(copy, "image_encoder", lambda t: {key.removeprefix("vision_model."): value for key, value in t.items()})
    with Weights.open(copy / "image_encoder", "model") as weights:
        renamed = CLIPWeights(weights)
        assert set(renamed.keys()) == set(tensors)
        for key, value in tensors.items():
            assert renamed.shape(key) == value.shape
            assert np.array_equal(renamed.read(key), value)


# Weights that do not fit

PRESENT = {
    "unet": ("mid_block.attentions.0.proj_in.bias", "conv_in.weight", "down_blocks.1.resnets.0.time_mixer.mix_factor"),
    "vae": ("quant_conv.bias", "decoder.time_conv_out.weight", "encoder.conv_in.bias"),
    "image_encoder": ("visual_projection.weight", "vision_model.pre_layrnorm.bias", "vision_model.post_layernorm.bias"),
}


def lacking(tensors: dict[str, np.ndarray], key: str) -> None:
    del tensors[key]


def extra(tensors: dict[str, np.ndarray], key: str) -> None:
    tensors[f"{key}.extra"] = np.ones(3, np.float32)


def misshaped(tensors: dict[str, np.ndarray], key: str) -> None:
    tensors[key] = np.ones((5, *tensors[key].shape), np.float32)


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lacking, "1 missing: {key}"),
        (extra, "1 unexpected: {key}.extra"),
        (misshaped, "1 of the wrong shape: {key} {found} instead of {shape}"),
    ],
    ids=["missing", "extra", "misshaped"],
)
def test_one_wrong_tensor_is_named(copy: Path, component: str, change: Callable[..., None], message: str) -> None:
    for key in PRESENT[component]:
        shutil.copyfile(weights_file(copy, component), copy / "kept")
        shape = read(copy, component)[key].shape
        rewrite(copy, component, lambda tensors, key=key: change(tensors, key))
        with pytest.raises(WeightsError) as error:
            load(copy)
        text = str(error.value)
        assert message.format(key=key, shape=shape, found=(5, *shape)) in text
        assert str(copy / component) in text
        assert "Take the weights and the config.json of the same checkpoint" in text
        shutil.move(copy / "kept", weights_file(copy, component))


@pytest.mark.parametrize("component", COMPONENTS)
def test_everything_that_is_wrong_is_in_one_error(copy: Path, component: str) -> None:
    one, two, three = PRESENT[component]

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        lacking(tensors, one)
        extra(tensors, two)
        misshaped(tensors, two)
        misshaped(tensors, three)

    rewrite(copy, component, spoil)
    with pytest.raises(WeightsError) as error:
        load(copy)
    for part in (f"1 missing: {one}", f"1 unexpected: {two}.extra", "2 of the wrong shape", f"{three} (5, "):
        assert part in str(error.value)


def test_a_configuration_of_another_size_is_told_by_its_shapes(copy: Path) -> None:
    configure(copy, "unet/config.json", cross_attention_dim=32)
    with pytest.raises(
        WeightsError, match=r"of the wrong shape: .*attn2\.to_k\.weight \(\d+, 24\) instead of \(\d+, 32\)"
    ):
        load(copy)


# Configurations


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not readable as JSON"),
        (b'{"a": ', "not readable as JSON"),
        (b"\xff\xfe{}", "not readable as JSON"),
        (b"[1, 2]", "holds list, expected a JSON object"),
        (b'"text"', "holds str, expected a JSON object"),
        (None, "lacks"),
    ],
    ids=["empty", "cut-short", "not-text", "list", "string", "missing"],
)
def test_wrong_json_is_named(copy: Path, file: str, content: bytes | None, message: str) -> None:
    path = copy / file
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load(copy)
    assert (message if path.exists() or file != FILES[0] else "it has no model_index.json") in str(error.value)
    assert file.split("/")[-1] in str(error.value)
    assert str(copy) in str(error.value)


@pytest.mark.parametrize("component", [*COMPONENTS, "scheduler", "feature_extractor"])
def test_a_missing_folder_is_named(copy: Path, component: str) -> None:
    shutil.rmtree(copy / component)
    with pytest.raises(CheckpointError, match=f"there is no .*{component}"):
        load(copy)


@pytest.mark.parametrize("component", COMPONENTS)
def test_missing_weights_are_named(copy: Path, component: str) -> None:
    weights_file(copy, component).unlink()
    with pytest.raises(
        CheckpointError, match=f"{component} has no .*expected {STEMS[component]}.safetensors and found"
    ):
        load(copy)


@pytest.mark.parametrize(
    ("file", "values", "message"),
    [
        ("unet/config.json", {"num_attention_heads": 5}, "32 channels are not divisible by 32 groups and 5 heads"),
        ("unet/config.json", {"block_out_channels": [48] * 4}, "48 channels are not divisible by 32 groups"),
        ("unet/config.json", {"block_out_channels": [32, 64]}, "entries, block_out_channels has 2"),
        ("unet/config.json", {"down_block_types": ["DownBlock2D"] * 4}, "unknown block type 'DownBlock2D'"),
        ("unet/config.json", {"up_block_types": ["DownBlockSpatioTemporal"] * 4}, "unknown block type 'DownBlockSp"),
        ("unet/config.json", {"layers_per_block": 0}, "layers_per_block is 0, expected positive whole numbers"),
        ("unet/config.json", {"num_frames": "14"}, "num_frames is '14', expected positive whole numbers"),
        ("unet/config.json", {"cross_attention_dim": 24.0}, "cross_attention_dim is 24.0"),
        ("vae/config.json", {"down_block_types": ["AttnDownBlock2D"] * 4}, "expected DownEncoderBlock2D only"),
        ("vae/config.json", {"block_out_channels": [32, 64]}, "down_block_types and block_out_channels differ"),
        ("vae/config.json", {"latent_channels": 0}, "latent_channels is 0"),
        ("image_encoder/config.json", {"hidden_act": "relu"}, "hidden_act is 'relu', expected gelu or quick_gelu"),
        ("image_encoder/config.json", {"hidden_size": "48"}, "hidden_size is '48'"),
        ("scheduler/scheduler_config.json", {"sigma_min": "low"}, "could not convert string to float: 'low'"),
        ("scheduler/scheduler_config.json", {"sigma_min": -1}, "sigma_min is -1 and sigma_max 700"),
        ("scheduler/scheduler_config.json", {"sigma_max": 0.001}, "sigma_min is 0.002 and sigma_max 0.001"),
        ("feature_extractor/preprocessor_config.json", {"image_mean": "abc"}, "could not convert string to float"),
        ("feature_extractor/preprocessor_config.json", {"image_mean": [1, 2]}, "expected three numbers each"),
        ("feature_extractor/preprocessor_config.json", {"image_std": [1, 1, 0]}, "expected three numbers each"),
    ],
)
def test_a_configuration_that_cannot_be(copy: Path, file: str, values: dict[str, Any], message: str) -> None:
    configure(copy, file, **values)
    with pytest.raises(CheckpointError) as error:
        load(copy)
    assert message in str(error.value)
    assert "is not usable" in str(error.value)


@pytest.mark.parametrize(("component", "kind"), [("unet", "UNetConfig"), ("vae", "VAEConfig")])
def test_settings_that_are_not_known_are_named_in_a_warning(
    copy: Path, expected: Any, component: str, kind: str
) -> None:
    configure(copy, f"{component}/config.json", flux="on", dropout=0.5)
    with pytest.warns(UserWarning, match=f"{kind} ignores dropout, flux"):
        pipe = load(copy)
    assert np.array_equal(latents(pipe), expected)


def test_a_checkpoint_of_diffusers_gives_no_warning(plain: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(plain)


@pytest.mark.parametrize("found", ["StableDiffusionPipeline", "I2VGenXLPipeline", None])
def test_a_checkpoint_of_another_pipeline(copy: Path, found: str | None) -> None:
    configure(copy, "model_index.json", _class_name=found)
    with pytest.raises(CheckpointError, match=f"a checkpoint of {found}, expected one of StableVideoDiffusionPipeline"):
        load(copy)


# Sampling settings and normalisation


def test_the_noise_levels_of_the_checkpoint_are_honoured(copy: Path) -> None:
    configure(copy, "scheduler/scheduler_config.json", sigma_min=0.1, sigma_max=80)
    made = latents(load(copy), sigmas=None, num_inference_steps=3, return_dict=True)
    assert made.sigmas == tuple(karras(3, 0.1, 80.0))
    assert made.sigmas[0] == pytest.approx(80)
    assert made.sigmas[-2:] == (pytest.approx(0.1), 0)


@pytest.mark.parametrize("name", ["DanceDiffusionScheduler", 7])
def test_a_scheduler_that_is_not_known_must_be_replaced(copy: Path, expected: Any, name: Any) -> None:
    configure(copy, "scheduler/scheduler_config.json", _class_name=name)
    with pytest.raises(CheckpointError, match=f"scheduler is '{name}', .* scheduler='euler'"):
        load(copy)
    for scheduler in ("euler", Euler()):
        assert np.array_equal(latents(load(copy, scheduler=scheduler)), expected)


@pytest.mark.parametrize(
    "values",
    [{"prediction_type": "epsilon"}, {"timestep_type": "discrete"}],
    ids=lambda values: next(iter(values)),
)
def test_noise_levels_of_another_kind_of_model_are_refused(copy: Path, expected: Any, values: dict[str, Any]) -> None:
    configure(copy, "scheduler/scheduler_config.json", **values)
    ((name, value),) = values.items()
    pipe = load(copy)
    with pytest.raises(CheckpointError) as error:
        latents(pipe, sigmas=None)
    for part in (f"{name} {value!r}", "Stable Video Diffusion has 'v_prediction', 'continuous'", "Pass `sigmas`"):
        assert part in str(error.value)
    assert np.array_equal(latents(pipe), expected), "unless the call gives them"


def test_the_normalisation_of_the_checkpoint_is_honoured(copy: Path) -> None:
    def embedding(pipe: StableVideoDiffusionPipeline) -> Any:
        handed: dict[str, Any] = {}
        latents(
            pipe,
            callback_on_step_end=lambda pipe, step, timestep, tensors: handed.update(tensors),
            callback_on_step_end_tensor_inputs=["image_embeddings"],
        )
        return handed["image_embeddings"][1]

    before = load(copy)
    configure(copy, "feature_extractor/preprocessor_config.json", image_mean=[0.1, 0.2, 0.3], image_std=[1, 2, 3])
    after = load(copy)
    assert after.feature_extractor.image_mean == (0.1, 0.2, 0.3)
    assert after.feature_extractor.image_std == (1, 2, 3)
    assert relative_error(embedding(after), embedding(before)) > 1e-2
    before.feature_extractor = after.feature_extractor
    assert np.array_equal(embedding(before), embedding(after))


# Components that plugins replace


class Shifted:
    """A UNet that adds 1 to what svdkit's own gives."""

    def __init__(self, folder: Path, backend: Backend, variant: str | None) -> None:
        self.folder = folder
        self.own: UNet = load_component("unet", folder.parent, backend, variant=variant, choice="default")
        self.config, self.backend, self.prepare = self.own.config, backend, self.own.prepare

    def __call__(self, *args: Any) -> Any:
        return self.own(*args) + 1


class Replacing:
    """A plugin that offers a UNet for the NumPy backend."""

    def __init__(self, name: str, backend: str = "numpy") -> None:
        self.name, self.backend = name, backend

    @svdkit.hookimpl
    def svdkit_components(self) -> list[svdkit.ComponentSpec]:
        return [
            svdkit.ComponentSpec(
                name=self.name,
                target=f"{__name__}:Shifted",
                summary="for these tests",
                component="unet",
                backend=self.backend,
            )
        ]


@pytest.fixture
def register() -> Iterator[Callable[..., None]]:
    """`register(name, backend)` a replacement, as an installed package would."""
    manager, plugins = registry().manager, []

    def add(name: str, backend: str = "numpy") -> None:
        plugins.append(Replacing(name, backend))
        manager.register(plugins[-1], f"{name} (for-these-tests)")

    yield add
    for plugin in plugins:
        manager.unregister(plugin)


def test_a_replacement_is_used_unless_the_default_is_asked_for(
    register: Callable[..., None], plain: Path, expected: Any
) -> None:
    register("shifted")
    # One step from sigma = 14 to 0 ends at x / (sigma^2 + 1) - F sigma / sqrt(sigma^2 + 1), where F has grown by 1.
    shifted = expected - 14 / 197**0.5
    for choice in (None, {}, {"unet": "shifted"}):
        pipe = load(plain, components=choice)
        assert isinstance(pipe.unet, Shifted)
        assert pipe.unet.folder == plain / "unet"
        assert relative_error(latents(pipe), shifted) < 1e-5  # float32
    own = load(plain, components={"unet": "default"})
    assert isinstance(own.unet, UNet)
    assert np.array_equal(latents(own), expected)


def test_a_replacement_for_another_backend_is_not_used(register: Callable[..., None], plain: Path) -> None:
    register("shifted", backend="mindspore")
    assert isinstance(load(plain).unet, UNet)
    with pytest.raises(UnknownPluginError, match="no unet for numpy 'shifted'"):
        load(plain, components={"unet": "shifted"})


def test_a_replacement_that_is_not_there(register: Callable[..., None], plain: Path) -> None:
    register("shifted")
    with pytest.raises(
        UnknownPluginError, match=r"no unet for numpy 'shifty'. Did you mean 'shifted'\? Known: default"
    ):
        load(plain, components={"unet": "shifty"})
    with pytest.raises(UnknownPluginError, match=r"no vae for numpy 'shifted'"):
        load(plain, components={"vae": "shifted"})
    with pytest.raises(InputError, match="no component 'scheduler'; there are unet, vae and image_encoder"):
        load(plain, components={"scheduler": "default"})


def test_of_two_replacements_one_must_be_chosen(register: Callable[..., None], plain: Path) -> None:
    register("shifted")
    register("other")
    with pytest.raises(DuplicatePluginError) as error:
        load(plain)
    for part in (
        "'shifted' of shifted (for-these-tests)",
        "'other' of other (for-these-tests)",
        "or 'default' for none",
    ):
        assert part in str(error.value)
    assert isinstance(load(plain, components={"unet": "other"}).unet, Shifted)
    assert isinstance(load(plain, components={"unet": "default"}).unet, UNet)

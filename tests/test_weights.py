"""Weights are read and written exactly, a tensor at a time, and broken files are named for what they are."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from svdkit.errors import CheckpointError, InputError, OutputError, SvdkitError, WeightsError
from svdkit.weights import Weights, select_files, write_weights

STEM = "diffusion_pytorch_model"
DTYPES = ["float16", "float32", "float64", "int64", "int32", "int8", "uint8", "bool", ml_dtypes.bfloat16]


def sample(dtype="float32") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "conv.weight": rng.normal(size=(4, 3, 3, 3)).astype(dtype),
        "conv.bias": rng.normal(size=4).astype(dtype),
        "scale": np.array(2, dtype),
        "empty": np.zeros((0, 5), dtype),
    }


def write_shards(folder: Path, index=f"{STEM}.safetensors.index.json", **weight_map) -> list[Path]:
    """Two shards, with conv.* in the first, and an index in which `weight_map` replaces entries."""
    names = [f"{STEM}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    tensors = sample()
    first = {key: tensors.pop(key) for key in list(tensors) if key.startswith("conv")}
    save_file(first, folder / names[0])
    save_file(tensors, folder / names[1])
    listed = {**dict.fromkeys(first, names[0]), **dict.fromkeys(tensors, names[1]), **weight_map}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": listed}))
    return [folder / name for name in names]


def assert_same(weights: Weights, expected: dict[str, np.ndarray]) -> None:
    assert weights.keys() == expected.keys()
    for key, array in expected.items():
        got = weights.read(key)
        assert weights.shape(key) == got.shape == array.shape
        assert weights.dtype(key) == got.dtype.name == array.dtype.name
        assert got.tobytes() == array.tobytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_what_is_written_is_read_back(tmp_path, dtype):
    write_weights(tmp_path / f"{STEM}.safetensors", sample(dtype))
    with Weights.open(tmp_path, STEM) as weights:
        assert_same(weights, sample(dtype))
    with safe_open(tmp_path / f"{STEM}.safetensors", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_arrays_that_do_not_lie_in_order_are_written_by_value(tmp_path):
    base = np.arange(24, dtype=np.float32).reshape(4, 6)
    views = {
        "transposed": base.T,
        "strided": base[::2, ::-1],
        "swapped": base.astype(">f4"),
        "scalar": base[1, 1, ...],
    }
    write_weights(tmp_path / "model.safetensors", views)
    with Weights.open(tmp_path, "model") as weights:
        for key, view in views.items():
            np.testing.assert_array_equal(weights.read(key), view)


def test_arrays_outlive_the_file_and_belong_to_the_caller(tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, {"a": np.ones(3, np.float16)})
    with Weights.open(tmp_path, "model") as weights:
        array = weights.read("a")
    array += 1
    assert array.tolist() == [2, 2, 2]
    assert load_file(path)["a"].tolist() == [1, 1, 1]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_mapped_weights_are_the_same(tmp_path, dtype):
    write_weights(tmp_path / f"{STEM}.safetensors", sample(dtype))
    with Weights.open(tmp_path, STEM, mapped=True) as weights:
        assert_same(weights, sample(dtype))


def test_mapped_tensors_outlive_the_file_which_keeps_what_it_has(tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, {"a": np.ones(3, np.float16)})
    with Weights.open(tmp_path, "model", mapped=True) as weights:
        array, again = weights.read("a"), weights.read("a")
    assert np.shares_memory(array, again), "it is where the file is"
    array += 1
    assert array.tolist() == [2, 2, 2]
    assert load_file(path)["a"].tolist() == [1, 1, 1]


def test_a_mapped_tensor_may_begin_anywhere(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
    header += b" " * (1 - len(header) % 2)  # its length is odd, so what follows is at an odd address
    data = np.arange(3, dtype=np.float32)
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data.tobytes())
    with Weights.open(tmp_path, "model", mapped=True) as weights:
        array = weights.read("a")
    assert array.flags.aligned
    assert array.tolist() == [0, 1, 2]


def test_a_tensor_that_is_not_there_is_named(tmp_path):
    write_weights(tmp_path / "model.safetensors", sample())
    with (
        Weights.open(tmp_path, "model") as weights,
        pytest.raises(WeightsError, match=r"model.*'conv\.wait'"),
    ):
        weights.read("conv.wait")


def test_a_dtype_beyond_numpy_is_an_error_and_not_a_guess(tmp_path):
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"ab")
    with Weights.open(tmp_path, "model") as weights, pytest.raises(CheckpointError, match="F8_E4M3"):
        weights.read("a")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_reading_one_tensor_does_not_load_the_file(tmp_path):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    size = 200 * 2**20
    header = json.dumps(
        {
            "big": {"dtype": "F16", "shape": [size // 2], "data_offsets": [0, size]},
            "small": {"dtype": "F32", "shape": [4], "data_offsets": [size, size + 16]},
        }
    ).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.seek(size, os.SEEK_CUR)
        file.write(np.arange(4, dtype=np.float32).tobytes())

    Weights.open(tmp_path, "model").close()  # what importing costs is not meant
    before = resident()
    with Weights.open(tmp_path, "model") as weights:
        assert weights.read("small").tolist() == [0, 1, 2, 3]
        assert resident() - before < 50 * 2**20


@pytest.fixture(scope="module")
def peers() -> dict:
    """A small model of diffusers and one of transformers, by the stem of their files."""
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    clip = transformers.CLIPVisionConfig(**sizes, projection_dim=16)
    return {
        STEM: diffusers.AutoencoderKLTemporalDecoder(block_out_channels=(32,), layers_per_block=1).half(),
        "model": transformers.CLIPVisionModelWithProjection(clip).bfloat16(),
    }


@pytest.mark.parametrize("stem", [STEM, "model"])
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize(("shard_size", "is_sharded"), [("10GB", False), ("40KB", True)])
def test_checkpoints_of_diffusers_and_transformers_are_read(tmp_path, peers, stem, variant, shard_size, is_sharded):
    model = peers[stem]
    model.save_pretrained(tmp_path, max_shard_size=shard_size, variant=variant)
    with Weights.open(tmp_path, stem, variant) as weights:
        assert (len(weights.paths) > 1) == is_sharded
        state = model.state_dict()
        assert weights.keys() == state.keys()
        for key, tensor in state.items():
            assert str(tensor.dtype) == f"torch.{weights.dtype(key)}"
            assert (weights.read(key).astype("float32") == tensor.float().numpy()).all(), key


@pytest.mark.parametrize("stem", [STEM, "model"])
def test_diffusers_and_transformers_read_what_is_written(tmp_path, peers, stem):
    model = peers[stem]
    model.save_pretrained(tmp_path)
    doubled = {key: tensor.float().numpy() * 2 for key, tensor in model.state_dict().items()}
    write_weights(tmp_path / f"{stem}.safetensors", doubled)
    for key, tensor in type(model).from_pretrained(tmp_path).state_dict().items():
        assert (tensor.float().numpy() == doubled[key]).all(), key


@pytest.mark.parametrize(
    ("variant", "index"),
    [
        (None, f"{STEM}.safetensors.index.json"),
        ("fp16", f"{STEM}.safetensors.index.fp16.json"),
        ("fp16", f"{STEM}.fp16.safetensors.index.json"),
        ("non_ema.fp16", f"{STEM}.non_ema.fp16.safetensors.index.json"),
    ],
)
def test_shards_are_found_under_every_spelling_of_their_index(tmp_path, variant, index):
    shards = write_shards(tmp_path, index)
    with Weights.open(tmp_path, STEM, variant) as weights:
        assert weights.paths == tuple(shards)
        assert_same(weights, sample())


def test_exactly_the_variant_that_was_asked_for_is_opened(tmp_path):
    for number, infix in enumerate(["", ".fp16", ".bf16", ".non_ema.fp16"]):
        write_weights(tmp_path / f"{STEM}{infix}.safetensors", {"a": np.array(number)})
    for number, variant in enumerate([None, "fp16", "bf16", "non_ema.fp16"]):
        with Weights.open(tmp_path, STEM, variant) as weights:
            assert weights.read("a") == number
    with pytest.raises(CheckpointError, match=r"variant='fp32'.*variant='bf16' and variant='fp16'.*variant=None"):
        Weights.open(tmp_path, STEM, "fp32")


def test_the_files_of_a_variant_are_told_apart_by_name_alone():
    shards = ["model.fp16-00001-of-00002.safetensors", "model.fp16-00002-of-00002.safetensors"]
    old = [f"model-0000{i}-of-00002.bf16.safetensors" for i in (1, 2)]
    index = ["model.safetensors.index.fp16.json", "model.safetensors.index.bf16.json"]
    other = ["model.safetensors", "my_model.fp16.safetensors", "model.fp16.bin", "config.json"]
    names = [*shards, *old, *index, *other]
    assert select_files(names, "model", None, "here") == ["model.safetensors"]
    assert select_files(names, "model", "fp16", "here") == [index[0], *shards]
    assert select_files(names, "model", "bf16", "here") == [index[1], *old]
    with pytest.raises(CheckpointError, match="without the index"):
        select_files(shards, "model", "fp16", "here")


@pytest.mark.parametrize(
    ("content", "looks"),
    [
        (b"", "empty"),
        (pickle.dumps({"a": list(range(100))}, protocol=2), "pickle.*never unpickles.*safe_serialization"),
        (pickle.dumps({"a": list(range(100))}, protocol=4), "pickle.*never unpickles"),
        (b"PK\x03\x04" + bytes(100), "zip archive.*never unpickles"),
        (b"\n <!doctype html><html><body>Sign in</body></html>", "web page.*download it again"),
        (b'{"error": "Repository not found"}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3044\n", "git lfs pull"),
        (bytes(1000), "corrupt"),
        (struct.pack("<Q", 2**62) + b"{}", "corrupt"),
    ],
)
def test_what_is_no_safetensors_file_is_named_for_what_it_is(tmp_path, content, looks):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"(?s){re.escape(str(path))} \({len(content)} bytes\).*{looks}"):
        Weights.open(tmp_path, "model")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, bytes]:
    path = tmp_path_factory.mktemp("broken") / "model.safetensors"
    write_weights(path, sample())
    return path, path.read_bytes()


@given(data=st.data())
@settings(deadline=None)
def test_a_file_cut_short_anywhere_is_refused(whole, data):
    path, content = whole
    path.write_bytes(content[: data.draw(st.integers(1, len(content) - 1))])
    with pytest.raises(CheckpointError, match="cut short or corrupt; download it again"):
        Weights.open(path.parent, "model")


@given(at=st.integers(0, 300), patch=st.binary(min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_a_header_that_lies_never_leads_to_another_error(whole, at, patch):
    path, content = whole
    path.write_bytes(content[:at] + patch + content[at + len(patch) :])
    try:
        with Weights.open(path.parent, "model") as weights:
            for key in weights.keys():
                assert weights.read(key).shape == weights.shape(key)
    except CheckpointError:
        pass


@pytest.mark.parametrize("first", [b"\x80", b"\x80\x02", b"<\x01", b"P"])
def test_a_header_length_that_reads_like_a_pickle_is_not_taken_for_one(tmp_path, first):
    length = struct.unpack("<Q", first.ljust(8, b"\0"))[0]
    header = json.dumps({"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}).encode().ljust(length)
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", length) + header + bytes(5))
    with pytest.raises(CheckpointError, match="cut short or corrupt"):
        Weights.open(tmp_path, "model")


def test_pickles_are_not_read_and_how_to_convert_them_is_said(tmp_path):
    (tmp_path / f"{STEM}.bin").write_bytes(b"anything")
    with pytest.raises(CheckpointError, match=rf"{STEM}\.bin.*never unpickles.*safe_serialization=True"):
        Weights.open(tmp_path, STEM)


def test_an_empty_or_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"model\.safetensors and found no file at all"):
        Weights.open(tmp_path, "model")
    with pytest.raises(CheckpointError, match="nowhere"):
        Weights.open(tmp_path / "nowhere", "model")


def test_a_link_to_a_file_that_is_gone_is_missing(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(CheckpointError, match="is missing"):
        Weights.open(tmp_path, "model")


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.safetensors", "/etc/secret.safetensors", "sub/a.safetensors", "C:a.safetensors"),
        *("..\\a.safetensors", "a.bin", "..", "", None, 7, ["a.safetensors"]),
    ],
)
def test_an_index_cannot_lead_out_of_its_folder(tmp_path, name):
    folder = tmp_path / "unet"
    folder.mkdir()
    save_file(sample(), tmp_path / "secret.safetensors")
    write_shards(folder, scale=name)
    with pytest.raises(CheckpointError, match=r"index\.json names .*plain name"):
        Weights.open(folder, STEM)


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "3", "null", "{}", "[" * 100_000, "\x00\xff"),
        *('{"weight_map": {}}', '{"weight_map": []}', '{"weight_map": "model.safetensors"}'),
    ],
    ids=lambda text: text[:20],
)
def test_an_index_that_is_none_is_named(tmp_path, text):
    (tmp_path / f"{STEM}.safetensors.index.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"index\.json is not an index"):
        Weights.open(tmp_path, STEM)


def test_shards_must_agree_with_their_index(tmp_path):
    first, second = write_shards(tmp_path, scale=f"{STEM}-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"00001-of-00002\.safetensors does not hold 'scale'"):
        Weights.open(tmp_path, STEM)
    write_shards(tmp_path, extra=second.name)
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.safetensors does not hold 'extra'"):
        Weights.open(tmp_path, STEM)
    write_shards(tmp_path)
    save_file(sample(), second)
    with pytest.raises(CheckpointError, match=rf"{first.name} both hold 'conv\.\w+'"):
        Weights.open(tmp_path, STEM)
    second.unlink()
    with pytest.raises(CheckpointError, match=rf"{second.name} is missing; download"):
        Weights.open(tmp_path, STEM)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    write_weights(path, sample())
    before = path.read_bytes()

    def fill_the_disk(tensors, filename, metadata):
        Path(filename).write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", fill_the_disk)
    with pytest.raises(OutputError, match=r"model\.safetensors.*No space left"):
        write_weights(path, {})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]  # noqa: PTH208


def test_a_file_that_is_being_read_can_be_replaced(tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, {"a": np.zeros(100_000)})
    with Weights.open(tmp_path, "model") as weights:
        write_weights(path, {"a": np.ones(3)})
        assert weights.read("a").shape == (100_000,)
    assert load_file(path)["a"].shape == (3,)


def test_a_file_that_is_cut_short_while_it_is_read(tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights(path, {"a": np.zeros(100_000), "b": np.ones(100_000)})
    with Weights.open(tmp_path, "model") as weights:
        os.truncate(path, path.stat().st_size - 8)
        with pytest.raises(CheckpointError, match=r"ends within '[ab]': it was cut short"):
            _ = [weights.read(key) for key in "ab"]


def test_others_may_read_what_is_written(tmp_path):
    (tmp_path / "usual").touch()
    write_weights(tmp_path / "model.safetensors", sample())
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(InputError, match="'a' has dtype object"):
        write_weights(tmp_path / "model.safetensors", {"a": np.array([None])})
    (tmp_path / "file").touch()
    for folder in "nowhere", "file":
        with pytest.raises(OutputError, match="Cannot write"):
            write_weights(tmp_path / folder / "model.safetensors", sample())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_all_errors_are_svdkits_own(tmp_path):
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(SvdkitError, match="cannot be opened"):
        Weights.open(tmp_path, "model")

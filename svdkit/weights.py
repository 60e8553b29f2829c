"""Weights in safetensors files: read one tensor at a time, written atomically, never unpickled."""

from __future__ import annotations

import json
import math
import mmap
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import TracebackType
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from .errors import CheckpointError, InputError, OutputError, WeightsError
from .files import replacing

STEMS: Final[Mapping[str, str]] = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "image_encoder": "model",
}
"""The components that have weights, and what their files' names begin with."""

PICKLES: Final = (".bin", ".ckpt", ".pt", ".pth", ".pkl")

_DTYPES: Final[Mapping[str, str]] = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "I32": "int32",
    "U32": "uint32",
    "I64": "int64",
    "U64": "uint64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
}

_CONVERT: Final = (
    "svdkit never unpickles, because a pickle can run any code: load it with diffusers where you trust it, "
    "and write it again with save_pretrained(folder, safe_serialization=True)"
)
_AGAIN: Final = "download it again"

_LOOKS: Final[Mapping[bytes, tuple[str, str]]] = {
    b"PK\x03\x04": ("a zip archive, most likely a pickle from torch.save", _CONVERT),
    b"\x80": ("a Python pickle", _CONVERT),
    b"version https://git-lfs": ("a git-lfs pointer, not the file itself", "run `git lfs pull` in the clone"),
    b"<": ("a web page, perhaps a login or an error page", _AGAIN),
    b'{"': ("a JSON text, perhaps an error message", _AGAIN),
}


class Weights:
    """One component's weights: a safetensors file, or several shards of one.

    Opening reads only the headers, which safetensors checks. `read` reads one tensor into memory of its own, so that
    it is gone when the tensor is; or, of files that are mapped, gives it where the system keeps the file, which costs
    neither time nor memory.

    Args:
        paths: the safetensors files.
        promised: tensor name to the file, one of `paths`, that must hold it.
        mapped: whether they are mapped, and must not be cut short while a tensor lives.

    Raises:
        CheckpointError: a file is missing, corrupt or no safetensors file, or two files hold the same tensor.
    """

    def __init__(self, paths: Sequence[Path], promised: Mapping[str, Path] | None = None, mapped: bool = False) -> None:
        self.paths = tuple(paths)
        self._where: dict[str, tuple[Path, Any]] = {}
        self._data: dict[str, tuple[BinaryIO | mmap.mmap, int]] = {}
        with ExitStack() as stack:
            for path in self.paths:
                file = stack.enter_context(_open(path))
                opened = stack.enter_context(path.open("rb", buffering=0))
                begins = _offsets(opened)
                # A private map: what is written to a tensor does not reach the file.
                data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY) if mapped else opened
                for key in file.keys():
                    if key in self._where:
                        raise CheckpointError(f"{path} and {self._where[key][0].name} both hold {key!r}.")
                    self._where[key] = path, file
                    self._data[key] = data, begins[key]
            for key, path in (promised or {}).items():
                if key not in self._where or self._where[key][0] != path:
                    raise CheckpointError(
                        f"{path} does not hold {key!r}, which the index beside it promises: the files are "
                        f"not of one checkpoint; download them all again."
                    )
            self._files = stack.pop_all()

    @classmethod
    def open(cls, folder: Path, stem: str, variant: str | None = None, mapped: bool = False) -> Weights:
        """Open the weights in `folder` whose file names begin with `stem`, of exactly that variant.

        Raises:
            CheckpointError: they are not there (the message names what is), or cannot be read.
        """
        first, *_ = weight_files(folder, stem, variant)
        if first.suffix != ".json":
            return cls([first], mapped=mapped)
        promised = _read_index(first)
        return cls(sorted(set(promised.values())), promised, mapped)

    def keys(self) -> frozenset[str]:
        """Names of all tensors."""
        return frozenset(self._where)

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of one tensor, without reading it."""
        return tuple(self._find(key)[1].get_slice(key).get_shape())

    def dtype(self, key: str) -> str:
        """Stored dtype of one tensor, such as `"float16"`, without reading it."""
        path, file = self._find(key)
        stored = file.get_slice(key).get_dtype()
        if stored not in _DTYPES:
            raise CheckpointError(f"{path} stores {key!r} as {stored}, which svdkit does not read; save it as float16.")
        return _DTYPES[stored]

    def read(self, key: str) -> npt.NDArray[Any]:
        """Read one tensor, in its stored dtype, as an array that the caller owns."""
        path, shape, dtype = self._find(key)[0], self.shape(key), np.dtype(self.dtype(key))
        size = math.prod(shape) * dtype.itemsize
        file, begin = self._data[key]
        if isinstance(file, mmap.mmap):
            # Tensors may begin anywhere; few frameworks take numbers at odd addresses.
            found = np.frombuffer(file, np.uint8, size, begin)
            return np.require(found.view(dtype).reshape(shape), requirements="A")
        file.seek(begin)
        data = np.fromfile(file, np.uint8, size)
        if data.size != size:
            raise CheckpointError(f"{path} ends within {key!r}: it was cut short while it was read; {_AGAIN}.")
        return data.view(dtype).reshape(shape)

    def close(self) -> None:
        """Close the files; what was read stays valid."""
        self._files.close()

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find(self, key: str) -> tuple[Path, Any]:
        try:
            return self._where[key]
        except KeyError:
            raise WeightsError(f"{' and '.join(map(str, self.paths))}: no tensor {key!r} there.") from None


def weight_files(folder: Path, stem: str, variant: str | None = None) -> list[Path]:
    """The files in a component's folder that hold its weights; see `select_files`, which raises likewise."""
    try:
        names = [path.name for path in folder.iterdir()]
    except OSError as error:
        raise CheckpointError(f"Cannot look for weights in {folder}: {error.strerror}.") from error
    return [folder / name for name in select_files(names, stem, variant, str(folder))]


def select_files(names: Iterable[str], stem: str, variant: str | None, where: str) -> list[str]:
    """Pick the files that hold a component's weights: one file, or an index and then its shards.

    Args:
        names: names of the files in the component's folder.
        stem: what the names of its weights begin with.
        variant: the infix such as `"fp16"`, or None for files without one. No other variant is ever chosen.
        where: what to call that folder in an error message.

    Raises:
        CheckpointError: they are not there; the message names what is.
    """
    names = sorted(names)
    found: dict[tuple[str | None, str], list[str]] = {}
    for name in names:
        if parsed := parse_name(name, stem):
            found.setdefault(parsed, []).append(name)
    if whole := found.get((variant, "file")):
        return whole
    shards = found.get((variant, "shard"), [])
    if index := found.get((variant, "index")):
        return [index[0], *shards]

    if shards:
        reason = f"there is {', '.join(shards)} without the index that belongs to it; {_AGAIN}"
    elif others := sorted({f"variant={other!r}" for other, _ in found}):
        reason = f"only for {' and '.join(others)}; pass one of these instead"
    elif pickles := [name for name in names if name.endswith(PICKLES)]:
        reason = f"only {', '.join(pickles)}; {_CONVERT}"
    else:
        reason = f"expected {stem}.safetensors and found {', '.join(names) or 'no file at all'}; {_AGAIN}"
    raise CheckpointError(f"{where} has no safetensors weights for variant={variant!r}: {reason}.")


def write_weights(path: Path, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write a safetensors file that diffusers and transformers read back; it appears whole or not at all.

    Raises:
        InputError: an array has a dtype such as object, which has no place in weights.
        OutputError: the file cannot be written.
    """
    import ml_dtypes  # noqa: F401  (teaches NumPy bfloat16)
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    known = set(_DTYPES.values())
    for key, array in tensors.items():
        if array.dtype.name not in known:
            raise InputError(f"{key!r} has dtype {array.dtype}, which svdkit does not write.")
    # safetensors writes an array's memory as it lies, which is wrong unless it is contiguous.
    contiguous = {key: np.asarray(array, order="C") for key, array in tensors.items()}
    try:
        with replacing(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            # Some versions of transformers refuse a file whose metadata lack the format.
            save_file(contiguous, temporary, metadata={"format": "pt"})
            temporary.chmod(mode)  # some versions of safetensors leave a file that only its owner can read
    except (OSError, SafetensorError) as error:
        raise OutputError(f"Cannot write {path}: {error}") from error


def parse_name(name: str, stem: str) -> tuple[str | None, str] | None:
    """Variant and kind (`file`, `shard`, `index`) that a file's name tells; None if it has another stem.

    Libraries disagree on where the variant goes in the names of shards and indices; all spellings are taken.
    """
    begin, variant = rf"{re.escape(stem)}(?:\.([\w.-]+?))?", r"(?:\.([\w.-]+?))?"
    if match := re.fullmatch(rf"{begin}\.safetensors\.index{variant}\.json", name):
        return match[1] or match[2], "index"
    if match := re.fullmatch(rf"{begin}-\d+-of-\d+{variant}\.safetensors", name):
        return match[1] or match[2], "shard"
    if match := re.fullmatch(rf"{begin}\.safetensors", name):
        return match[1], "file"
    return None


def _read_index(path: Path) -> dict[str, Path]:
    """Tensor name to the file that holds it."""
    try:
        where = json.loads(path.read_bytes())["weight_map"]
    except OSError as error:
        raise CheckpointError(f"Cannot read {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not an index of safetensors files: {error!r}; {_AGAIN}.") from error
    if not isinstance(where, dict) or not where:
        raise CheckpointError(f"{path} is not an index of safetensors files: its weight_map is no table.")
    # The names come from outside, and must not lead out of the folder.
    for name in where.values():
        if not isinstance(name, str) or not _is_plain(name):
            raise CheckpointError(f"{path} names {name!r}, which is no plain name of a safetensors file.")
    return {key: path.with_name(name) for key, name in where.items()}


def _is_plain(name: str) -> bool:
    return name.endswith(".safetensors") and name == PurePosixPath(name).name == PureWindowsPath(name).name


def _open(path: Path) -> Any:
    """Open one file; its header is checked by safetensors, its tensors are not read."""
    import ml_dtypes  # noqa: F401  (teaches NumPy bfloat16)
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="numpy")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing; {_AGAIN}.") from error
    except SafetensorError as error:
        looks, cure = _describe(path)
        size = path.stat().st_size
        raise CheckpointError(
            f"{path} ({size} bytes) is not a whole safetensors file: {looks}; {cure}. [{error}]"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error}.") from error


def _offsets(file: BinaryIO) -> dict[str, int]:
    """Where each tensor of a file begins, by a header that safetensors has checked: its length, then JSON."""
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return {key: 8 + length + entry["data_offsets"][0] for key, entry in header.items()}


def _describe(path: Path) -> tuple[str, str]:
    """What a file that is not a whole safetensors file seems to be, and what to do about it."""
    with path.open("rb") as file:
        begin = file.read(64)
    if not begin:
        return "it is empty", _AGAIN
    # The length of a genuine header can begin with any byte, a pickle's too; then come zeros and a brace.
    if len(begin) > 8 and begin[4:9] != b"\0\0\0\0{":
        for magic, (name, cure) in _LOOKS.items():
            if begin.lstrip().startswith(magic):
                return f"it looks like {name}", cure
    return "it is cut short or corrupt", _AGAIN

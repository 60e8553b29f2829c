"""Devices and dtypes, and the one place where the precision policy is written down.

* Weights and activations have the backend's dtype. It is float32 on a CPU, bfloat16 on GPUs and NPUs that compute
  in it, float16 on those that do not: where nothing is said, the fastest that is safe for these networks.
* Sums over many elements are kept in float32 whatever the dtype: torch's norms, softmax and matrix products do so
  inside, and where attention is composed of products here, its scores are float32.
* The sampling state is float32 (`Backend.state_dtype`), and so is a VAE that its checkpoint marks `force_upcast` when
  the rest is float16 (`svdkit.checkpoint.load_component`). Embeddings of sigma are taken in float64, on the host.
* float32 means float32 in matrix products, torch's default. Convolutions on NVIDIA GPUs follow
  `torch.backends.cudnn.allow_tf32`, which torch leaves on: ten bits of mantissa, errors of 1e-3. It is the
  process's switch and not ours to turn; set it to False for results to the last digit.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import torch

from svdkit.backend import Device
from svdkit.errors import InputError, MissingDependencyError

KINDS = ("cpu", "cuda", "mps", "npu")


def find_device(device: str | None) -> torch.device:
    """The device of a name like `"cuda:1"`; the first accelerator that there is, else the CPU, if None.

    Raises:
        InputError: there is no such device.
        MissingDependencyError: `npu` without torch_npu.
    """
    if device is None:
        return torch.device(next((kind for kind in ("cuda", "mps", "npu") if _count(kind)), "cpu"))
    kind, colon, index = device.partition(":")
    if kind not in KINDS or (colon and not (index.isascii() and index.isdecimal())):
        raise InputError(
            f"Backend 'torch' has no device {device!r}; it has {', '.join(KINDS)}, and 'cuda:1' and so on."
        )
    if kind == "npu" and importlib.util.find_spec("torch_npu") is None:
        raise MissingDependencyError("The device 'npu' needs torch_npu. Install it with: pip install torch-npu")
    count = _count(kind)
    if int(index or 0) >= count:
        raise InputError(
            f"torch {torch.__version__} finds {count or 'no'} {kind} device{'' if count == 1 else 's'} here, so there "
            f"is no {device!r}. Take another device, or install a torch built for it."
        )
    return torch.device(device)


def default_dtype(device: torch.device) -> str:
    """What to compute in where nothing is said."""
    if device.type == "cpu":
        return "float32"
    if device.type == "cuda":
        # Older than Ampere, bfloat16 is emulated.
        return "bfloat16" if torch.cuda.get_device_capability(device) >= (8, 0) else "float16"
    return "bfloat16" if device.type == "npu" else "float16"


def found_devices() -> Iterator[Device]:
    """The CPU, and every accelerator that torch finds."""
    yield Device("cpu")
    for kind in ("cuda", "npu"):
        for i in range(_count(kind)):
            properties = getattr(torch, kind).get_device_properties(i)
            yield Device(f"{kind}:{i}", properties.name, properties.total_memory)
    if _count("mps"):
        yield Device("mps", "Apple GPU")


def _count(kind: str) -> int:
    """How many devices of a kind there are."""
    if kind == "cpu":
        return 1
    if kind == "cuda":
        return torch.cuda.device_count()
    if kind == "mps":
        return int(torch.backends.mps.is_available())
    if importlib.util.find_spec("torch_npu") is None:
        return 0
    import torch_npu

    return int(torch_npu.npu.device_count())

"""Turn what a user calls a model (a folder, a shipped model, a hub id) into a local folder."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from .errors import AccessError, CheckpointError, InputError, SvdkitError
from .weights import PICKLES, STEMS, select_files

_SHIPPED: Final = Path(__file__).parent / "models"
_INDEX: Final = "model_index.json"
_FOLDERS: Final = (*STEMS, "scheduler", "feature_extractor")


def shipped_models() -> tuple[str, ...]:
    """Names of the models that come with svdkit."""
    return tuple(sorted(path.parent.name for path in _SHIPPED.glob(f"*/{_INDEX}")))


def resolve_model(
    model: str | os.PathLike[str],
    *,
    variant: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | None = None,
) -> Path:
    """Find the folder of a model; of a model on the Hugging Face hub, download what is needed and no more.

    Args:
        model: a folder in diffusers' layout, the name of a shipped model, or a hub id `owner/name`; looked up
            in this order.
        variant: which weights to download, such as `"fp16"`; None for those without a variant.
        revision: branch, tag or commit on the hub.
        cache_dir: where downloads are kept; None for the hub's own cache.
        local_files_only: take a hub model from the cache and make no request.
        token: the hub's access token; None for the one that `hf auth login` or `HF_TOKEN` left.

    Raises:
        InputError: `model` is none of these.
        AccessError: the hub refuses it.
        CheckpointError: it is not there, or is not in diffusers' layout.
    """
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
        raise InputError(f"A model is a folder, a shipped model's name or a hub id, not {model!r}.")
    try:
        path = Path(model).expanduser()
        files = [file.name for file in path.iterdir()] if path.is_dir() else None
        is_file = path.is_file()
    except (OSError, RuntimeError) as error:
        raise InputError(f"The model {os.fspath(model)!r} cannot be looked up: {error}.") from error

    if files is not None:
        _require_index(files, f"The folder {path}")
        return path
    if is_file:
        raise _not_a_folder(path)
    if not isinstance(model, str):
        raise CheckpointError(f"There is no folder {path}.")
    if model in shipped_models():
        return _SHIPPED / model
    if "://" in model:
        raise InputError(f"The model {model!r} is a URL; pass the hub id alone, such as 'owner/name'.")
    if _is_like_path(model):
        raise CheckpointError(f"There is no folder {path}; a path is not looked up on the hub.")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model, re.ASCII):
        return _from_hub(model, variant, revision, cache_dir, local_files_only, token)
    near = difflib.get_close_matches(model, shipped_models(), cutoff=0.3) or shipped_models()
    raise InputError(
        f"The model {model!r} is no folder here, no hub id (owner/name) and not shipped with svdkit"
        + (f"; shipped are {', '.join(near)}." if near else ".")
    )


def _is_like_path(name: str) -> bool:
    # A hub id has exactly one slash, inside, and does not begin with a dot.
    return (
        name.startswith((".", "~", "/"))
        or name.endswith(("/", ".safetensors", *PICKLES))
        or name.count("/") > 1
        or "\\" in name
    )


def _not_a_folder(path: Path) -> CheckpointError:
    if path.suffix in (".safetensors", *PICKLES):
        return CheckpointError(
            f"{path} is a single-file checkpoint. svdkit reads folders in diffusers' layout: convert it, for "
            f"instance with scripts/convert_svd_to_diffusers.py of diffusers, or use the model's hub id."
        )
    return CheckpointError(f"{path} is a file; a model is a folder that holds {_INDEX}.")


def _require_index(files: Iterable[str], where: str) -> None:
    found = sorted(files)
    if _INDEX not in found:
        some = ", ".join(found[:8]) + (", …" if len(found) > 8 else "")
        raise CheckpointError(
            f"{where} is no model in diffusers' layout: it has no {_INDEX}, but {some or 'nothing at all'}."
        )


def _needed(files: Iterable[str], variant: str | None, where: str) -> list[str]:
    """The files of a repository that a pipeline reads: its configuration, and one variant of the weights."""
    files = list(files)
    _require_index(files, where)
    needed = [_INDEX]
    for folder in _FOLDERS:
        names = [file.removeprefix(f"{folder}/") for file in files if file.startswith(f"{folder}/")]
        chosen = [name for name in names if name.endswith(".json") and ".safetensors.index" not in name]
        if folder in STEMS:
            chosen += select_files(names, STEMS[folder], variant, f"{where}: {folder}")
        needed += [f"{folder}/{name}" for name in chosen if "/" not in name]
    return needed


def _from_hub(
    repo: str,
    variant: str | None,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
    token: str | None,
) -> Path:
    from huggingface_hub import HfApi, constants

    hub = HfApi(token=token)
    offline = local_files_only or constants.HF_HUB_OFFLINE
    wanted = [_INDEX]
    if not offline:
        # Repositories hold several times what is needed, so the list is read first, and then chosen from.
        with _explained(repo, revision, offline):
            info = hub.model_info(repo, revision=revision, timeout=30)
        remote = [file.rfilename for file in info.siblings or ()]
        wanted = _needed(remote, variant, f"{repo} on the hub")
    with _explained(repo, revision, offline):
        folder = Path(
            hub.snapshot_download(
                repo,
                revision=revision,
                cache_dir=None if cache_dir is None else Path(cache_dir),
                allow_patterns=[glob.escape(file) for file in wanted],
                local_files_only=offline,
            )
        )
    # An interrupted download, or one of another variant, leaves only some of the files in the cache.
    cached = (file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    _needed(cached, variant, f"The cached copy of {repo} ({folder})")
    return folder


@contextmanager
def _explained(repo: str, revision: str | None, offline: bool) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # which ones depends on huggingface_hub's version and its HTTP library
        raise _explain(error, repo, revision, offline) from error


def _explain(error: Exception, repo: str, revision: str | None, offline: bool) -> SvdkitError:
    from huggingface_hub import errors

    said = f"{type(error).__name__}: {error}".splitlines()[0]
    login = "log in with `hf auth login` or set HF_TOKEN"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.HFValidationError):
        return InputError(f"{repo!r} is no folder here and no valid hub id: {error}")
    if isinstance(error, errors.GatedRepoError):
        return AccessError(
            f"The hub gives {repo} only to those who accepted its licence: accept it at "
            f"https://huggingface.co/{repo}, and {login}."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return AccessError(
            f"There is no folder {repo} here, and the hub shows no model of that id: the id is wrong, or the "
            f"model is private; if it is, {login} as a user who may read it."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{repo} on the hub has no revision {revision!r}.")
    if status in (401, 403):
        return AccessError(f"The hub refused {repo} ({said}): {login} with a token that may read it.")
    if offline and isinstance(error, errors.LocalEntryNotFoundError):
        return CheckpointError(
            f"{repo} (revision {revision or 'main'}) is not in the cache, and the hub must not be asked: run "
            f"once without local_files_only and HF_HUB_OFFLINE, or pass a folder or another cache_dir."
        )
    if isinstance(error, OSError) and error.errno is not None:
        return CheckpointError(f"The download of {repo} cannot be stored: {error}.")
    return CheckpointError(
        f"{repo} could not be had from the hub ({said}). Check the network and try again; without one, pass "
        f"a folder, or local_files_only=True if the cache holds the model."
    )

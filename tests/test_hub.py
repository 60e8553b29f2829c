"""A model's name becomes a folder, and only what is needed is downloaded, checked against a stand-in hub."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svdkit import hub
from svdkit.errors import AccessError, CheckpointError, InputError, SvdkitError
from svdkit.hub import resolve_model, shipped_models
from svdkit.weights import STEMS, Weights, write_weights

REPO = "someone/video"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIGS = {
    "model_index.json",
    "feature_extractor/preprocessor_config.json",
    "image_encoder/config.json",
    "scheduler/scheduler_config.json",
    "unet/config.json",
    "vae/config.json",
}
PLAIN = {f"{folder}/{stem}.safetensors" for folder, stem in STEMS.items()}
FP16 = {f"{folder}/{stem}.fp16.safetensors" for folder, stem in STEMS.items()}
SHARDED = {
    "unet/diffusion_pytorch_model.safetensors.index.json",
    "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
    "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
}
OTHER = {
    *(
        "README.md",
        ".gitattributes",
        "video.safetensors",
        "video_image_decoder.safetensors",
        "comparison.png",
    ),
    *(
        "unet/diffusion_pytorch_model.bin",
        "vae/diffusion_pytorch_model.fp16.bin",
        "image_encoder/pytorch_model.bin",
    ),
    *("unet/flax_model.msgpack", "unet/old/config.json", "safety_checker/config.json"),
    "unet/diffusion_pytorch_model.safetensors.index.bf16.json",
    "unet/diffusion_pytorch_model.bf16-00001-of-00001.safetensors",
}


class Hub(ThreadingHTTPServer):
    """The few routes of the hub that a download asks for, with faults on demand and a log of requests."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.files: dict[str, bytes] = {}
        self.log: list[str] = []
        self.refuse: dict[str, tuple[int, str]] = {}

    def publish(self, *names: str) -> None:
        self.files = {name: name.encode() for name in names}

    def downloaded(self) -> set[str]:
        return {line.split("/resolve/")[1].split("/", 1)[1] for line in self.log if "/resolve/" in line}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self.server.log.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path)
        for prefix, (status, code) in self.server.refuse.items():
            if path.startswith(prefix):
                return self.answer(status, b"{}", {"X-Error-Code": code})
        files = self.server.files
        if path in (f"/api/models/{REPO}", *(f"/api/models/{REPO}/revision/{r}" for r in ("main", COMMIT))):
            about = {"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            return self.answer(200, json.dumps(about).encode())
        if path == f"/api/models/{REPO}/tree/{COMMIT}":
            tree = [{"type": "file", "path": n, "size": len(b), "oid": etag(b)} for n, b in files.items()]
            return self.answer(200, json.dumps(tree).encode())
        if path.startswith(f"/api/models/{REPO}/"):
            return self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        name = path.removeprefix(f"/{REPO}/resolve/{COMMIT}/")
        if name in files:
            return self.answer(200, files[name], {"X-Repo-Commit": COMMIT, "ETag": f'"{etag(files[name])}"'})
        return self.answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args) -> None:
        pass


def etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@pytest.fixture
def server(monkeypatch):
    from huggingface_hub import constants, file_download

    with Hub() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for module in constants, file_download:  # older versions keep it in the second
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("variant", "weights"), [(None, PLAIN), ("fp16", FP16)])
def test_only_what_is_needed_is_downloaded(server, tmp_path, variant, weights):
    server.publish(*CONFIGS, *PLAIN, *FP16, *OTHER)
    folder = resolve_model(REPO, variant=variant, cache_dir=tmp_path)
    assert server.downloaded() == CONFIGS | weights
    assert files_in(folder) == CONFIGS | weights
    assert all((folder / name).read_bytes() == server.files[name] for name in CONFIGS | weights)


def test_shards_are_downloaded_with_their_index(server, tmp_path):
    plain = PLAIN - {"unet/diffusion_pytorch_model.safetensors"}
    server.publish(*CONFIGS, *plain, *SHARDED, *FP16, *OTHER)
    resolve_model(REPO, cache_dir=tmp_path)
    assert server.downloaded() == CONFIGS | plain | SHARDED


def test_shards_are_left_out_where_there_is_one_file(server, tmp_path):
    server.publish(*CONFIGS, *PLAIN, *SHARDED)
    resolve_model(REPO, cache_dir=tmp_path)
    assert server.downloaded() == CONFIGS | PLAIN


def test_a_downloaded_model_opens(server, tmp_path):
    server.publish(*CONFIGS, *PLAIN)
    write_weights(tmp_path / "a.safetensors", {"a": np.arange(3, dtype=np.float16)})
    server.files |= dict.fromkeys(PLAIN, (tmp_path / "a.safetensors").read_bytes())
    folder = resolve_model(REPO, cache_dir=tmp_path / "cache")
    with Weights.open(folder / "unet", STEMS["unet"]) as weights:
        assert weights.read("a").tolist() == [0, 1, 2]


@pytest.mark.parametrize("revision", [None, COMMIT])
def test_a_second_call_takes_the_cache_and_asks_nothing(server, tmp_path, revision):
    server.publish(*CONFIGS, *PLAIN, *FP16, *OTHER)
    folder = resolve_model(REPO, cache_dir=tmp_path)
    server.log.clear()
    assert resolve_model(REPO, cache_dir=tmp_path, revision=revision, local_files_only=True) == folder
    assert server.log == []


def test_a_second_call_with_the_hub_downloads_nothing_again(server, tmp_path):
    server.publish(*CONFIGS, *PLAIN, *OTHER)
    folder = resolve_model(REPO, cache_dir=tmp_path)
    server.log.clear()
    assert resolve_model(REPO, cache_dir=tmp_path) == folder
    assert server.downloaded() == set()


def test_offline_mode_means_the_cache(server, tmp_path, monkeypatch):
    server.publish(*CONFIGS, *PLAIN)
    folder = resolve_model(REPO, cache_dir=tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve_model(REPO, cache_dir=tmp_path) == folder
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        resolve_model("someone/else", cache_dir=tmp_path)


def test_a_cache_that_lacks_something_is_refused(server, tmp_path):
    with pytest.raises(CheckpointError, match=rf"{REPO} \(revision main\) is not in the cache.*local_files_only"):
        resolve_model(REPO, cache_dir=tmp_path, local_files_only=True)
    assert server.log == []

    server.publish(*CONFIGS, *PLAIN, *FP16)
    folder = resolve_model(REPO, variant="fp16", cache_dir=tmp_path)
    with pytest.raises(CheckpointError, match=r"cached copy of .*: unet .*only for variant='fp16'"):
        resolve_model(REPO, cache_dir=tmp_path, local_files_only=True)

    (folder / "vae/diffusion_pytorch_model.fp16.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"cached copy of .*: vae .*found config\.json; download it again"):
        resolve_model(REPO, variant="fp16", cache_dir=tmp_path, local_files_only=True)


def test_a_variant_that_is_not_there_costs_no_download(server, tmp_path):
    server.publish(*CONFIGS, *PLAIN, *FP16 - {"vae/diffusion_pytorch_model.fp16.safetensors"}, *OTHER)
    for variant, said in (
        ("fp32", "unet .*'fp16'"),
        ("fp16", "vae .*variant=None"),
        ("bf16", "image_encoder|vae"),
    ):
        with pytest.raises(CheckpointError, match=rf"{REPO} on the hub: {said}"):
            resolve_model(REPO, variant=variant, cache_dir=tmp_path)
    assert server.downloaded() == set()


def test_a_repository_of_pickles_is_refused(server, tmp_path):
    server.publish(*CONFIGS, *OTHER)
    with pytest.raises(CheckpointError, match=r"unet .*variant='bf16'"):
        resolve_model(REPO, cache_dir=tmp_path)
    server.publish(*CONFIGS, "unet/diffusion_pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model\.bin; svdkit never unpickles"):
        resolve_model(REPO, cache_dir=tmp_path)
    assert server.downloaded() == set()


def test_a_repository_of_something_else_is_refused(server, tmp_path):
    server.publish("README.md", "video.safetensors")
    with pytest.raises(CheckpointError, match=r"no model_index\.json, but README\.md, video\.safetensors"):
        resolve_model(REPO, cache_dir=tmp_path)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("where", [f"/{REPO}/resolve", "/api/models"])
def test_a_gated_model_says_where_to_accept_the_licence(server, tmp_path, status, where):
    server.publish(*CONFIGS, *PLAIN)
    server.refuse[where] = status, "GatedRepo"
    with pytest.raises(AccessError, match=rf"(?s)licence.*https://huggingface\.co/{REPO}.*hf auth login.*HF_TOKEN"):
        resolve_model(REPO, cache_dir=tmp_path)


@pytest.mark.parametrize("status", [401, 404])
def test_a_model_that_the_hub_does_not_show(server, tmp_path, status):
    server.refuse["/api/models"] = status, "RepoNotFound"
    with pytest.raises(AccessError, match=r"no folder some/typo here.*id is wrong, or the model is private"):
        resolve_model("some/typo", cache_dir=tmp_path)


def test_a_token_that_is_refused(server, tmp_path):
    server.refuse["/api/models"] = 403, ""
    with pytest.raises(AccessError, match="hf auth login") as caught:
        resolve_model(REPO, cache_dir=tmp_path, token="hf_secret")
    assert "hf_secret" not in str(caught.value)


def test_a_revision_that_is_not_there(server, tmp_path):
    server.publish(*CONFIGS, *PLAIN)
    with pytest.raises(CheckpointError, match=f"{REPO} on the hub has no revision 'v9'"):
        resolve_model(REPO, revision="v9", cache_dir=tmp_path)


def test_a_hub_that_fails_or_is_not_there(server, tmp_path, monkeypatch):
    server.refuse["/api/models"] = 500, ""
    with pytest.raises(CheckpointError, match=r"\(.*500.*local_files_only=True"):
        resolve_model(REPO, cache_dir=tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"\(Connect.*pass a folder, or local_files_only=True"):
        resolve_model(REPO, cache_dir=tmp_path)


def test_a_cache_that_cannot_be_written(server, tmp_path):
    server.publish(*CONFIGS, *PLAIN)
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be stored"):
        resolve_model(REPO, cache_dir=tmp_path / "file")


def test_the_endpoint_and_cache_of_the_environment_are_used(server, tmp_path):
    server.publish(*CONFIGS, *PLAIN, *OTHER)
    call = f"from svdkit.hub import resolve_model; print(resolve_model({REPO!r}))"
    environment = os.environ | {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run([sys.executable, "-c", call], env=environment, capture_output=True, text=True, check=True)
    folder = Path(done.stdout.strip())
    assert tmp_path in folder.parents
    assert files_in(folder) == CONFIGS | PLAIN


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    for name in "tiny", "tiny-xt", "not-a-model":
        (tmp_path / "models" / name).mkdir(parents=True)
    for name in "tiny", "tiny-xt":
        (tmp_path / "models" / name / "model_index.json").write_text("{}")
    monkeypatch.setattr(hub, "_SHIPPED", tmp_path / "models")
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "models"


def test_shipped_models_are_found_by_name(shipped, monkeypatch):
    assert shipped_models() == ("tiny", "tiny-xt")
    assert resolve_model("tiny-xt") == shipped / "tiny-xt"
    monkeypatch.setattr(hub, "_SHIPPED", shipped / "nowhere")
    assert shipped_models() == ()


def test_a_folder_comes_before_a_shipped_model_and_before_the_hub(shipped, tmp_path, monkeypatch):
    for name in "tiny", "someone/video":
        (tmp_path / "cwd" / name).mkdir(parents=True)
        (tmp_path / "cwd" / name / "model_index.json").touch()
        assert resolve_model(name) == Path(name)
    monkeypatch.setenv("HOME", str(tmp_path / "cwd"))
    for model in Path("tiny"), "./tiny", "~/tiny", str(tmp_path / "cwd/tiny/"):
        assert resolve_model(model).resolve() == tmp_path / "cwd/tiny"


def test_a_folder_that_is_no_model_says_what_it_holds(tmp_path):
    with pytest.raises(CheckpointError, match=r"no model_index\.json, but nothing at all"):
        resolve_model(tmp_path)
    for name in ("a.txt", "unet"):
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"no model_index\.json, but a\.txt, unet"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("name", ["svd.safetensors", "svd.ckpt"])
def test_a_single_file_checkpoint_must_be_converted(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=r"single-file.*convert_svd_to_diffusers"):
        resolve_model(tmp_path / name)


def test_another_file_is_no_model(tmp_path):
    (tmp_path / "model_index.json").touch()
    with pytest.raises(CheckpointError, match="a model is a folder"):
        resolve_model(tmp_path / "model_index.json")


@pytest.mark.parametrize(
    "model",
    [
        *(
            "./someone/video",
            "../video",
            "/someone/video",
            "~/video",
            "~nobody-here/video",
            "a/b/c",
            "someone/",
        ),
        *(
            "weights/svd.safetensors",
            "weights/svd.ckpt",
            "C:\\models\\svd",
            ".hidden/video",
            Path("someone/video"),
        ),
    ],
)
def test_what_looks_like_a_path_is_not_asked_of_the_hub(server, shipped, model):
    with pytest.raises(SvdkitError, match=r"no folder|cannot be looked up"):
        resolve_model(model)
    assert server.log == []


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("tiny-tx", "shipped are tiny-xt, tiny"),
        ("zzz", "shipped are tiny, tiny-xt"),
        ("https://huggingface.co/someone/video", "URL"),
        ("someone/vi--deo", "no valid hub id"),
        ("-/-", "no valid hub id"),
        ("some one/video", "no hub id"),
        ("", "A model is"),
        (None, "A model is"),
        (3, "A model is"),
        ("x" * 5000, "cannot be looked up"),
    ],
)
def test_what_is_no_model_at_all_is_an_input_error(server, shipped, model, said):
    with pytest.raises(InputError, match=said):
        resolve_model(model)
    assert server.log == []


@given(st.text(max_size=300))
@settings(deadline=None)
def test_no_text_leads_to_an_error_of_another_kind(text):
    with suppress(SvdkitError):
        resolve_model(text, local_files_only=True, cache_dir="/nonexistent")

"""What `svdkit doctor` asks in processes of their own, since an import may raise, crash or never end.

`ask` starts such a process. It writes each answer as soon as it has it, as a line of JSON, so that the first answer
that is not there tells where it stopped. The asking process imports nothing of what it asks about.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import packages_distributions
from itertools import chain
from typing import Any

from attrs import asdict

from ..errors import BrokenPluginError
from ..hookspecs import ComponentSpec, PluginSpec
from ..plugins import KINDS, Entry, Registry, entry_points, missing_modules, origin_of

Answer = dict[str, Any]

_END: Answer = {}
# The search path is handed over as it is here, where a program or a notebook may have changed it.
_CODE = "import sys; sys.path[:] = sys.argv.pop().split('\\n'); from svdkit.doctor.probe import main; main()"


def ask(question: str, *arguments: str, seconds: float) -> tuple[list[Answer], str]:
    """The answers to one of `QUESTIONS`, and why there are no more of them: empty if all were given.

    Args:
        question: its name.
        arguments: what it is about.
        seconds: after these its process is ended.
    """
    # Files, not pipes: a pipe stays open as long as any process that the asked one has started.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        command = [sys.executable, "-c", _CODE, question, *arguments, "\n".join(sys.path)]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=seconds, check=False
            )
            end = f"Python ended with {_status(done.returncode)}"
        except subprocess.TimeoutExpired:
            end = f"no answer within {seconds:g} seconds"
        out.seek(0)
        err.seek(0)
        answers: list[Answer] = [json.loads(line) for line in out if line.endswith(b"\n")]
        said = err.read().decode(errors="replace").split("\n")
    if answers and answers[-1] == _END:
        return answers[:-1], ""
    last = next((line.strip() for line in reversed(said) if line.strip()), "")
    return answers, f"{end}; its last words: {last[:200]}" if last else end


def _status(status: int) -> str:
    return f"status {status}" if status >= 0 else f"signal {-status} ({signal.strsignal(-status)})"


def main() -> None:
    """The process that `ask` starts. Its stdout is for answers alone; what frameworks print there goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    question, *arguments = sys.argv[1:]
    for answer in chain(QUESTIONS[question](*arguments), [_END]):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    os._exit(0)  # all is said, and some frameworks crash as Python ends


def look_at_plugin(origin: str, stopped: str) -> Iterator[Answer]:
    """What an entry point registers, then the state of each of these.

    Args:
        origin: the entry point, as `origin_of` calls it.
        stopped: JSON of modules that ended such a process, and what to answer for them; they are not imported again.
    """
    stoppers = json.loads(stopped)
    found = Registry([point for point in entry_points() if origin_of(point) == origin])
    entries = [(kind, entry) for kind in KINDS for entry in found.entries(kind)]
    if found.broken:
        yield {"broken": found.broken[origin]}
        return
    yield {"specs": [_describe(kind, entry.spec) for kind, entry in entries]}
    for kind, entry in entries:
        stopper = stoppers.get(entry.spec.target.partition(":")[0])
        yield {"state": "broken", **stopper} if stopper else _look_at_target(found, kind, entry)


def _describe(kind: str, spec: PluginSpec) -> Answer:
    replaces = [spec.component, spec.backend] if isinstance(spec, ComponentSpec) else []
    return {
        "kind": kind,
        "name": spec.name,
        "replaces": replaces,
        "target": spec.target,
        "requires": spec.requires,
        "install": spec.install,
    }


def _look_at_target(found: Registry, kind: str, entry: Entry) -> Answer:
    spec = entry.spec
    if missing := missing_modules(spec):
        return {"state": "missing", "reason": f"{', '.join(missing)} is not installed"}
    for module in spec.requires:  # first, so that a framework's fault is not taken for the plugin's
        try:
            import_module(module)
        except Exception as error:
            return _broken(f"{module} cannot be imported", error) | {"distribution": _distribution(module)}
    try:
        target = found.resolve(kind, entry)
    except BrokenPluginError as error:
        return _broken(f"{spec.target} cannot be loaded", error.__cause__ or error)
    return _look_at_backend(target, spec) if kind == "backend" else {"state": "available"}


def _distribution(module: str) -> str:
    return packages_distributions().get(module, [module])[0]


def _broken(what: str, error: BaseException) -> Answer:
    return {"state": "broken", "reason": f"{what}: {type(error).__name__}: {error}"}


def _look_at_backend(target: Callable[..., Any], spec: PluginSpec) -> Answer:
    from ..backend import Backend

    try:
        backend = target(None, None)
        if not isinstance(backend, Backend):
            raise TypeError(f"{spec.target} returned {backend!r}, expected a svdkit.backend.Backend")
    except Exception as error:
        return _broken("it cannot be made for its default device", error)
    try:
        devices = [asdict(device) for device in backend.found_devices()]
    except Exception as error:  # the backend works: what it also could use is not worth more than a word
        unknown = {"name": "others", "description": f"unknown ({type(error).__name__}: {error})"}
        devices = [{"name": backend.device}, unknown]
    return {"state": "available", "devices": devices}


def try_import(module: str) -> Iterator[Answer]:
    """The distribution that a module is of; then imports it."""
    yield {"distribution": _distribution(module)}
    import_module(module)


def try_backend(backend: str) -> Iterator[Answer]:
    """Makes one small frame with the model that ships, through all networks: on which device, or why not."""
    from PIL import Image

    from ..pipeline import StableVideoDiffusionPipeline

    try:
        pipe = StableVideoDiffusionPipeline.from_pretrained("tiny-random", backend=backend)
        pipe.set_progress_bar_config(disable=True)
        picture = Image.new("RGB", (64, 64), "teal")
        made = pipe(
            picture,
            height=64,
            width=64,
            num_frames=1,
            num_inference_steps=1,
            generator=0,
            output_type="np",
            return_dict=True,
        )
    except Exception as error:
        yield _broken("a generation fails", error)
    else:
        yield {"state": "available", "device": made.device}


QUESTIONS: dict[str, Callable[..., Iterator[Answer]]] = {
    "plugin": look_at_plugin,
    "import": try_import,
    "trial": try_backend,
}
"""What `ask` can ask."""

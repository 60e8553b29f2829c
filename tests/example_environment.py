"""A distribution under examples/ as its users meet it: built, and installed with svdkit in a fresh environment."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from attrs import frozen

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def blocks(text: str, language: str) -> list[str]:
    """The code of a Markdown text in one language."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [code for fence, code in fences if fence == language]


@frozen
class Environment:
    """A virtual environment with svdkit, an example and pytest."""

    root: Path
    wheels: dict[str, Path]
    """By the distribution's name."""

    @property
    def folder(self) -> Path:
        """Where commands run: a picture, and no source that Python could take for what is installed."""
        return self.root / "folder"

    @property
    def source(self) -> Path:
        """A copy of the example and a picture: where the tutorial's reader is."""
        return self.root / "source"

    @property
    def bin(self) -> Path:
        return self.root / "env" / "bin"

    def run(self, *command: object, status: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Runs a command with nothing of this process's Python in its environment."""
        ours = ("PYTHON", "PYTEST", "VIRTUAL_ENV", "SVDKIT")
        variables = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
        variables |= {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "1000"}
        words = [str(word) for word in command]
        done = subprocess.run(
            words, cwd=cwd or self.folder, env=variables, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == status, f"{words} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        return done

    def pip(self, *arguments: object) -> None:
        self.run(sys.executable, "-m", "pip", "--python", self.bin / "python", "--quiet", *arguments)

    def python(self, code: str) -> Any:
        """What code prints, which is JSON."""
        return json.loads(self.run("python", "-c", code).stdout)


def make_environment(root: Path, name: str) -> Environment:
    """A fresh environment with svdkit, its reference backend, pytest and the example of that name.

    Args:
        root: an empty folder.
        name: of the distribution, and of its folder.
    """
    example = EXAMPLES / name
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", root / "wheels", ROOT, example]
    subprocess.run(build, check=True, timeout=300)
    wheels = {path.name.split("-")[0].replace("_", "-"): path for path in (root / "wheels").iterdir()}
    assert wheels.keys() == {"svdkit", name}
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", root / "env"], check=True, timeout=300)

    made = Environment(root, wheels)
    shutil.copytree(example, made.source, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    made.folder.mkdir()
    for folder in (made.folder, made.source):
        shutil.copy(ROOT / "svdkit" / "assets" / "photo.jpg", folder)
    svdkit_numpy = f"svdkit[numpy] @ {wheels['svdkit'].as_uri()}"
    made.pip("install", "--no-compile", "-c", ROOT / "constraints.txt", svdkit_numpy, wheels[name], "pytest>=8.3")
    return made

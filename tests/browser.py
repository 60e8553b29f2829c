"""A real browser without a screen: QtWebEngine, which is Chromium in a wheel, driven from another process.

`python tests/browser.py` reads commands from standard input, one JSON object a line, and answers each with one:
open, js, key, click, size, shot, log. It runs apart from the tests, so that nothing of Qt or of Chromium shares a
process with the tensor frameworks. `Browser` is the tests' side of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FLAGS = "--no-sandbox --disable-gpu --disable-dev-shm-usage --force-device-scale-factor=1"


class BrowserError(RuntimeError):
    """The browser did not start or ended early."""


class Browser:
    """A page in a headless Chromium."""

    def __init__(self, *, dark: bool = False) -> None:
        """Start it, on a system that prefers dark or light colours."""
        flags = f"{FLAGS} --blink-settings=preferredColorScheme={0 if dark else 1}"
        environment = os.environ | {"QT_QPA_PLATFORM": "offscreen", "QTWEBENGINE_CHROMIUM_FLAGS": flags}
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the browser is
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            env=environment,
        )
        self._ask("log")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
            self._process.stdin.close()
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        self._said.close()

    def _ask(self, do: str, **how: Any) -> Any:
        line = ""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": do, **how}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            self._said.seek(0)
            raise BrowserError(f"it ended with status {status} at {do}: {''.join(self._said.readlines()[-1:]).strip()}")
        return json.loads(line)

    def open(self, path: Path) -> None:
        """Load a file; back once its load event has fired."""
        if not self._ask("open", path=str(path)):
            raise BrowserError(f"it could not load {path}.")

    def js(self, code: str) -> Any:
        """The value of an expression, by way of JSON."""
        return json.loads(self._ask("js", code=f"JSON.stringify({code}) ?? 'null'"))

    def _input(self, event: str, **order: Any) -> None:
        """Send an input, and wait until the page has seen it: it goes there through another process."""
        listen = f"addEventListener({event!r}, () => {{ seen = true; }}, {{capture: true, once: true}})"
        self.js(f"(() => {{ window.seen = false; {listen}; }})()")
        self._ask(**order)
        end = time.monotonic() + 60
        while not self.js("window.seen"):
            if time.monotonic() > end:
                raise BrowserError(f"the page never saw {order}")
            time.sleep(0.02)

    def key(self, name: str) -> None:
        """Press and release a key of Qt.Key, on whatever has the focus."""
        self._input("keyup", do="key", name=name)

    def click(self, selector: str) -> None:
        """A mouse click in the middle of an element."""
        found = f"document.querySelector({selector!r})"
        self.js(f"{found}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.js(f"{found}.getBoundingClientRect()")
        self._input("click", do="click", x=box["x"] + box["width"] / 2, y=box["y"] + box["height"] / 2)

    def size(self, width: int, height: int) -> None:
        """Make the window as large."""
        self._ask("size", width=width, height=height)

    def shot(self, path: Path) -> None:
        """A picture of the window."""
        self._ask("shot", path=str(path))

    def log(self) -> dict[str, list[str]]:
        """What the console said, and the addresses that were asked for, since the start."""
        return self._ask("log")


def serve() -> None:
    """The other side: a window that does what it reads."""
    from PySide6.QtCore import QEventLoop, QPoint, QSocketNotifier, Qt, QTimer, QUrl
    from PySide6.QtTest import QTest
    from PySide6.QtWebEngineCore import QWebEnginePage, QWebEngineProfile, QWebEngineUrlRequestInterceptor
    from PySide6.QtWebEngineWidgets import QWebEngineView
    from PySide6.QtWidgets import QApplication

    spare = [
        None
    ] * 1_000_000  # PySide6 6.12 drops a reference to None in each call of runJavaScript, until Python ends
    said: dict[str, list[str]] = {"console": [], "requests": []}

    class Requests(QWebEngineUrlRequestInterceptor):
        def interceptRequest(self, info: Any) -> None:  # noqa: N802
            url = info.requestUrl()
            said["requests"].append(url.toString()[:80])
            info.block(url.scheme() not in ("file", "data", "blob"))

    class Page(QWebEnginePage):
        def javaScriptConsoleMessage(self, level: Any, text: str, line: int, source: str) -> None:  # noqa: N802
            said["console"].append(f"{level.name}: {text} (line {line})")

    application = QApplication(sys.argv[:1])
    profile, requests = QWebEngineProfile(), Requests()
    profile.setUrlRequestInterceptor(requests)
    view = QWebEngineView()
    page = Page(profile, view)
    view.setPage(page)
    page.settings().setAttribute(
        page.settings().WebAttribute.LocalContentCanAccessRemoteUrls, True
    )  # so that it is seen
    view.resize(1280, 900)
    view.show()

    def waited(start: Any) -> Any:
        loop, answers = QEventLoop(), []
        start(lambda answer: (answers.append(answer), loop.quit()))
        if not answers:
            loop.exec()
        return answers[0]

    def settle(milliseconds: int = 60) -> bool:
        return waited(lambda done: QTimer.singleShot(milliseconds, lambda: done(True)))

    def opened(path: str) -> bool:
        def start(done: Any) -> None:
            page.loadFinished.connect(done, Qt.ConnectionType.SingleShotConnection)
            page.load(QUrl.fromLocalFile(path))

        return waited(start)

    def do(order: dict[str, Any]) -> Any:
        target = view.focusProxy() or view
        match order["do"]:
            case "open":
                return opened(order["path"])
            case "js":
                return waited(lambda done: page.runJavaScript(order["code"], 0, done))
            case "key":
                QTest.keyClick(target, getattr(Qt.Key, f"Key_{order['name']}"))
            case "click":
                QTest.mouseClick(target, Qt.MouseButton.LeftButton, pos=QPoint(int(order["x"]), int(order["y"])))
            case "size":
                view.resize(order["width"], order["height"])
            case "shot":
                settle(300)
                return view.grab().save(order["path"])
            case "log":
                return said
        return settle()

    def read() -> None:
        line = sys.stdin.readline()
        if not line:
            application.quit()
            return
        print(json.dumps(do(json.loads(line))), flush=True)

    notifier = QSocketNotifier(sys.stdin.fileno(), QSocketNotifier.Type.Read)
    notifier.activated.connect(read)
    application.exec()
    del spare
    os._exit(0)  # Chromium's own threads need no orderly end


if __name__ == "__main__":
    serve()

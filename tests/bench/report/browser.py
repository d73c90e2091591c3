"""A real headless Chromium, driven over a pipe by its DevTools protocol with the standard library alone."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
).split()

# The protocol wants file descriptors 3 and 4: move ours there, then become the browser.
MOVE = """
import fcntl, os, sys
down, up = (fcntl.fcntl(int(given), fcntl.F_DUPFD, 10) for given in sys.argv[1:3])
os.dup2(down, 3)
os.dup2(up, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find() -> str | None:
    """The browser's path, if one is installed."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """One tab. ``errors`` and ``requests`` collect what the page complained about and asked for."""

    def __init__(self, binary: str, timeout: float = 60.0) -> None:
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._timeout, self._next, self._rest = timeout, 0, b""
        self._replies: dict[int, dict[str, Any]] = {}
        self._events: list[str] = []
        self._profile = tempfile.mkdtemp(prefix="holdfast-browser-")
        down_read, self._down = os.pipe()
        self._up, up_write = os.pipe()
        command = [sys.executable, "-I", "-S", "-c", MOVE, str(down_read), str(up_write), binary, *FLAGS]
        self._process = subprocess.Popen(
            [*command, f"--user-data-dir={self._profile}", "about:blank"],
            pass_fds=(down_read, up_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(down_read)
        os.close(up_write)
        self._session: str | None = None
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send one command and wait for its reply."""
        self._next += 1
        number = self._next
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._down, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + self._timeout
        while number not in self._replies:
            self._read(deadline)
        reply = self._replies.pop(number)
        assert "error" not in reply, f"{method}: {reply['error']}"
        return dict(reply["result"])

    def open(
        self, path: Path, *, width: int = 1240, height: int = 900, dark: bool = False, phone: bool | None = None
    ) -> None:
        """Load a file as a window of that size would show it: that of a phone, where it is narrow or told so."""
        mobile = width < 600 if phone is None else phone
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._events.clear()
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + self._timeout
        while "Page.loadEventFired" not in self._events:
            self._read(deadline)

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def close(self) -> None:
        """End the browser and remove its profile."""
        os.close(self._down)  # the browser leaves when its pipe ends
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._up)
        shutil.rmtree(self._profile, ignore_errors=True)

    def _read(self, deadline: float) -> None:
        ready, _, _ = select.select([self._up], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, "the browser did not answer in time"
        chunk = os.read(self._up, 1 << 16)
        assert chunk, "the browser ended"
        *messages, self._rest = (self._rest + chunk).split(b"\0")
        for raw in messages:
            message = json.loads(raw)
            if "id" in message:
                self._replies[message["id"]] = message
            else:
                self._notice(message["method"], message.get("params", {}))

    def _notice(self, method: str, parameters: dict[str, Any]) -> None:
        self._events.append(method)
        if method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.errors.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.errors.append(str(parameters["args"]))
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])

"""A headless Chromium, driven over the two pipes of its DevTools protocol: nothing needs to be installed but it."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
PATIENCE_S = 60.0


def chromium() -> str | None:
    """Where there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page. ``errors`` collects what the console complains of, ``requests`` every address that was asked for."""

    def __init__(self, *, width: int = 1440, height: int = 1000, scheme: str = "light", webgl: bool = False) -> None:
        found = chromium()
        assert found is not None
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        to_browser, ours_out = os.pipe()
        ours_in, from_browser = os.pipe()

        def pipes() -> None:  # the browser reads from 3 and writes to 4
            first, second = os.dup(to_browser), os.dup(from_browser)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self._process = subprocess.Popen(
            [
                found, "--headless=new", "--no-sandbox",
                *(["--enable-unsafe-swiftshader"] if webgl else ["--disable-gpu"]), "--remote-debugging-pipe",
                "--no-first-run",
                "--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars",
                f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}", "about:blank",
            ],
            close_fds=False, preexec_fn=pipes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_browser)
        os.close(from_browser)
        self._in, self._out = os.fdopen(ours_in, "rb", buffering=0), os.fdopen(ours_out, "wb", buffering=0)
        self._buffer = b""
        self._next = 0
        self._session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._loaded = False
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._media: dict[str, str] = {}
        self.scheme(scheme)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._out.close()
        self._process.terminate()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._in.close()
        self._profile.cleanup()

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], PATIENCE_S)[0]:
                raise TimeoutError("the browser says nothing")
            piece = self._in.read(1 << 16)
            assert piece, "the browser has gone"
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\0", 1)
        found: dict[str, Any] = json.loads(line)
        method, params = found.get("method"), found.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str(params["args"])[:500])
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Page.javascriptDialogOpening":
            self.errors.append(f"dialog: {params['message']}")
        elif method == "Page.loadEventFired":
            self._loaded = True
        return found

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._next += 1
        number = self._next
        call = {"id": number, "method": method, "params": params}
        if self._session is not None:
            call["sessionId"] = self._session
        self._out.write(json.dumps(call).encode() + b"\0")
        while True:
            found = self._message()
            if found.get("id") == number:
                assert "error" not in found, found
                result: dict[str, Any] = found["result"]
                return result

    def open(self, page: Path | str) -> None:
        """Opens a page, a file or an address, and waits until it is loaded."""
        self._loaded = False
        self._call("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        while not self._loaded:
            self._message()

    def run(self, expression: str) -> Any:
        """The value of an expression on the page."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def scheme(self, name: str) -> None:
        """``light`` or ``dark``."""
        self._prefer("prefers-color-scheme", name)

    def reduced_motion(self, *, wanted: bool) -> None:
        """Whether the user wants no animations."""
        self._prefer("prefers-reduced-motion", "reduce" if wanted else "no-preference")

    def _prefer(self, feature: str, value: str) -> None:
        self._media[feature] = value
        features = [{"name": name, "value": value} for name, value in self._media.items()]
        self._call("Emulation.setEmulatedMedia", features=features)

    def click(self, selector: str, *, shift: bool = False) -> None:
        """A real click in the middle of the first element that matches, once the page has stopped moving it."""
        before: list[float] = []
        for _ in range(60):
            where = self.run(
                f"""(() => {{
                    const element = document.querySelector({json.dumps(selector)});
                    element.scrollIntoView({{block: "center"}});
                    const box = element.getBoundingClientRect();
                    const at = [box.x + box.width / 2, box.y + box.height / 2];
                    const top = document.elementFromPoint(...at);
                    return [...at, top === element || element.contains(top)];
                }})()"""
            )
            if where == before and where[2]:
                break
            before = where
            time.sleep(0.05)
        self.click_at(where[0], where[1], shift=shift)

    def click_at(self, x: float, y: float, *, shift: bool = False) -> None:
        """A real click: the mouse moves there, goes down and up."""
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.mouse(kind, x, y, modifiers=8 if shift else 0)

    def mouse(self, kind: str, x: float, y: float, *, modifiers: int = 0) -> None:
        """One event of the mouse: ``mouseMoved`` (which also drags), ``mousePressed`` or ``mouseReleased``."""
        button = {} if kind == "mouseMoved" else {"button": "left", "clickCount": 1}
        self._call("Input.dispatchMouseEvent", type=kind, x=x, y=y, modifiers=modifiers, **button)

    def touch_screen(self, *, there: bool) -> None:
        """Whether there is one (and no mouse: ``pointer: coarse``)."""
        self._call("Emulation.setTouchEmulationEnabled", enabled=there, maxTouchPoints=2)

    def tap_at(self, x: float, y: float) -> None:
        """One finger goes down and up, on a touch screen."""
        self._call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
        self._call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key: str) -> None:
        """A key, by its DOM name."""
        text = {"text": key} if len(key) == 1 else {}
        code = {"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "Enter": 13, "Escape": 27}.get(
            key, 0
        )
        self._call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: Path) -> None:
        """What is to be seen, as PNG."""
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"]))

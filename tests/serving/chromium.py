"""Headless Chromium for tests of pages, driven by the Chrome DevTools Protocol over a pair of pipes."""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_WAITS_S = 60.0
# Chromium reads commands from descriptor 3 and writes answers to 4.
_LAUNCH = """
import fcntl, os, sys
commands, answers = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--remote-debugging-pipe",
)


def chromium_path() -> str | None:
    """The browser of this machine; None: there is none."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


class Browser:
    """A running browser; `chromium` starts one."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._number, self._buffer = 0, b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Give a command and wait for its answer; events that come meanwhile are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        content = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while content:
            content = content[os.write(self._commands, content) :]
        deadline = time.monotonic() + _WAITS_S
        while True:
            found = self._next(deadline)
            if found.get("id") == self._number:
                if "error" in found:
                    raise AssertionError(f"{method}: {found['error']['message']}")
                return dict(found["result"])
            if "method" in found:
                self.events.append(found)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._answers, 1 << 20) if ready else b""
            if not chunk:
                raise AssertionError("Chromium has ended" if ready else "Chromium does not answer")
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(message))

    @contextlib.contextmanager
    def page(self, address: str, *, width: int = 1280, height: int = 800, dark: bool = False) -> Iterator["Page"]:
        """A page in a profile of its own, loaded."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log", "DOM"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.call("Emulation.setEmulatedMedia", features=[scheme])
        page.call("Page.navigate", url=address)
        page.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")
        try:
            yield page
        finally:
            self.call("Target.disposeBrowserContext", browserContextId=context)


class Page:
    """A tab."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser, self._session = browser, session

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression; promises are awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"]["exception"].get("description"))
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """Wait until an expression is true; elements come over as nothing, so compare them."""
        deadline = time.monotonic() + _WAITS_S
        while not (value := self.evaluate(expression)):
            if time.monotonic() > deadline:
                raise AssertionError(f"never true: {expression}\n{self.evaluate('document.body.innerText')}")
            time.sleep(0.03)
        return value

    def wait_for_event(self, method: str) -> dict[str, Any]:
        """Parameters of the next event of that kind, which no other call gets."""
        deadline = time.monotonic() + _WAITS_S
        while not (found := self._events(method)):
            assert time.monotonic() < deadline, f"no {method}"
            self.evaluate("new Promise((resolve) => setTimeout(resolve, 20))")
        self._browser.events.remove(found[0])
        return dict(found[0]["params"])

    def text(self, selector: str) -> str:
        """What an element shows."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText"))

    def is_shown(self, selector: str) -> bool:
        return bool(self.evaluate(f"document.querySelector({json.dumps(selector)})?.checkVisibility() ?? false"))

    def click(self, selector: str) -> None:
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def choose_files(self, selector: str, *files: Path) -> None:
        """What a person chooses in the dialog of a file input."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.call("DOM.setFileInputFiles", files=[str(file) for file in files], objectId=found["result"]["objectId"])

    def let_download(self, folder: Path) -> None:
        """Files that the page saves go there."""
        self.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def press(self, key: str, text: str = "", code: int = 0) -> None:
        """A key; `text` is what it types, `code` what it has without one (9: Tab)."""
        more = {"windowsVirtualKeyCode": code} if code else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, **more)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, **more)

    def resize(self, width: int, height: int) -> None:
        mobile = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def screenshot(self) -> bytes:
        """What is seen, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def requested(self) -> list[str]:
        """Addresses of all requests so far."""
        return [event["params"]["request"]["url"] for event in self._events("Network.requestWillBeSent")]

    def problems(self) -> list[str]:
        """Exceptions, and what the console calls an error, such as what the content security policy refuses."""
        thrown = [event["params"]["exceptionDetails"]["text"] for event in self._events("Runtime.exceptionThrown")]
        logged = [event["params"]["entry"] for event in self._events("Log.entryAdded")]
        return thrown + [entry["text"] for entry in logged if entry["level"] == "error"]

    def _events(self, method: str) -> list[dict[str, Any]]:
        events = self._browser.events
        return [event for event in events if event["method"] == method and event.get("sessionId") == self._session]


@contextlib.contextmanager
def chromium(path: str) -> Iterator[Browser]:
    """A browser with an empty profile."""
    commands_in, commands = os.pipe()
    answers, answers_in = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        launcher = [sys.executable, "-c", _LAUNCH, str(commands_in), str(answers_in), path]
        process = subprocess.Popen(
            [*launcher, *_OPTIONS, f"--user-data-dir={profile}"],
            pass_fds=(commands_in, answers_in),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands_in)
        os.close(answers_in)
        browser = Browser(commands, answers)
        try:
            yield browser
            browser.call("Browser.close")
            process.wait(30)
        finally:
            process.kill()
            process.wait()
            os.close(commands)
            os.close(answers)

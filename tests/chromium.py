"""Chromium without a window, driven over its own debugging protocol through two pipes: nothing has to be installed.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE_S = 60.0


def find_chromium() -> str | None:
    """The program that CHROMIUM names, or one that is installed."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """A tab. It remembers its workers, the addresses that all of them asked for, and what went wrong."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        target = browser.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = browser.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session = attached["sessionId"]
        self.target = target
        self.asked: list[str] = []
        self.logged: list[str] = []
        self.workers: list[str] = []
        browser.listeners.append(self._hear)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        # workers and worklets are targets of their own, and wait for leave to start
        auto = {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True}
        self.call("Target.setAutoAttach", auto)

    def _hear(self, event: dict[str, Any]) -> None:
        method, params = event["method"], event.get("params", {})
        if method == "Target.attachedToTarget":
            self.workers += [params["sessionId"]] if params["targetInfo"]["type"] == "worker" else []
            for request in ("Network.enable", "Runtime.enable", "Runtime.runIfWaitingForDebugger"):
                self._browser.send(request, {}, params["sessionId"])
        elif method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif method == "Log.entryAdded":
            self.logged.append(params["entry"]["text"])

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        """Sends one command to the tab; its result."""
        return self._browser.call(method, params or {}, self._session)

    def do(self, script: str, worker: str | None = None) -> Any:
        """The value of a JavaScript expression, awaited; in the page, or in one of its workers."""
        asked = {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self._browser.call("Runtime.evaluate", asked, worker or self._session)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, script: str) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if value := self.do(script):
                return value
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}; the page says {self.do('document.body.innerText')!r}")

    def go(self, url: str) -> None:
        """Opens an address."""
        self.call("Page.navigate", {"url": url})
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def press(self, key: str) -> None:
        """Presses and releases a key."""
        texts = {"Enter": "\r", "Space": " "}
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "Space": 32, "End": 35, "Home": 36, "F2": 113}
        codes |= {"ArrowLeft": 37, "ArrowRight": 39}
        event = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": codes[key]}
        down = {"type": "keyDown", **event} | ({"text": texts[key]} if key in texts else {})
        self.call("Input.dispatchKeyEvent", down)
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def type(self, text: str) -> None:
        """Puts a text where the cursor is."""
        self.call("Input.insertText", {"text": text})

    def choose(self, selector: str, *paths: Path) -> None:
        """Puts files into a file input, as a person would."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", {"nodeId": root, "selector": selector})["nodeId"]
        self.call("DOM.setFileInputFiles", {"nodeId": node, "files": [str(path.resolve()) for path in paths]})

    def close(self) -> None:
        """Closes the tab."""
        self._browser.listeners.remove(self._hear)
        self._browser.call("Target.closeTarget", {"targetId": self.target})


class Browser:
    """One process of Chromium; messages end in a zero byte."""

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._rest = b""
        self._last = 0
        self.listeners: list[Callable[[dict[str, Any]], None]] = []

    def send(self, method: str, params: dict[str, Any], session: str | None = None) -> int:
        """Sends a command, and does not wait; its number."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        return self._last

    def call(self, method: str, params: dict[str, Any], session: str | None = None) -> Any:
        """Sends a command; its result. What the browser reports meanwhile goes to the listeners."""
        number = self.send(method, params, session)
        for message in self._messages():
            if message.get("id") == number:
                if "error" in message:
                    raise AssertionError(f"{method}: {message['error']['message']}")
                return message["result"]
            if "method" in message:
                for listener in list(self.listeners):
                    listener(message)
        raise AssertionError(f"{method}: the browser has ended")

    def _messages(self) -> Iterator[dict[str, Any]]:
        while True:
            while b"\0" in self._rest:
                message, self._rest = self._rest.split(b"\0", 1)
                yield json.loads(message)
            block = os.read(self._reader, 1 << 16)
            if not block:
                return
            self._rest += block

    @contextmanager
    def page(self, url: str, before: str = "") -> Iterator[Page]:
        """A tab at an address; ``before`` is a script that runs before those of the page."""
        page = Page(self)
        try:
            if before:
                page.call("Page.addScriptToEvaluateOnNewDocument", {"source": before})
            page.go(url)
            yield page
        finally:
            page.close()


@contextmanager
def chromium(folder: Path, microphone: Path) -> Iterator[Browser]:
    """A browser with a profile of its own in a folder, and a WAV file as its microphone, played once."""
    program = find_chromium()
    assert program is not None
    ours, theirs = os.pipe(), os.pipe()
    arguments = [
        "--headless",
        "--remote-debugging-pipe",
        f"--user-data-dir={folder}",
        "--no-first-run",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
    ]
    if os.geteuid() == 0:
        arguments.append("--no-sandbox")  # its sandbox refuses root
    # it reads commands from descriptor 3, and writes to 4
    script = f'exec "$0" "$@" 3<&{theirs[0]} 4>&{ours[1]} {theirs[0]}<&- {ours[1]}>&-'
    process = subprocess.Popen(
        ["bash", "-c", script, program, *arguments],
        pass_fds=(theirs[0], ours[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs[0])
    os.close(ours[1])
    browser = Browser(ours[0], theirs[1])
    try:
        yield browser
        browser.send("Browser.close", {})
        process.wait(PATIENCE_S)
    finally:
        process.kill()
        process.wait()
        os.close(ours[0])
        os.close(theirs[1])

"""A headless Chromium, spoken to over its debugging pipe: what a page does in it, and how it looks."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync"),
    *("--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND"),
)

HIDDEN = """[...document.querySelectorAll("figure")].filter(one => one.checkVisibility() &&
  ![...one.querySelectorAll("svg path")].some(path => path.getBoundingClientRect().width > 100)).length"""
OUTSIDE = """[...document.querySelectorAll("body *")].filter(one => !one.closest("svg, .scroll") &&
  one.checkVisibility() && one.getBoundingClientRect().right > innerWidth + 1).map(one => one.outerHTML.slice(0, 90))"""
SMALLEST = """Math.min(...[...document.querySelectorAll("figure svg text")].filter(one => one.checkVisibility())
  .map(one => one.getBoundingClientRect().height))"""


class Page:
    """One tab; `events` is all that the browser told of it."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._replies = os.fdopen(requests, "wb"), os.fdopen(replies, "rb")
        self._numbers = count(1)
        self._session: str | None = None
        self._buffer = b""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **values: Any) -> dict[str, Any]:
        message: dict[str, Any] = {"id": next(self._numbers), "method": method, "params": values}
        if self._session:
            message["sessionId"] = self._session
        self._requests.write(json.dumps(message).encode() + b"\0")
        self._requests.flush()
        while (reply := self._next()).get("id") != message["id"]:
            self.events.append(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")
        return dict(reply["result"])

    def open(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        self.events.clear()
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str) -> Any:
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, path: Path) -> Path:
        taken = self.call("Page.captureScreenshot", captureBeyondViewport=True, **self._whole())
        path.write_bytes(base64.b64decode(taken["data"]))
        return path

    def pdf(self, path: Path) -> Path:
        printed = self.call("Page.printToPDF", printBackground=True, preferCSSPageSize=True, paperWidth=8.27)
        path.write_bytes(base64.b64decode(printed["data"]))
        return path

    def complaints(self) -> list[str]:
        """Whatever the console shows: errors and warnings, of scripts and of the page."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [json.dumps(event["params"]) for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        sent = (event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent")
        return [one["request"]["url"] for one in sent]

    def _whole(self) -> dict[str, Any]:
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not (read := self._replies.read1(1 << 20)):
                raise RuntimeError("the browser is gone")
            self._buffer += read
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))


@contextmanager
def browse() -> Iterator[Page]:
    """A tab of a fresh browser, which ends with it."""
    assert CHROMIUM is not None
    commands, requests = os.pipe()
    replies, answers = os.pipe()
    # The browser listens at 3 and answers at 4, wherever the pipes' ends happen to be.
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
    with TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as profile:
        wired = f'exec "$@" 3<&{theirs[0]} 4>&{theirs[1]}'
        command = ["bash", "-c", wired, "bash", CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"]
        browser = subprocess.Popen(
            command, pass_fds=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        for end in (commands, answers, *theirs):
            os.close(end)
        try:
            page = Page(requests, replies)
            yield page
            page._session = None
            page.call("Browser.close")
        finally:
            if browser.poll() is None:
                try:
                    browser.wait(5)
                except subprocess.TimeoutExpired:
                    browser.kill()
                    browser.wait()


def check_opened(page: Page, report: Path, width: int, dark: bool, charts: int) -> None:
    """Open a report, and check that it is silent, loads nothing else, draws its charts, and fits into the width."""
    page.open(report, width=width, dark=dark)
    assert page.complaints() == []
    assert page.requests() == [report.as_uri()]
    assert page.evaluate("document.querySelectorAll('figure svg').length") == charts
    assert page.evaluate(HIDDEN) == 0
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(SMALLEST) >= 8

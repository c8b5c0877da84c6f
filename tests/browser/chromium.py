"""A headless Chromium that opens pages and tells what went wrong: the DevTools protocol over a pipe.

The protocol is JSON with a zero byte after each message, on file descriptors 3 and 4 of the browser, so that neither a
driver nor a library is needed.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# The last two arguments of this program are descriptors; the browser takes its place, with these as 3 and 4.
_LAUNCH = """
import fcntl, os, sys
*command, reading, writing = sys.argv[1:]
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 10) for fd in (reading, writing)]
os.dup2(high[0], 3), os.dup2(high[1], 4)
os.execv(command[0], command)
"""
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
)


def find() -> str | None:
    """The path of a browser: what the variable CHROMIUM names, or one of the usual names."""
    return next(filter(None, map(shutil.which, filter(None, (os.environ.get("CHROMIUM"), *NAMES)))), None)


class Browser:
    """One browser with one tab.

    Attributes:
      complaints: what the console, the network and the page's own code complained of since the last `open`.
    """

    def __init__(self, path: str, profile: Path):
        to_browser, from_browser = os.pipe(), os.pipe()
        options = [*_OPTIONS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        descriptors = (to_browser[0], from_browser[1])
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, path, *options, *map(str, descriptors)],
            pass_fds=descriptors,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for descriptor in descriptors:
            os.close(descriptor)
        self._write, self._read = to_browser[1], from_browser[0]
        self._buffer, self._number, self._session = b"", 0, ""
        self._loaded = False
        self._host = ""
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, address: str, *, width: int, dark: bool) -> None:
        """Open a page, as a window of that width shows it, and wait until all of it is loaded."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self.complaints, self._loaded = [], False
        self._host = urllib.parse.urlsplit(address).netloc
        self._call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'", address)
        # What scripts of the page ask for once it is there.
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise ValueError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, condition: str, what: str = "", seconds: float = 30) -> None:
        """Wait until an expression is true in a page that was loaded."""
        end = time.monotonic() + seconds
        while not (self._loaded and self.evaluate(condition)):
            if time.monotonic() > end:
                raise TimeoutError(f"{what or condition} did not come within {seconds} s")
            self._take(0.05)

    def expect_a_page(self) -> None:
        """Let the next `wait_for` wait for another page, to which the page itself leads."""
        self._loaded = False

    def screenshot(self, path: Path) -> None:
        """The whole page as a picture."""
        size = self._call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 16000), "scale": 1}
        answer = self._call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        """End the browser."""
        self._session = ""
        try:
            self._call("Browser.close")
            self._process.wait(timeout=10)
        except (OSError, TimeoutError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for answer in self._take(1):
                if answer.get("id") == number:
                    if "error" in answer:
                        raise RuntimeError(f"{method}: {answer['error']['message']}")
                    return answer["result"]
        raise TimeoutError(f"no answer to {method}")

    def _take(self, seconds: float) -> list[dict[str, Any]]:
        """Messages that came meanwhile; those that nobody asked for are noted."""
        if not select.select([self._read], [], [], seconds)[0]:
            return []
        came = os.read(self._read, 1 << 20)
        if not came:
            raise OSError("the browser ended")
        *whole, self._buffer = (self._buffer + came).split(b"\0")
        messages = [json.loads(text) for text in whole]
        for message in messages:
            self._note(message.get("method", ""), message.get("params", {}))
        return messages

    def _note(self, event: str, about: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Runtime.exceptionThrown":
            details = about["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description", details["text"]))
        elif event == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
            self.complaints.append(" ".join(str(x.get("value", x.get("description"))) for x in about["args"]))
        elif event == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
            self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}".strip())
        elif event == "Network.requestWillBeSent":
            url = urllib.parse.urlsplit(about["request"]["url"])
            if url.scheme not in ("data", "blob") and url.netloc != self._host:
                self.complaints.append(f"asks for {about['request']['url']} from elsewhere")

"""Chromium without a screen, for tests of pages: spoken to over the DevTools protocol through a pipe."""

import base64
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SECONDS = 60  # that an answer may take


class Browser:
    """A page of ``size`` (width, height), in which WebGL is drawn in software or, at ``webgl=False``, missing."""

    def __init__(self, size=(900, 1000), webgl=True):
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        graphics = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"] if webgl else ["--disable-3d-apis"]
        flags = [
            "--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={self._folder.name}",
            "--no-first-run", "--disable-background-networking", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--force-prefers-reduced-motion", f"--window-size={size[0]},{size[1]}", *graphics,
        ]  # fmt: skip
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        # Chromium reads its orders from 3 and answers on 4: this gives the pipes these numbers.
        rename = (
            f"import os, sys; os.dup2({there}, 200); os.dup2({back}, 201); os.dup2(200, 3); os.dup2(201, 4); "
            "os.execv(sys.argv[1], sys.argv[1:])"
        )
        command = [sys.executable, "-c", rename, CHROMIUM, *flags, "about:blank"]
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        self._process = subprocess.Popen(command, pass_fds=(there, back), **quiet)
        os.close(there)
        os.close(back)
        os.set_blocking(self._read, False)
        self._rest, self._number, self._session = b"", 0, None
        self.events = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._folder.cleanup()

    def call(self, method, **parameters):
        """An order of the protocol; its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._answer(lambda said: said.get("id") == self._number)["result"]

    def open(self, path):
        """Load a file and wait until it has settled."""
        self.events.clear()
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        if not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self._answer(lambda said: said.get("method") == "Page.loadEventFired")
        self.settle()

    def settle(self):
        """Wait for two frames, and what was asked for before them."""
        self.run("new Promise(done => setTimeout(() => requestAnimationFrame(() => requestAnimationFrame(done)), 300))")

    def run(self, script):
        """What a script gives, as JSON has it."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, whole=False):
        """The window, or the whole page, as an RGB picture."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")

    def drag(self, begin, end):
        """Move the mouse from one place to another with its button pressed."""
        (x, y), (to_x, to_y) = begin, end
        button = {"button": "left", "buttons": 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, **button)
        for part in np.linspace(0, 1, 5)[1:]:
            at = {"x": x + part * (to_x - x), "y": y + part * (to_y - y)}
            self.call("Input.dispatchMouseEvent", type="mouseMoved", **at, button="left", buttons=1)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=to_x, y=to_y, **button)
        self.settle()

    def complaints(self):
        """Errors on the console and exceptions since the page was opened."""
        self.settle()
        said = []
        for event in self.events:
            about = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                said.append(str(about["exceptionDetails"]))
            if event["method"] == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
                said.append(str(about["args"]))
            if event["method"] == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                said.append(about["entry"]["text"])
        return said

    def requests(self):
        """Addresses that the page asked for, but its own and data in it."""
        asked = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [a["request"]["url"] for a in asked if a["type"] != "Document" and a["request"]["url"][:5] != "data:"]

    def _answer(self, wanted):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            *whole, rest = self._rest.split(b"\0")
            self._rest = rest if not whole else b"\0".join([*whole[1:], rest])
            if whole:
                said = json.loads(whole[0])
                if "method" in said:
                    self.events.append(said)
                if wanted(said):
                    assert "error" not in said, said["error"]
                    return said
                continue
            try:
                data = os.read(self._read, 1 << 20)
                assert data, "Chromium has ended"
                self._rest += data
            except BlockingIOError:
                time.sleep(0.01)
        raise TimeoutError(f"Chromium gave no answer in {SECONDS} seconds")

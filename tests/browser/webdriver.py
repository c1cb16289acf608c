"""Control a real browser, headless Chromium, over the WebDriver protocol."""

import base64
import json
import re
import subprocess
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PROGRAMS = ("/usr/bin/chromium", "/usr/bin/chromedriver")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--force-device-scale-factor=1",
)  # fmt: skip
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
KEYS = {"Enter": "\ue007", "Escape": "\ue00c", "Tab": "\ue004", "ArrowLeft": "\ue012", "ArrowUp": "\ue013",
        "ArrowRight": "\ue014", "ArrowDown": "\ue015", "Home": "\ue011", "End": "\ue010"}  # fmt: skip


class Browser:
    """One browser window.  `dark`: prefer dark colours.  `size` is in pixels."""

    def __init__(self, *, dark: bool = False, size: tuple[int, int] = (1400, 900)) -> None:
        self._profile = tempfile.TemporaryDirectory()
        self._driver = subprocess.Popen([PROGRAMS[1], "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._session = ""
        assert self._driver.stdout is not None
        for line in self._driver.stdout:
            if found := re.search(r"started successfully on port (\d+)", line):
                self._address = f"http://127.0.0.1:{found[1]}"
                break
        else:
            raise AssertionError("chromedriver did not start")
        flags = [*_FLAGS, f"--user-data-dir={self._profile.name}", f"--window-size={size[0]},{size[1]}"]
        flags += ["--blink-settings=preferredColorScheme=0"] if dark else []
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": PROGRAMS[0], "args": flags},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self._session = "/session/" + self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._address + self._session + path, data, {"Content-Type": "application/json"}, method=method
        )
        # Ignore proxies that the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=40) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(json.load(error)["value"]["message"]) from None

    def open(self, file: Path) -> None:
        """Load a file, and drop what was logged before."""
        self.log("browser")
        self.log("performance")
        self._ask("POST", "/url", {"url": file.as_uri()})

    def run(self, script: str, *arguments: object) -> Any:
        """Run a function with this body in the page, and return its result."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": arguments})

    def log(self, kind: str) -> list[Any]:
        """Return what was logged since the last call."""
        return list(self._ask("POST", "/se/log", {"type": kind}))

    def complaints(self) -> list[str]:
        """Return the messages of the console, without those of the browser's own start page, which may still arrive."""
        lines = [entry["message"] for entry in self.log("browser")]
        return [line for line in lines if not line.startswith("chrome://")]

    def requests(self) -> list[str]:
        """Return the URLs of all requests since the page was opened."""
        events = [json.loads(entry["message"])["message"] for entry in self.log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent if not one["documentURL"].startswith("chrome://")]

    def press(self, *keys: str) -> None:
        """Press and release keys, one after the other."""
        strokes = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in ("keyDown", "keyUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": strokes}]})

    def point(self, selector: str, *, click: bool = False) -> None:
        """Move the mouse to the first element that the selector matches, and click it if `click` is true."""
        element = self._ask("POST", "/element", {"using": "css selector", "value": selector})
        strokes: list[dict[str, object]] = [
            {"type": "pointerMove", "duration": 0, "x": 0, "y": 0, "origin": {_ELEMENT: element[_ELEMENT]}}
        ]
        if click:
            strokes += [{"type": kind, "button": 0} for kind in ("pointerDown", "pointerUp")]
        self._ask("POST", "/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": strokes}]})

    def screenshot(self, file: Path) -> None:
        """Save a picture of the window as PNG."""
        file.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))

    def close(self) -> None:
        """Close the window and end the driver."""
        try:
            if self._session:
                self._ask("DELETE", "")
        finally:
            self._driver.terminate()
            self._driver.wait(20)
            assert self._driver.stdout is not None
            self._driver.stdout.close()
            self._profile.cleanup()

"""Chromium, headless, with an empty profile, and what the tests ask it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

# The page works without the GPU, and a browser under test talks to nobody but the page's origin.
SWITCHES = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage")  # fmt: skip


class Browser:
    def __init__(self, profile: Path) -> None:
        chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
        assert chromium and driver, "conftest skips the tests without a browser"
        options = Options()
        options.binary_location = chromium
        for switch in (*SWITCHES, f"--user-data-dir={profile}"):
            options.add_argument(switch)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(driver))
        self._requests: list[str] = []

    def open(self, url: str) -> None:
        self.driver.get(url)

    def run(self, script: str) -> Any:
        return self.driver.execute_script(script)

    def text(self, element: str) -> str:
        return str(self.run(f"return document.getElementById('{element}').innerText"))

    def screen(self, width: int, height: int) -> None:
        """The size of the page itself, as a phone of that width has it; a window cannot be made that narrow."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def prefer(self, scheme: str) -> None:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)

    def console(self) -> list[dict[str, Any]]:
        """What the page or the browser complained of since the last question."""
        return list(self.driver.get_log("browser"))  # type: ignore[no-untyped-call]

    def origins(self) -> set[str]:
        """Of everything that was asked over the network since the browser started."""
        for entry in self.driver.get_log("performance"):  # type: ignore[no-untyped-call]
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                self._requests.append(message["params"]["request"]["url"])
        # A data: URL is no request but the page's own empty icon; chrome: is the new tab from before, out of the browser.
        return {f"{u.scheme}://{u.netloc}" for u in map(urlsplit, self._requests) if u.scheme not in ("data", "chrome")}

    def close(self) -> None:
        self.driver.quit()

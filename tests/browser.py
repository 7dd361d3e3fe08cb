"""Chromium without a window, for tests of pages; they are left out where there is none."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="there is no chromium with its chromedriver"
)


class Browser:
    """Chromium without a window; ``performance``: its log of requests is kept as well."""

    def __init__(self, *, performance: bool = False) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        for switch in ("--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio"):
            options.add_argument(switch)
        logs = {"browser": "ALL"} | ({"performance": "ALL"} if performance else {})
        options.set_capability("goog:loggingPrefs", logs)
        self.driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))

    def show(self, page: Path, *, width: int = 1280, scheme: str = "light") -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        asked = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": asked})
        self.driver.get(page.as_uri())

    def js(self, code: str, *given: Any) -> Any:
        return self.driver.execute_script(code, *given)

    def of_video(self, name: str) -> Any:
        return self.js(f"return document.getElementById('video').{name}")

    def until(self, true: Callable[[], Any]) -> None:
        WebDriverWait(self.driver, 20, poll_frequency=0.05).until(lambda _: true())

    def find(self, selector: str) -> Any:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def said(self) -> list[str]:
        """What the console says, but for a word on how often these tests read pixels."""
        said = [entry["message"] for entry in self.driver.get_log("browser")]
        return [message for message in said if "willReadFrequently" not in message]

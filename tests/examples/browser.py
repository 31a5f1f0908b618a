"""A real browser without a window, as Debian and others package it."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

# Their names differ from system to system.
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
DRIVERS: Final = ("chromedriver", "chromium.chromedriver")

OPTIONS: Final = (
    "--headless",
    # Root may not use it, and the page is our own.
    "--no-sandbox",
    "--disable-gpu",
    # Containers have little shared memory.
    "--disable-dev-shm-usage",
    # It has nothing to say to anybody but us.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--no-proxy-server",
)


def installed(names: tuple[str, ...]) -> str:
    """The first of the programs that is there; on a CI, one must be."""
    for name in names:
        if path := shutil.which(name):
            return path
    missing = f"none of these is installed: {', '.join(names)}"
    if "CI" in os.environ:
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


@contextmanager
def browsing(folder: Path) -> Iterator[Chrome]:
    """A browser that keeps what it has to keep in the folder."""
    options = ChromeOptions()
    options.binary_location = installed(BROWSERS)
    for option in (*OPTIONS, f"--user-data-dir={folder}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = Chrome(options, ChromeService(installed(DRIVERS)))
    try:
        yield browser
    finally:
        browser.quit()


def console(browser: Chrome) -> list[str]:
    """What the page has complained of since it was last asked."""
    entries = browser.get_log("browser")  # type: ignore[no-untyped-call]
    return [e["message"] for e in entries if e["level"] in {"SEVERE", "WARNING"}]


def use_screen(browser: Chrome, *, width: int, height: int, scheme: str) -> None:
    """Look at it on a screen of that size, in the light or the dark."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )

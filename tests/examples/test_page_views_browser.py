"""The page of the site, in a browser."""

import asyncio
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from selenium.common import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from tests.examples.browser import browsing, console, use_screen
from tests.examples.programs import TIMEOUT
from tests.examples.sites import Site, serving, visiting

# Names a file, to be written for the documentation.
SCREENSHOT = "AIOUPSERT_TEST_SCREENSHOT"

# A name that is part of the page's text, not of its address or its markup.
ODD = "/a?b&c#d%20<img src=x onerror='window.run = true'>"
LONG = "/a-page-with-a-name-that-never-ends" + 10 * "-and-ends"

# What a reader needs between text and what is behind it: W3C, WCAG 2.2, 1.4.3.
READABLE = 4.5
# The least contrast of any text on the page; computed as WCAG says.
CONTRAST = """
const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
const luminance = (color) => rgb(color).slice(0, 3)
    .map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
    const { backgroundColor, backgroundImage } = getComputedStyle(element);
    const colors = backgroundImage.match(/rgb\\([^)]*\\)/g) ?? [];
    if (rgb(backgroundColor)[3] !== 0) return [...colors, backgroundColor];
    return [...colors, ...behind(element.parentElement)];
};
const contrasts = (element) => behind(element).map((background) => {
    const [dark, light] = [getComputedStyle(element).color, background]
        .map(luminance).sort((a, b) => a - b);
    return (light + 0.05) / (dark + 0.05);
});
const texts = [...document.querySelectorAll("body *:not(script)")].filter(
    (element) => [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim())
);
return Math.min(...[...texts, document.querySelector("input")].flatMap(contrasts));
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browsing(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture
def site(lite_path: Path, tmp_path: Path) -> Iterator[Site]:
    with serving(str(lite_path), tmp_path) as serves:
        yield serves


@pytest.fixture
def page(browser: Chrome, site: Site) -> Iterator[Chrome]:
    """The browser, on the page, which is left before the server ends."""
    browser.get(site.url)
    yield browser
    browser.get("about:blank")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    console(browser)


@pytest.fixture
def visitor(site: Site) -> Iterator[httpx.Client]:
    """Somebody else."""
    with httpx.Client(base_url=site.url, trust_env=False) as client:
        yield client


def view(visitor: httpx.Client, path: str) -> None:
    visitor.post(f"/view{path}").raise_for_status()


def text(browser: Chrome, selector: str) -> str:
    return str(browser.find_element(By.CSS_SELECTOR, selector).text)


def counts(browser: Chrome) -> dict[str, str]:
    """The pages that are shown, in order."""
    lines = text(browser, "ol").splitlines()
    return dict(zip(lines[::2], lines[1::2], strict=False))


def wait_until(browser: Chrome, condition: Callable[[], bool]) -> None:
    # A row may be replaced while it is read.
    wait = WebDriverWait(browser, TIMEOUT, 0.05, [StaleElementReferenceException])
    wait.until(lambda _: condition())


def script(browser: Chrome, text: str) -> Any:
    return browser.execute_script(text)


def test_the_counters_move_while_one_looks(page: Chrome, visitor: httpx.Client) -> None:
    wait_until(page, lambda: text(page, "#status") == "live")
    script(page, "window.marked = true")
    view(visitor, "/pricing")
    wait_until(page, lambda: counts(page) == {"/pricing": "1"})
    field = page.find_element(By.NAME, "path")
    field.clear()
    field.send_keys(ODD)
    count = page.find_element(By.TAG_NAME, "button")
    count.click()
    wait_until(page, lambda: counts(page) == {ODD: "1", "/pricing": "1"})
    count.click()
    wait_until(page, lambda: counts(page) == {ODD: "2", "/pricing": "1"})
    assert not script(page, "return window.run")
    # It is still the same page.
    assert script(page, "return window.marked")
    assert console(page) == []


def test_the_most_viewed_are_shown_and_how_few_batches_it_took(
    page: Chrome, site: Site
) -> None:
    hits = {
        "/": 128,
        "/pricing": 89,
        "/docs": 71,
        "/blog/hello-world": 34,
        "/about": 12,
    }

    async def come_at_once() -> None:
        async with visiting(site) as crowd, asyncio.TaskGroup() as group:
            for path, number in hits.items():
                for _ in range(number):
                    group.create_task(crowd.post(f"/view{path}"))

    use_screen(page, width=720, height=470, scheme="light")
    asyncio.run(come_at_once())
    # What the table and the coalescer say is not of one moment.
    shown = [(path, str(number)) for path, number in hits.items()]
    wait_until(page, lambda: list(counts(page).items()) == shown)
    wait_until(page, lambda: "334 views in" in text(page, "#work"))
    found = re.search(r"334 views in (\d+) batch", text(page, "#work"))
    assert found
    assert int(found[1]) < 334
    if file := os.environ.get(SCREENSHOT):
        # Loaded anew, so that nothing moves.
        page.refresh()
        wait_until(page, lambda: text(page, "#status") == "live" and counts(page) != {})
        page.save_screenshot(file)


def test_the_page_reads_well_on_a_telephone(
    page: Chrome, visitor: httpx.Client
) -> None:
    for path, hits in (("/", 9), (LONG, 5)):
        for _ in range(hits):
            view(visitor, path)
    for scheme in ("light", "dark"):
        use_screen(page, width=390, height=640, scheme=scheme)
        page.refresh()
        wait_until(page, lambda: counts(page) == {"/": "9", LONG: "5"})
        assert script(page, "return innerWidth") == 390
        assert script(page, "return document.documentElement.scrollWidth") == 390
        assert script(page, CONTRAST) >= READABLE


def test_the_page_goes_on_when_the_server_is_back(
    page: Chrome, visitor: httpx.Client, site: Site, lite_path: Path, tmp_path: Path
) -> None:
    view(visitor, "/")
    wait_until(page, lambda: counts(page) == {"/": "1"})
    site.program.stop(signal.SIGTERM)
    wait_until(page, lambda: text(page, "#status") == "reconnecting")
    port = urlsplit(site.url).port
    assert port
    with serving(str(lite_path), tmp_path, port):
        visitor.post("/view/").raise_for_status()
        wait_until(page, lambda: counts(page) == {"/": "2"})
        assert text(page, "#status") == "live"
        page.get("about:blank")

"""The pages as readers see them: built, served, and opened in a browser."""

import functools
import http.server
import subprocess
import sys
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from selenium.webdriver import Chrome

from tests.documentation.pages import PAGES, ROOT, page_name
from tests.examples.browser import browsing, console, use_screen

WIDE: Final = "return document.documentElement.scrollWidth - window.innerWidth"
COLOR: Final = "return getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built pages; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    subprocess.run(  # noqa: S603  # our own command
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        # It tells of other programs otherwise.
        env={"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
    )
    return folder


class Links(HTMLParser):
    """What a page links to, and what can be linked to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: set[str] = set()
        self.names: set[str] = set()
        self.feed(text)

    def handle_starttag(self, _: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.targets |= {given[name] or "" for name in ("href", "src") if name in given}
        self.names |= {given["id"] or ""} if "id" in given else set()


def address(page: Path) -> str:
    return (
        ""
        if page_name(page) == "index.md"
        else f"{page_name(page).removesuffix('.md')}/"
    )


def file_of(site: Path, path: str) -> Path:
    file = site / unquote(path)
    return file / "index.html" if path.endswith("/") or not path else file


@pytest.mark.parametrize("page", PAGES, ids=map(page_name, PAGES))
def test_every_link_leads_somewhere(site: Path, page: Path) -> None:
    here = f"http://site/{address(page)}"
    links = Links(file_of(site, address(page)).read_text("utf-8"))
    for target in links.targets:
        url, name = urldefrag(urljoin(here, target))
        if not url.startswith("http://site/"):
            assert url.startswith(("https://", "data:")), target
            continue
        file = file_of(site, url.removeprefix("http://site/"))
        assert file.is_file(), target
        if name and file.suffix == ".html":
            names = Links(file.read_text("utf-8")).names
            # Two of the theme's own, made by its script.
            assert name in names or name.startswith("__"), target


@pytest.fixture(scope="module")
def served(site: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    with browsing(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.mark.parametrize("page", PAGES, ids=map(page_name, PAGES))
def test_every_page_can_be_read_on_a_phone_by_day_and_by_night(
    served: str, browser: Chrome, page: Path
) -> None:
    colors: list[str] = []
    for scheme in ("light", "dark"):
        use_screen(browser, width=390, height=844, scheme=scheme)
        browser.get(served + address(page))
        # What the theme has chosen before.
        browser.execute_script("localStorage.clear()")
        browser.refresh()
        assert browser.execute_script(WIDE) <= 0
        colors.append(browser.execute_script(COLOR))
        assert console(browser) == []
    day, night = colors
    assert day != night

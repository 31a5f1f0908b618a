"""The pages as readers see them: built, served, and opened in a browser."""

import csv
import functools
import http.server
import inspect
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urldefrag, urljoin

import pytest
from selenium.webdriver import Chrome

import aioupsert
from aioupsert import Expression
from tests.documentation.pages import DOCS, PAGES, blocks, page_name
from tests.examples.browser import browsing, console, use_screen

WIDE: Final = "return document.documentElement.scrollWidth - window.innerWidth"
# What stands beyond the edge of the window, where nothing scrolls it into sight.
CUT: Final = """
const scrolls = e => e && (
    /auto|scroll/.test(getComputedStyle(e).overflowX) || scrolls(e.parentElement)
);
return [...document.querySelectorAll("article *")]
    .filter(e => e.getBoundingClientRect().right > window.innerWidth + 1 && !scrolls(e))
    .map(e => e.outerHTML.slice(0, 200));
"""
SCREENS: Final = ((390, 844), (1280, 800))
DATA: Final = sorted(DOCS.rglob("*.csv"))
COLOR: Final = "return getComputedStyle(document.body).backgroundColor"


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
    folder = page_name(page).removesuffix(".md").removesuffix("index")
    return f"{folder.removesuffix('/')}/".removeprefix("/")


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

    # A browser asks for it, where a page names no other.
    (site / "favicon.ico").touch()
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
def test_nothing_is_cut_on_any_screen(served: str, browser: Chrome, page: Path) -> None:
    browser.get(served + address(page))
    for width, height in SCREENS:
        use_screen(browser, width=width, height=height, scheme="light")
        assert browser.execute_script(WIDE) <= 0
        assert browser.execute_script(CUT) == []
    assert console(browser) == []


# With code, with pictures, and generated.
@pytest.mark.parametrize(
    "page", ["index.md", "evidence/performance.md", "reference/api.md"]
)
def test_pages_are_light_by_day_and_dark_by_night(
    served: str, browser: Chrome, page: str
) -> None:
    colors: list[str] = []
    for scheme in ("light", "dark"):
        use_screen(browser, width=390, height=844, scheme=scheme)
        # From where no theme remembers what it has chosen before.
        browser.get(served + "llms.txt")
        browser.execute_script("localStorage.clear()")
        browser.get(served + address(DOCS / page))
        colors.append(browser.execute_script(COLOR))
        assert console(browser) == []
    day, night = colors
    assert day != night


def test_the_pages_for_machines_are_whole(site: Path) -> None:
    listed = re.findall(r"\]\((.+?)\)", (site / "llms.txt").read_text("utf-8"))
    assert sorted(listed) == [page_name(page) for page in PAGES]
    texts = {name: (site / name).read_text("utf-8") for name in listed}
    for page in PAGES:
        # Each block of code, in the order of the page.
        text = "".join(texts[page_name(page)].split())
        for block in blocks(page):
            _, found, text = text.partition("".join(block.text.split()))
            assert found, block.text
    # No box or tab is left that only the site can show.
    assert not re.search(
        r"^ *(===|\?\?\?|:::) ", "\n".join(texts.values()), re.MULTILINE
    )


@pytest.mark.parametrize("file", DATA, ids=map(page_name, DATA))
def test_every_row_of_data_is_shown(site: Path, file: Path) -> None:
    link = re.compile(rf"[(/]{re.escape(file.name)}\)")
    (page,) = (page for page in PAGES if link.search(page.read_text("utf-8")))
    shown = (site / page_name(page)).read_text("utf-8").splitlines()
    tables = {filled(line.strip("|").split("|")) for line in shown}
    with file.open(encoding="utf-8", newline="") as opened:
        rows = [*csv.reader(opened)][1:]
    assert rows
    # The first two columns of sections are their headings.
    assert [r for r in rows if not {filled(r), filled(r[2:])} & tables] == []


def filled(cells: list[str]) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in cells if cell.strip())


@pytest.mark.parametrize("name", aioupsert.__all__)
def test_machines_find_each_public_name_and_an_example(site: Path, name: str) -> None:
    public = getattr(aioupsert, name)
    described = (site / "reference" / "api.md").read_text("utf-8")
    heading = rf"^### `{name}\b.*`\n\n(.+)"
    described_as = re.search(heading, described, re.MULTILINE)
    assert described_as
    assert described_as[1].strip()
    # Of errors, results and events one sees objects, whose class need not be named.
    if inspect.isfunction(public) or isinstance(public, Expression):
        assert any(
            re.search(rf"\b{name}\b", block.text)
            for page in PAGES
            for block in blocks(page)
            if block.language == "python"
        )

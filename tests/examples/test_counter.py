"""The counter and the time zones, as README's first command runs them."""

import re
from pathlib import Path

import pytest

from tests.examples.programs import ROOT, command_in, output

COUNTER = command_in(ROOT / "README.md", "counter.py")
PAGES = ["/", "/about", "/docs", "/pricing", "/sign-up"]


@pytest.fixture
def printed(tmp_path: Path) -> str:
    printed = output(COUNTER, TMPDIR=str(tmp_path))
    assert list(tmp_path.iterdir()) == []
    return printed


def test_one_task_creates_each_row_and_every_view_is_counted(printed: str) -> None:
    first, second, *_ = printed.split("\n\n")
    assert first.startswith("200 tasks count page views at once, 40 on each page")
    created = re.findall(
        r"^  (\S+) +created by task (\d+) +40 views$", first, re.MULTILINE
    )
    assert [page for page, _ in created] == PAGES
    # Every fifth task views the same page.
    assert [int(task) % 5 for _, task in created] == list(range(5))
    existing = re.findall(r"^  (\S+) +existed already +80 views$", second, re.MULTILINE)
    assert existing == PAGES


def test_the_newer_time_zones_are_loaded_over_the_older_ones(printed: str) -> None:
    *_, loads, changed = printed.split("\n\n")
    assert "  2020a: created 348, updated 0, unchanged 0\n" in loads
    assert loads.endswith("  2026f: created 4, updated 64, unchanged 244")
    assert (
        "  Europe/Berlin\n"
        "    old: countries DE, comment 'Germany (most areas)'\n"
        "    new: countries DE,DK,NO,SE,SJ, comment 'most of Germany'\n"
    ) in changed
    zones = re.findall(
        r"^  (\S+)\n    old: (.+)\n    new: (.+)$", changed, re.MULTILINE
    )
    assert len(zones) == 3
    assert all(old != new for _, old, new in zones)

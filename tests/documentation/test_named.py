"""Every test that a page names is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_test_that_is_named_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    for file, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", text):
        code = (ROOT / file).read_text("utf-8")
        assert name == "" or f"def {name}(" in code, f"{file}::{name}"
